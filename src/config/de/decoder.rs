//! The serde `Deserializer` over one node.

use serde::de::{Deserializer, Error as _, Unexpected, Visitor};

use super::access::{EntryAccess, ListAccess, MapEntries, SpannedParts, WordAccess};
use super::fault::{Edge, Fault, Place, What};
use super::{Cx, NODE};
use crate::config::span::{SPANNED, Span};
use crate::config::suggest::listed;
use crate::config::tree::{Form, Kind, NodeId, Scalar, parse_bool, parse_float, parse_int};

/// Decodes one node.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'a, 't> {
    pub(super) cx: &'a Cx<'t>,
    pub(super) node: NodeId,
    pub(super) edge: Option<Edge>,
    /// The nearest key above.
    pub(super) key: &'t str,
}

impl<'a, 't> Decoder<'a, 't> {
    fn kind(&self) -> &'t Kind {
        &self.cx.tree.node(self.node).kind
    }

    fn span(&self) -> Span {
        self.cx.tree.place(self.node)
    }

    pub(super) fn place(&self) -> Place {
        Place { node: self.node, edge: self.edge, span: self.span(), key: self.key.to_owned() }
    }

    /// Gives a fault this node as its place, unless it has one further inside.
    fn placed<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(|| self.place()))
    }

    /// The scalar's text, whatever its form, for a key whose values are text.
    fn text<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.kind() {
            Kind::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
            _ => Err(Fault::invalid_type(Unexpected::Unit, &visitor)),
        };
        self.placed(result)
    }

    /// A scalar that may be a number or a bool: a plain one, or an expanded one.
    fn unquoted<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        match self.kind() {
            Kind::Scalar(Scalar { form: Form::Text, .. }) => None,
            Kind::Scalar(scalar) => parse(&scalar.text),
            _ => None,
        }
    }

    fn map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let mut entries = MapEntries::new(self);
        let value = self.placed(visitor.visit_map(&mut entries))?;
        match entries.left_over() {
            None => Ok(value),
            Some(entry) => {
                let first = self.cx.tree.entries(self.node).first().map_or("", |entry| entry.key.as_str());
                let message = format!("`{}` beside `{first}`: only one key can stand here", entry.key);
                Err(Fault::new(What::Said(message)).at(|| Place { span: entry.key_span, ..self.place() }))
            }
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
            let Some(number) = self.unquoted(parse_int) else {
                return self.placed(Err(Fault::kind("a whole number")));
            };
            self.placed(match <$type>::try_from(number) {
                Ok(number) => visitor.$visit(number),
                Err(_) if number < 0 => Err(Fault::custom(format!("{number} is too small: at least {}", <$type>::MIN))),
                Err(_) => Err(Fault::custom(format!("the number is too large: at most {}", <$type>::MAX))),
            })
        }
    )*};
}

impl<'t> Deserializer<'t> for Decoder<'_, 't> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = match self.kind() {
            Kind::Null => return self.placed(visitor.visit_unit()),
            Kind::List(_) => return self.placed(visitor.visit_seq(ListAccess::new(self))),
            Kind::Map(_) => return self.map(visitor),
            Kind::Scalar(scalar) => scalar,
        };
        let text = scalar.text.as_str();
        self.placed(match scalar.form {
            Form::Bool if let Some(value) = parse_bool(text) => visitor.visit_bool(value),
            Form::Int if let Some(number) = parse_int(text) => match (u64::try_from(number), i64::try_from(number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => Err(Fault::custom("the number is too large")),
            },
            Form::Float if let Some(number) = parse_float(text) => visitor.visit_f64(number),
            _ => visitor.visit_borrowed_str(text),
        })
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.placed(match self.unquoted(parse_bool) {
            Some(value) => visitor.visit_bool(value),
            None => Err(Fault::kind("`true` or `false`")),
        })
    }

    integers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
    }

    fn deserialize_f32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.placed(match self.unquoted(parse_float) {
            Some(number) => visitor.visit_f64(number),
            None => Err(Fault::kind("a number")),
        })
    }

    fn deserialize_char<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_bytes<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Null => self.placed(visitor.visit_none()),
            _ => self.placed(visitor.visit_some(self)),
        }
    }

    fn deserialize_unit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.placed(match self.kind() {
            Kind::Null => visitor.visit_unit(),
            Kind::Map(map) if map.entries.is_empty() => visitor.visit_unit(),
            _ => Err(Fault::kind("nothing")),
        })
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.placed(match name {
            SPANNED => visitor.visit_seq(SpannedParts::new(self.span(), self)),
            NODE => visitor.visit_u32(self.node.0),
            _ => visitor.visit_newtype_struct(self),
        })
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.placed(match self.kind() {
            Kind::List(_) => visitor.visit_seq(ListAccess::new(self)),
            _ => Err(Fault::kind("a list")),
        })
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Map(_) => self.map(visitor),
            _ => self.placed(Err(Fault::kind("a map"))),
        }
    }

    /// A scalar goes to the visitor's `visit_str`, so that a hand-written `Deserialize` can take a short form beside the map;
    /// derived ones refuse it.
    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Map(_) => {
                self.cx.leave_out_unknown_keys(self.node, name, fields);
                self.map(visitor)
            }
            Kind::Scalar(_) => self.text(visitor).map_err(|fault| fault.with_keys(fields)),
            Kind::Null | Kind::List(_) => {
                let fault: Fault = Fault::invalid_type(Unexpected::Map, &visitor);
                self.placed(Err(fault.with_keys(fields)))
            }
        }
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let one_of = || {
            Fault::kind(match variants {
                [only] => format!("`{only}`"),
                many => format!("one of {}", listed(many)),
            })
        };
        let result = match self.kind() {
            Kind::Scalar(scalar) => visitor.visit_enum(WordAccess { text: &scalar.text }),
            Kind::Map(map) => match map.entries.as_slice() {
                [entry] => {
                    let edge = Edge { parent: self.node, index: 0 };
                    if self.cx.skips(edge, entry.value) {
                        return self.placed(Err(Fault::new(What::Known)));
                    }
                    let value = Decoder { cx: self.cx, node: entry.value, edge: Some(edge), key: &entry.key };
                    visitor.visit_enum(EntryAccess { entry, map: self, value })
                }
                _ => Err(one_of()),
            },
            _ => Err(one_of()),
        };
        self.placed(result)
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
}
