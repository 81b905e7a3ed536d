//! How serde walks over the entries of lists, maps and enums.

use serde::de::value::U32Deserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::Cx;
use super::decoder::Decoder;
use super::fault::{Edge, Fault, Place, What};
use crate::config::Span;
use crate::config::span::SPANNED;
use crate::config::tree::{Entry, Kind, NodeId};

pub(super) struct ListAccess<'a, 't> {
    cx: &'a Cx<'t>,
    list: NodeId,
    key: &'t str,
    next: usize,
}

impl<'a, 't> ListAccess<'a, 't> {
    pub(super) fn new(decoder: Decoder<'a, 't>) -> Self {
        Self { cx: decoder.cx, list: decoder.node, key: decoder.key, next: 0 }
    }
}

impl<'t> SeqAccess<'t> for ListAccess<'_, 't> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        while let Some(element) = self.cx.tree.elements(self.list).get(self.next) {
            let edge = Edge { parent: self.list, index: self.next };
            self.next += 1;
            if self.cx.skips(edge, *element) {
                continue;
            }
            let decoder = Decoder { cx: self.cx, node: *element, edge: Some(edge), key: self.key };
            return seed.deserialize(decoder).map(Some).map_err(|fault| fault.at(|| decoder.place()));
        }
        Ok(None)
    }
}

pub(super) struct MapEntries<'a, 't> {
    cx: &'a Cx<'t>,
    map: NodeId,
    /// The nearest key above the map.
    key: &'t str,
    next: usize,
    value: Option<Decoder<'a, 't>>,
}

impl<'a, 't> MapEntries<'a, 't> {
    pub(super) fn new(decoder: Decoder<'a, 't>) -> Self {
        Self { cx: decoder.cx, map: decoder.node, key: decoder.key, next: 0, value: None }
    }

    /// The first entry that was never asked for.
    pub(super) fn left_over(mut self) -> Option<&'t Entry> {
        self.advance().map(|(entry, _)| entry)
    }

    fn advance(&mut self) -> Option<(&'t Entry, Edge)> {
        let entries = self.cx.tree.entries(self.map);
        while let Some(entry) = entries.get(self.next) {
            let edge = Edge { parent: self.map, index: self.next };
            self.next += 1;
            if !self.cx.skips(edge, entry.value) {
                return Some((entry, edge));
            }
        }
        None
    }
}

impl<'t> MapAccess<'t> for &mut MapEntries<'_, 't> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((entry, edge)) = self.advance() else { return Ok(None) };
        self.value = Some(Decoder { cx: self.cx, node: entry.value, edge: Some(edge), key: &entry.key });
        // A bad key takes its entry with it.
        let place = || Place { node: self.map, edge: Some(edge), span: entry.key_span, key: self.key.to_owned() };
        seed.deserialize(KeyDecoder { text: &entry.key, span: entry.key_span }).map(Some).map_err(|fault| fault.at(place))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some(decoder) = self.value.take() else {
            return Err(Fault::new(What::Said("a value was asked for before its key".to_owned())));
        };
        seed.deserialize(decoder).map_err(|fault| fault.at(|| decoder.place()))
    }
}

/// A key: always text, and typed by what it is decoded to.
#[derive(Clone, Copy)]
struct KeyDecoder<'t> {
    text: &'t str,
    span: Span,
}

macro_rules! parsed_keys {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.text.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Fault::new(What::Said(format!("`{}` is no key here: expected a whole number", self.text)))),
            }
        }
    )*};
}

impl<'t> Deserializer<'t> for KeyDecoder<'t> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name == SPANNED {
            return visitor.visit_seq(SpannedParts::new(self.span, self));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(WordAccess { text: self.text })
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    parsed_keys! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
    }

    forward_to_deserialize_any! {
        <V: Visitor<'t>>
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

/// The parts of a [`Spanned`](crate::config::Spanned): its place, then its value.
pub(super) struct SpannedParts<D> {
    span: Span,
    value: Option<D>,
    next: u8,
}

impl<D> SpannedParts<D> {
    pub(super) fn new(span: Span, value: D) -> Self {
        Self { span, value: Some(value), next: 0 }
    }
}

impl<'t, D: Deserializer<'t, Error = Fault>> SeqAccess<'t> for SpannedParts<D> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.next += 1;
        let number = |n: u32| -> U32Deserializer<Fault> { n.into_deserializer() };
        match self.next {
            1 => seed.deserialize(number(u32::from(self.span.file))).map(Some),
            2 => seed.deserialize(number(self.span.start)).map(Some),
            3 => seed.deserialize(number(self.span.end)).map(Some),
            _ => self.value.take().map(|value| seed.deserialize(value)).transpose(),
        }
    }
}

/// A variant that is given as a word.
pub(super) struct WordAccess<'t> {
    pub(super) text: &'t str,
}

impl<'t> EnumAccess<'t> for WordAccess<'t> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let name: serde::de::value::BorrowedStrDeserializer<'t, Fault> =
            serde::de::value::BorrowedStrDeserializer::new(self.text);
        Ok((seed.deserialize(name)?, self))
    }
}

impl WordAccess<'_> {
    fn needs_settings<T>(&self) -> Result<T, Fault> {
        Err(Fault::new(What::Said(format!("`{0}` needs settings: write it as {{{0}: …}}", self.text))))
    }
}

impl<'t> VariantAccess<'t> for WordAccess<'t> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, _: S) -> Result<S::Value, Fault> {
        self.needs_settings()
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        self.needs_settings()
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        self.needs_settings()
    }
}

/// A variant that is given as a map of one entry.
pub(super) struct EntryAccess<'a, 't> {
    pub(super) entry: &'t Entry,
    pub(super) map: Decoder<'a, 't>,
    pub(super) value: Decoder<'a, 't>,
}

impl<'a, 't> EnumAccess<'t> for EntryAccess<'a, 't> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let place = || Place { span: self.entry.key_span, ..self.map.place() };
        let key = KeyDecoder { text: &self.entry.key, span: self.entry.key_span };
        match seed.deserialize(key) {
            Ok(name) => Ok((name, self)),
            Err(fault) => Err(fault.at(place)),
        }
    }
}

impl<'t> VariantAccess<'t> for EntryAccess<'_, 't> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.value.cx.tree.node(self.value.node).kind {
            Kind::Null => Ok(()),
            _ => Err(Fault::new(What::Said(format!("`{}` takes no settings: write the word alone", self.entry.key)))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(self.value).map_err(|fault| fault.at(|| self.value.place()))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.value.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'t>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.value.deserialize_struct("", fields, visitor)
    }
}
