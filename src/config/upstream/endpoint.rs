//! One endpoint of an upstream, as the file has it.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::types::Address;

/// One endpoint: `10.0.0.1:8080`, `name:8080`, `unix:/path`, or a map with `address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Its share of requests relative to the others; 0 takes it out of rotation.
    pub weight: u32,
    /// Used only while no other is healthy.
    pub backup: bool,
}

/// The long form of an [`Endpoint`].
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Endpoint", deny_unknown_fields)]
struct EndpointMap {
    /// `10.0.0.1:8080`, `name:8080` or `unix:/path`.
    address: Address,
    /// Its share of requests relative to the others; 0 takes it out of rotation.
    #[serde(default = "one")]
    weight: u32,
    /// Used only while no other is healthy.
    #[serde(default)]
    backup: bool,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for Endpoint {
    /// As a struct, so that the deserialiser of configuration files knows the keys; it hands over text as well.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Endpoint", &["address", "weight", "backup"], EndpointVisitor)
    }
}

struct EndpointVisitor;

impl<'de> Visitor<'de> for EndpointVisitor {
    type Value = Endpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a map with `address` and `weight`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Endpoint, E> {
        let address = text.parse().map_err(E::custom)?;
        Ok(Endpoint { address, weight: one(), backup: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
        let EndpointMap { address, weight, backup } = EndpointMap::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Endpoint { address, weight, backup })
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (address, map) = (generator.subschema_for::<Address>(), EndpointMap::json_schema(generator));
        json_schema!({ "description": "One server.", "anyOf": [address, map] })
    }
}
