//! Values that are a word in the simple case and a map where settings are needed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{self, MapAccessDeserializer, MapDeserializer};
use serde::de::{Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor};

/// A word, or a map. Unlike serde's `untagged`, it keeps the places of values and gives one clear error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WordOr<W, M> {
    /// A word.
    Word(W),
    /// A map.
    Map(M),
}

impl<W: Default, M> Default for WordOr<W, M> {
    fn default() -> Self {
        Self::Word(W::default())
    }
}

impl<'de, W: Deserialize<'de>, M: Deserialize<'de>> Deserialize<'de> for WordOr<W, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<W, M>(PhantomData<(W, M)>);
        impl<'de, W: Deserialize<'de>, M: Deserialize<'de>> Visitor<'de> for Either<W, M> {
            type Value = WordOr<W, M>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a map")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                W::deserialize(text.into_deserializer()).map(WordOr::Word).map_err(|error| {
                    // One of the map's, alone.
                    let nothing = BTreeMap::<&str, &str>::new();
                    let alone = MapDeserializer::<_, value::Error>::new(std::iter::once((text, nothing)));
                    match M::deserialize(MapAccessDeserializer::new(alone)) {
                        Ok(_) => E::custom(format!("`{text}` is no word here, but takes settings: write {{{text}: {{}}}}")),
                        Err(_) => error,
                    }
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                M::deserialize(MapAccessDeserializer::new(map)).map(WordOr::Map)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<W: JsonSchema, M: JsonSchema> JsonSchema for WordOr<W, M> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", W::schema_name(), M::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (word, map) = (generator.subschema_for::<W>(), generator.subschema_for::<M>());
        json_schema!({"anyOf": [word, map]})
    }
}
