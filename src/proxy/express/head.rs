//! A request's head on its way: fields over its bytes, and the target that stands now.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::Authority;

use super::table::{Piece, Table};
use crate::filter::{Error, Field, Fields, InvalidField, RequestHead, parse_target};

/// The end of a request line.
const VERSION: &[u8] = b" HTTP/1.1\r\n";

/// The head of a request.
#[derive(Default)]
pub(super) struct Head {
    pub(super) fields: Table,
    pub(super) method: Piece,
    pub(super) target: Piece,
}

impl Head {
    pub(super) fn copy_to(&self, copy: &mut Self) {
        self.fields.copy_to(&mut copy.fields);
        copy.method = self.method;
        copy.target = self.target;
    }

    /// The same once more, to be framed.
    pub(super) fn clone_fields(&self) -> Self {
        let mut copy = Self::default();
        self.copy_to(&mut copy);
        copy
    }

    fn target(&self) -> &str {
        text(self.target.of(self.fields.text()))
    }

    /// Puts a target in place that is known to be right.
    pub(super) fn send_as(&mut self, path: &str, query: Option<&str>) {
        let mut target = Vec::with_capacity(path.len() + 1 + query.map_or(0, str::len));
        target.extend_from_slice(path.as_bytes());
        if let Some(query) = query {
            target.push(b'?');
            target.extend_from_slice(query.as_bytes());
        }
        self.target = self.fields.keep(&target);
    }

    /// Writes it as it goes to an endpoint, without the empty line.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        let all = self.fields.text();
        let end = self.target.range().end + VERSION.len();
        if self.method.range().start == 0
            && self.target.range().start == self.method.range().end + 1
            && all.get(self.target.range().end..end) == Some(VERSION)
        {
            // As it came.
            return self.fields.write_to(0..end, out);
        }
        out.extend_from_slice(self.method.of(all));
        out.push(b' ');
        out.extend_from_slice(self.target.of(all));
        out.extend_from_slice(VERSION);
        self.fields.write_to(0..0, out);
    }
}

/// Methods and targets are ASCII: whoever has read them has seen to it.
pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl Fields for Head {
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

impl RequestHead for Head {
    fn method(&self) -> &str {
        text(self.method.of(self.fields.text()))
    }

    fn path(&self) -> &str {
        self.target().split_once('?').map_or_else(|| self.target(), |(path, _)| path)
    }

    fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        parse_target(path, query)?;
        self.send_as(path, query);
        Ok(())
    }

    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        host.parse::<Authority>().map_err(|_| InvalidField::Host(host.to_owned()))?;
        self.fields.set("host", host.as_bytes()).map_err(|_| InvalidField::Host(host.to_owned()))
    }

    fn buffer_body(&mut self, _max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(std::future::ready(Err(Error::internal("a body is buffered in the request hook, not in upstream_request"))))
    }
}
