//! Parts of the file that are decoded later, entry by entry.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::config::de::NODE;
use crate::config::tree::NodeId;
use crate::types::Name;

/// A section of named entries, such as `routes`: decoded one by one, so that a broken entry takes no other with it.
pub(crate) struct Section<T> {
    /// `None` if the section is not given.
    pub(crate) node: Option<NodeId>,
    entry: PhantomData<fn() -> T>,
}

impl<T> Default for Section<T> {
    fn default() -> Self {
        Self { node: None, entry: PhantomData }
    }
}

impl<'de, T> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = deserializer.deserialize_newtype_struct(NODE, NodeVisitor)?;
        Ok(Self { node: Some(node), entry: PhantomData })
    }
}

impl<T: JsonSchema> JsonSchema for Section<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("SectionOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (name, entry) = (generator.subschema_for::<Name>(), generator.subschema_for::<T>());
        json_schema!({ "type": ["object", "null"], "propertyNames": name, "additionalProperties": entry })
    }
}

/// An entry of a list of filters, of which only the catalog knows how it is decoded.
pub(crate) struct RawFilter(pub(crate) NodeId);

impl<'de> Deserialize<'de> for RawFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NODE, NodeVisitor).map(Self)
    }
}

impl JsonSchema for RawFilter {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawFilter".into()
    }

    /// What it refers to is made of the catalog; see [`schema`](crate::config::schema).
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "$ref": "#/$defs/FilterEntry" })
    }
}

struct NodeVisitor;

impl Visitor<'_> for NodeVisitor {
    type Value = NodeId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of a configuration file")
    }

    fn visit_u32<E: Error>(self, node: u32) -> Result<NodeId, E> {
        Ok(NodeId(node))
    }
}
