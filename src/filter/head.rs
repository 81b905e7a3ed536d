//! Message heads as filters see them: a small interface that header maps, slice tables and plain lists can offer.
//!
//! No filter and no record downstream of one knows which of them it is looking at. Names are matched without regard to case.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue};

use crate::filter::Error;

/// Header fields of a message.
pub trait Fields: Send + Sync {
    /// The value of the first field of this name.
    fn get(&self, name: &str) -> Option<&[u8]>;
    /// Calls `visit` with the name and value of each field, in order of appearance.
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8]));
    /// Puts one field of this name in the place of all.
    ///
    /// # Errors
    /// The name is no token, or the value holds a byte that RFC 9110 §5.5 forbids.
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField>;
    /// Adds a field beside those of this name.
    ///
    /// # Errors
    /// As [`Fields::set`].
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField>;
    /// Takes away all fields of this name; says whether there was one.
    fn remove(&mut self, name: &str) -> bool;
    /// [`Fields::set`] with a field that has been read before.
    fn set_field(&mut self, field: &Field);
    /// [`Fields::add`] with a field that has been read before.
    fn add_field(&mut self, field: &Field);
}

/// A field that is the same for every message: read once, and put into heads without reading it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    name: HeaderName,
    /// The name as bytes that are shared, not copied.
    text: Bytes,
    value: HeaderValue,
    /// As it stands in a head over HTTP/1.
    line: Box<[u8]>,
}

impl Field {
    /// Reads a name and a value.
    ///
    /// # Errors
    /// As [`Fields::set`].
    pub fn new(name: &str, value: &[u8]) -> Result<Self, InvalidField> {
        let (name, value) = parse_field(name, value)?;
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat().into();
        Ok(Self { text: Bytes::copy_from_slice(name.as_str().as_bytes()), name, value, line })
    }

    /// In lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.value.as_bytes()
    }

    /// As a line of a head, with its end.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    pub(crate) fn text(&self) -> Bytes {
        self.text.clone()
    }

    pub(crate) fn parts(&self) -> (HeaderName, HeaderValue) {
        (self.name.clone(), self.value.clone())
    }
}

/// A request's head.
pub trait RequestHead: Fields {
    /// The method, as sent.
    fn method(&self) -> &str;
    /// The path, without the query.
    fn path(&self) -> &str;
    /// The query, without the `?`.
    fn query(&self) -> Option<&str>;
    /// Puts another path and query in place.
    ///
    /// # Errors
    /// They don't make a request target.
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField>;
    /// Puts another host in place, in whatever form the protocol carries it.
    ///
    /// # Errors
    /// It is no authority.
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField>;
    /// Reads the whole body, keeping it for the upstream.
    fn buffer_body(&mut self, max: usize) -> BoxFuture<'_, Result<Bytes, Error>>;
    /// Pingora's session, on live traffic.
    fn session(&mut self) -> Option<&mut pingora_proxy::Session> {
        None
    }
}

/// A response's head.
pub trait ResponseHead: Fields {
    /// The status code.
    fn status(&self) -> u16;
    /// Puts another status in place.
    ///
    /// # Errors
    /// It is no status code.
    fn set_status(&mut self, status: u16) -> Result<(), InvalidField>;
}

/// A header name, value, target or status that HTTP does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    /// Not a token.
    #[error("`{0}` is no header name")]
    Name(String),
    /// A control character.
    #[error("the value for header `{0}` holds a control character")]
    Value(String),
    /// Not a path and query.
    #[error("`{0}` is no request target")]
    Target(String),
    /// Not an authority.
    #[error("`{0}` is no host")]
    Host(String),
    /// Not a status code.
    #[error("{0} is no status code")]
    Status(u16),
}

/// Checks a name and value as every implementation of [`Fields`] must.
///
/// # Errors
/// As [`Fields::set`].
pub fn parse_field(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), InvalidField> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidField::Name(name.to_owned()))?;
    let value = HeaderValue::from_bytes(value).map_err(|_| InvalidField::Value(name.to_owned()))?;
    Ok((parsed, value))
}

/// Fields in a plain list: replies, tests and explain use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldList(Vec<(HeaderName, HeaderValue)>);

impl FieldList {
    /// The fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Fields for FieldList {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n.as_str().eq_ignore_ascii_case(name)).map(|(_, v)| v.as_bytes())
    }

    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in &self.0 {
            visit(name.as_str(), value.as_bytes());
        }
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        let field = parse_field(name, value)?;
        self.remove(name);
        self.0.push(field);
        Ok(())
    }

    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.0.push(parse_field(name, value)?);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(n, _)| !n.as_str().eq_ignore_ascii_case(name));
        self.0.len() != before
    }

    fn set_field(&mut self, field: &Field) {
        self.remove(field.name());
        self.0.push(field.parts());
    }

    fn add_field(&mut self, field: &Field) {
        self.0.push(field.parts());
    }
}

/// A request that stands on its own: what tests send through a filter.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    path: String,
    query: Option<String>,
    fields: FieldList,
    body: Bytes,
}

impl Request {
    /// A request for `target`, a path with an optional query, with `Host: localhost`.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let host = (HeaderName::from_static("host"), HeaderValue::from_static("localhost"));
        Self { method: method.to_owned(), path: path.to_owned(), query, fields: FieldList(vec![host]), body: Bytes::new() }
    }

    /// `GET target`.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Adds a header field; one that HTTP does not allow is left out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if name.eq_ignore_ascii_case("host") {
            self.fields.remove(name);
        }
        let _ = self.fields.add(name, value.as_bytes());
        self
    }

    /// Puts a body in place.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The header fields.
    #[must_use]
    pub fn fields(&self) -> &FieldList {
        &self.fields
    }

    /// The body.
    #[must_use]
    pub fn body_bytes(&self) -> &Bytes {
        &self.body
    }
}

impl Fields for Request {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.fields.each(visit);
    }
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.fields.set(name, value)
    }
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.fields.add(name, value)
    }
    fn remove(&mut self, name: &str) -> bool {
        self.fields.remove(name)
    }
    fn set_field(&mut self, field: &Field) {
        self.fields.set_field(field);
    }
    fn add_field(&mut self, field: &Field) {
        self.fields.add_field(field);
    }
}

impl RequestHead for Request {
    fn method(&self) -> &str {
        &self.method
    }
    fn path(&self) -> &str {
        &self.path
    }
    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        parse_target(path, query)?;
        self.path = path.to_owned();
        self.query = query.map(str::to_owned);
        Ok(())
    }
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        self.set("host", host.as_bytes())
    }
    fn buffer_body(&mut self, max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        let body = if self.body.len() > max { Err(Error::body_too_large(max)) } else { Ok(self.body.clone()) };
        Box::pin(std::future::ready(body))
    }
}

/// Checks a path and query as every [`RequestHead::set_target`] must.
///
/// # Errors
/// They don't make an origin-form target (RFC 9112 §3.2.1).
pub fn parse_target(path: &str, query: Option<&str>) -> Result<http::uri::PathAndQuery, InvalidField> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let sound =
        (path == "*" || path.starts_with('/')) && !path.contains(['?', '#']) && text.bytes().all(|b| b.is_ascii_graphic());
    match http::uri::PathAndQuery::from_maybe_shared(Bytes::from(text.clone())) {
        Ok(target) if sound => Ok(target),
        _ => Err(InvalidField::Target(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_every_field_of_the_name_whatever_its_case() {
        let mut fields = FieldList::default();
        fields.add("X-A", b"1").unwrap();
        fields.add("x-b", b"2").unwrap();
        fields.add("x-a", b"3").unwrap();
        fields.set("X-a", b"4").unwrap();
        let mut seen = Vec::new();
        fields.each(&mut |n, v| seen.push((n.to_owned(), v.to_vec())));
        assert_eq!(seen, [("x-b".to_owned(), b"2".to_vec()), ("x-a".to_owned(), b"4".to_vec())]);
    }

    #[test]
    fn control_characters_never_enter_a_head() {
        let mut fields = FieldList::default();
        assert_eq!(fields.set("x", b"a\r\nevil: 1"), Err(InvalidField::Value("x".to_owned())));
        assert_eq!(fields.add("a b", b""), Err(InvalidField::Name("a b".to_owned())));
        let mut request = Request::get("/");
        assert!(request.set_target("/a b", None).is_err());
        assert!(request.set_target("/a", Some("x\ny")).is_err());
        assert!(request.set_target("a", None).is_err());
        assert!(request.set_target("/a?b", None).is_err());
        assert!(request.set_target("/a", Some("b=1")).is_ok());
    }
}
