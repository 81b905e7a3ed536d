//! `match`: what a request must be to take a route.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::config::Spanned;
use crate::config::bounds::not_empty;
use crate::types::{Cidr, HeaderName, HostPattern, Method, PathPattern, PathPatternError, Regex, Token};

/// What a request must be. Conditions of different kinds must all hold; within a list one is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Exact names, `*.example.com` (any depth, not the name itself) or `*`.
    #[serde(deserialize_with = "not_empty")]
    #[schemars(with = "Vec<HostPattern>", length(min = 1))]
    pub hosts: Vec<Spanned<HostPattern>>,
    /// `/x` is exact; `/x/*` matches `/x`, `/x/` and everything below; `{regex: "^/u/[0-9]+$"}` is searched for.
    #[serde(deserialize_with = "not_empty")]
    #[schemars(with = "Vec<PathMatch>", length(min = 1))]
    pub paths: Vec<Spanned<PathMatch>>,
    /// Request methods.
    #[serde(deserialize_with = "not_empty")]
    #[schemars(with = "Vec<Method>", length(min = 1))]
    pub methods: Vec<Spanned<Method>>,
    /// Header fields, all of which must be as said.
    pub headers: Conditions<HeaderName>,
    /// Parameters of the query, likewise. Names and values are compared decoded.
    pub query: Conditions<String>,
    /// Cookies, likewise.
    pub cookies: Conditions<Token>,
    /// Networks, or single addresses, of which the client's must be in one.
    #[serde(deserialize_with = "not_empty")]
    #[schemars(with = "Vec<Cidr>", length(min = 1))]
    pub client_ips: Vec<Spanned<Cidr>>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// `/x`, or `/x/*`.
    Pattern {
        /// Over paths in normal form.
        pattern: PathPattern,
        /// The same over paths whose `//` is kept, where that is another and it is not settled yet which one is meant.
        unmerged: Option<PathPattern>,
    },
    /// Found anywhere in the path in normal form.
    Regex(Regex),
}

/// A condition on one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is exactly this.
    Exact(String),
    /// There is one, or there is none.
    Present(bool),
    /// This is found anywhere in it.
    Regex(Regex),
}

/// Conditions by name, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions<K>(pub Vec<(Spanned<K>, Spanned<ValueMatch>)>);

impl PathMatch {
    /// Whether a path matches that is in the form for which this is.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Pattern { pattern, .. } => pattern.matches(path),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }

    /// The condition over paths in the form that a route is about.
    pub(crate) fn over(self, merge_slashes: bool) -> Self {
        match self {
            Self::Pattern { unmerged: Some(pattern), .. } if !merge_slashes => Self::Pattern { pattern, unmerged: None },
            Self::Pattern { pattern, .. } => Self::Pattern { pattern, unmerged: None },
            regex @ Self::Regex(_) => regex,
        }
    }
}

impl std::str::FromStr for PathMatch {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        let unmerged = if text.contains("//") { Some(PathPattern::unmerged(text)?) } else { None };
        Ok(Self::Pattern { pattern: text.parse()?, unmerged })
    }
}

/// As it is written in the file.
impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern { pattern, .. } => pattern.fmt(f),
            Self::Regex(regex) => write!(f, "{{regex: {regex}}}"),
        }
    }
}

/// As it is written in the file.
impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => f.write_str(value),
            Self::Present(present) => write!(f, "{{present: {present}}}"),
            Self::Regex(regex) => write!(f, "{{regex: {regex}}}"),
        }
    }
}

impl<K> Default for Conditions<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de> Deserialize<'de> for PathMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = PathMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path: /x is exact, /x/* is /x and everything below; or {regex: …}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<PathMatch, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PathMatch, A::Error> {
                match map.next_entry::<String, Regex>()? {
                    Some((_, regex)) => Ok(PathMatch::Regex(regex)),
                    None => Err(A::Error::custom("`regex` is missing here: write a path, or {regex: …}")),
                }
            }
        }
        deserializer.deserialize_struct("PathMatch", &["regex"], Form)
    }
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = ValueMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, {present: true}, {present: false} or {regex: …}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Exact(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueMatch, A::Error> {
                match map.next_key::<String>()?.as_deref() {
                    Some("present") => map.next_value().map(ValueMatch::Present),
                    Some(_) => map.next_value().map(ValueMatch::Regex),
                    None => Err(A::Error::custom("write a value, {present: true}, {present: false} or {regex: …}")),
                }
            }
        }
        deserializer.deserialize_struct("ValueMatch", &["present", "regex"], Form)
    }
}

impl<'de, K: Deserialize<'de> + Clone + Eq + Hash + fmt::Display> Deserialize<'de> for Conditions<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<K>(PhantomData<K>);
        impl<'de, K: Deserialize<'de> + Clone + Eq + Hash + fmt::Display> Visitor<'de> for Names<K> {
            type Value = Conditions<K>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names and what their values must be")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Conditions<K>, A::Error> {
                let mut conditions = Vec::new();
                let mut seen = HashSet::new();
                while let Some((name, value)) = map.next_entry::<Spanned<K>, Spanned<ValueMatch>>()? {
                    if !seen.insert(name.value.clone()) {
                        return Err(A::Error::custom(format!("`{name}` is given twice: names of header fields ignore case")));
                    }
                    conditions.push((name, value));
                }
                if conditions.is_empty() {
                    return Err(A::Error::custom("an empty map asks for nothing: leave the key out"));
                }
                Ok(Conditions(conditions))
            }
        }
        deserializer.deserialize_map(Names(PhantomData))
    }
}

impl JsonSchema for PathMatch {
    fn schema_name() -> Cow<'static, str> {
        "PathMatch".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (pattern, regex) = (generator.subschema_for::<PathPattern>(), generator.subschema_for::<Regex>());
        let map = json_schema!({
            "type": "object", "properties": { "regex": regex }, "required": ["regex"], "additionalProperties": false
        });
        json_schema!({ "anyOf": [pattern, map] })
    }
}

impl JsonSchema for ValueMatch {
    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let regex = generator.subschema_for::<Regex>();
        json_schema!({
            "description": "The value exactly, or a condition on it.",
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                {
                    "type": "object",
                    "properties": { "present": { "type": "boolean" }, "regex": regex },
                    "minProperties": 1, "maxProperties": 1, "additionalProperties": false
                }
            ]
        })
    }
}

impl<K: JsonSchema> JsonSchema for Conditions<K> {
    fn schema_name() -> Cow<'static, str> {
        format!("ConditionsBy{}", K::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (name, value) = (generator.subschema_for::<K>(), generator.subschema_for::<ValueMatch>());
        json_schema!({ "type": "object", "minProperties": 1, "propertyNames": name, "additionalProperties": value })
    }
}
