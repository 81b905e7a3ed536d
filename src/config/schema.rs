//! The JSON Schema of the file, from the types that read it.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::config::file::File;
use crate::config::{Catalog, pingora};
use crate::types::Name;

/// The JSON Schema (2020-12) of a configuration file, with the filters of this catalog.
pub fn schema(catalog: &dyn Catalog) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let filters = filter_entry(catalog, &mut generator);
    let mut root = File::json_schema(&mut generator).to_value();
    let mut definitions = generator.take_definitions(true);
    definitions.insert("FilterEntry".to_owned(), filters);
    if let Some(root) = root.as_object_mut() {
        let properties = root.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.extend(pingora::properties());
        }
        root.insert("$defs".to_owned(), Value::Object(definitions));
        root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".to_owned(), json!("Configuration of Ravelin"));
    }
    allow_variables(&mut root);
    root
}

/// An entry of a list of filters: `use`, or exactly one filter of the catalog and perhaps an `id`.
fn filter_entry(catalog: &dyn Catalog, generator: &mut SchemaGenerator) -> Value {
    let name = generator.subschema_for::<Name>().to_value();
    let entry = |key: &str, value: Value, id: Option<&Value>| {
        let mut properties = Map::from_iter([(key.to_owned(), value)]);
        properties.extend(id.map(|id| ("id".to_owned(), id.clone())));
        json!({ "type": "object", "properties": properties, "required": [key], "additionalProperties": false })
    };
    let mut entries = vec![entry("use", name.clone(), None)];
    for filter in catalog.names() {
        let settings = catalog.schema(filter, generator).map_or(json!(true), schemars::Schema::to_value);
        entries.push(entry(filter, settings, Some(&name)));
    }
    json!({ "description": "One filter with its settings, or `use` and the name of a chain.", "oneOf": entries })
}

/// Wherever a number, a bool or text of a certain form may stand, a text with `${NAME}` in it may stand too.
fn allow_variables(schema: &mut Value) {
    const VARIABLE: &str = r"\$\{";
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(allow_variables),
        Value::Object(keywords) => {
            // Names are keys, and variables are not expanded in those.
            let parts = keywords.iter_mut().filter(|(keyword, _)| *keyword != "propertyNames");
            parts.for_each(|(_, part)| allow_variables(part));
            let types: Vec<Value> = match keywords.get("type") {
                Some(Value::String(single)) => vec![json!(single)],
                Some(Value::Array(types)) => types.clone(),
                _ => return,
            };
            let is = |word: &str| types.iter().any(|of| of == word);
            if (is("integer") || is("number") || is("boolean")) && !is("string") {
                keywords.insert("type".to_owned(), types.into_iter().chain([json!("string")]).collect());
                keywords.insert("pattern".to_owned(), json!(VARIABLE));
            } else if let Some(Value::String(pattern)) = keywords.get_mut("pattern") {
                *pattern = format!("{VARIABLE}|{pattern}");
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use super::*;
    use crate::config::Body;

    struct One;

    #[derive(serde::Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only its schema is wanted")]
    struct Settings {
        status: crate::types::Status,
    }

    impl Catalog for One {
        fn names(&self) -> Vec<&'static str> {
            vec!["one"]
        }

        fn decode(&self, _: &str, body: Body<'_, '_>) -> Option<Box<dyn Any + Send>> {
            body.decode::<Settings>().map(|settings| Box::new(settings) as Box<dyn Any + Send>)
        }

        fn schema(&self, _: &str, generator: &mut SchemaGenerator) -> Option<schemars::Schema> {
            Some(generator.subschema_for::<Settings>())
        }
    }

    fn references(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Array(parts) => parts.iter().for_each(|part| references(part, found)),
            Value::Object(keywords) => {
                found.extend(keywords.get("$ref").and_then(Value::as_str).map(str::to_owned));
                keywords.values().for_each(|part| references(part, found));
            }
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_definition() {
        let schema = schema(&One);
        let mut found = Vec::new();
        references(&schema, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(schema.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn sections_and_pingoras_keys_and_nothing_else() {
        let schema = schema(&One);
        let properties = schema["properties"].as_object().unwrap();
        for key in pingora::keys().into_iter().chain([
            "include",
            "listeners",
            "upstreams",
            "routes",
            "chains",
            "defaults",
            "reload",
            "access_log",
            "admin",
            "overload",
            "hardening",
            "tests",
        ]) {
            assert!(properties.contains_key(key), "{key}");
        }
        assert_eq!(properties.len(), pingora::keys().len() + 13);
        assert_eq!(schema["additionalProperties"], json!(false));
    }

    #[test]
    fn an_entry_has_one_filter() {
        let schema = schema(&One);
        let entries = schema["$defs"]["FilterEntry"]["oneOf"].as_array().unwrap();
        assert_eq!(entries.iter().map(|entry| entry["required"].clone()).collect::<Vec<_>>(), [json!(["use"]), json!(["one"])]);
        assert_eq!(entries[1]["properties"]["one"], json!({ "$ref": "#/$defs/Settings" }));
        assert!(entries[1]["properties"].get("id").is_some() && entries[0]["properties"].get("id").is_none());
    }

    #[test]
    fn a_variable_may_stand_for_a_number() {
        let schema = schema(&One);
        assert_eq!(schema["properties"]["threads"]["type"], json!(["integer", "null", "string"]));
        assert_eq!(schema["properties"]["threads"]["pattern"], json!(r"\$\{"));
        let name = schema["$defs"]["Name"]["pattern"].as_str().unwrap();
        assert!(name.starts_with(r"\$\{|"), "{name}");
    }
}
