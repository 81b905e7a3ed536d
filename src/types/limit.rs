//! A bound that may be switched off.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, IntoDeserializer, Visitor};

/// A bound, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T>(Option<T>);

impl<T> Limit<T> {
    /// This bound.
    pub const fn at(bound: T) -> Self {
        Self(Some(bound))
    }

    /// No bound.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The bound, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<T>
    where
        T: Copy,
    {
        self.0
    }
}

impl<T> Default for Limit<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(bound) => bound.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bound<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Bound<T> {
            type Value = Limit<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit, or `none`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Limit<T>, E> {
                if text == "none" { Ok(Limit(None)) } else { T::deserialize(text.into_deserializer()).map(Limit::at) }
            }
        }
        deserializer.deserialize_str(Bound(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Limit<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("LimitOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let bound = generator.subschema_for::<T>();
        json_schema!({"anyOf": [bound, {"const": "none", "description": "no limit"}]})
    }
}
