//! An answer that a filter or the proxy gives by itself.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::filter::{Error, Field, FieldList, Fields, InvalidField, ResponseHead};

/// A response's head and body. The body is whole or a stream.
pub struct Reply {
    /// The head.
    pub head: ReplyHead,
    /// The body.
    pub body: Body,
}

/// The head of a [`Reply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyHead {
    status: u16,
    fields: FieldList,
}

/// The body of a [`Reply`].
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece; an error aborts the response visibly.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send + Sync>>),
}

impl Reply {
    /// A response without a body. A status outside 200–599 becomes 500.
    #[must_use]
    pub fn new(status: u16) -> Self {
        let status = if (200..600).contains(&status) { status } else { 500 };
        Self { head: ReplyHead { status, fields: FieldList::default() }, body: Body::Whole(Bytes::new()) }
    }

    /// A response of plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status).typed("text/plain; charset=utf-8", body)
    }

    /// A response of JSON text.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status).typed("application/json", body)
    }

    /// Adds a header field.
    ///
    /// # Errors
    /// HTTP does not allow it.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, InvalidField> {
        self.head.fields.add(name, value.as_bytes())?;
        Ok(self)
    }

    /// Puts a whole body in place.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// Puts a stream in place as the body.
    #[must_use]
    pub fn with_stream(mut self, body: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static) -> Self {
        self.body = Body::Stream(Box::pin(body));
        self
    }

    fn typed(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        // A constant of ours: it can't fail.
        let _ = self.head.fields.set("content-type", content_type.as_bytes());
        self.body = Body::Whole(body.into());
        self
    }
}

impl Body {
    /// All of it, once it has come.
    pub(crate) async fn whole(self) -> Result<Bytes, Error> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::Stream(mut stream) => {
                let mut all = Vec::new();
                while let Some(piece) = stream.next().await {
                    all.extend_from_slice(&piece?);
                }
                Ok(all.into())
            }
        }
    }
}

impl ReplyHead {
    /// The header fields.
    #[must_use]
    pub fn fields(&self) -> &FieldList {
        &self.fields
    }
}

impl Fields for ReplyHead {
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

impl ResponseHead for ReplyHead {
    fn status(&self) -> u16 {
        self.status
    }
    fn set_status(&mut self, status: u16) -> Result<(), InvalidField> {
        if (200..600).contains(&status) {
            self.status = status;
            Ok(())
        } else {
            Err(InvalidField::Status(status))
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = match &self.body {
            Body::Whole(bytes) => format!("{} bytes", bytes.len()),
            Body::Stream(_) => "stream".to_owned(),
        };
        f.debug_struct("Reply").field("head", &self.head).field("body", &body).finish()
    }
}
