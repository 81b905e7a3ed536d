//! What each hook sees: thin views over a head, a piece of body, and the request's record.

use std::any::Any;
use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;

use crate::filter::{
    Error, Exchange, Field, Fields, InvalidField, Reply, RequestHead, RequestId, ResponseHead, Scheme, UpstreamRef,
};
use crate::tls::TlsSession;
use crate::types::Template;
use crate::upstream::Endpoint;

macro_rules! exchange_views {
    ($cx:ident) => {
        impl $cx<'_> {
            /// The request's id.
            #[must_use]
            pub fn id(&self) -> RequestId {
                self.exchange.id
            }

            /// The request's record.
            #[must_use]
            pub fn exchange(&self) -> &Exchange {
                self.exchange
            }

            /// Notes a short reason, shown by logs: `over 100/s`.
            pub fn note(&mut self, note: impl Into<Cow<'static, str>>) {
                self.exchange.notes.push(note.into());
            }

            /// What another filter left for others.
            #[must_use]
            pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
                self.exchange.get()
            }

            /// Leaves a value for other filters, one of each type.
            pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
                self.exchange.insert(value);
            }

            /// The text of a template for this request.
            #[must_use]
            pub fn render(&self, template: &Template) -> String {
                let mut text = String::new();
                template.render(self.exchange, &mut text);
                text
            }
        }
    };
}

macro_rules! field_views {
    ($cx:ident) => {
        impl $cx<'_> {
            /// The value of the first field of this name, if it is text.
            #[must_use]
            pub fn header(&self, name: &str) -> Option<&str> {
                self.head.get(name).and_then(|value| std::str::from_utf8(value).ok())
            }

            /// The value of the first field of this name, as it came.
            #[must_use]
            pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
                self.head.get(name)
            }

            /// Calls `visit` with the name and value of each field.
            pub fn each_header(&self, mut visit: impl FnMut(&str, &[u8])) {
                self.head.each(&mut visit);
            }

            /// Puts one field of this name in the place of all.
            ///
            /// # Errors
            /// HTTP does not allow the name or value.
            pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), InvalidField> {
                self.head.set(name, value.as_ref())
            }

            /// Adds a field beside those of this name.
            ///
            /// # Errors
            /// HTTP does not allow the name or value.
            pub fn add_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), InvalidField> {
                self.head.add(name, value.as_ref())
            }

            /// [`Self::set_header`] with a field that is always the same: it was read when the filter was built, and costs less.
            pub fn set_field(&mut self, field: &Field) {
                self.head.set_field(field);
            }

            /// [`Self::add_header`] with a field that is always the same.
            pub fn add_field(&mut self, field: &Field) {
                self.head.add_field(field);
            }

            /// Takes away all fields of this name; says whether there was one.
            pub fn remove_header(&mut self, name: &str) -> bool {
                self.head.remove(name)
            }
        }
    };
}

/// What `request` sees.
pub struct RequestCx<'a> {
    head: &'a mut dyn RequestHead,
    exchange: &'a mut Exchange,
    /// The filter has said that it asks for it.
    session: bool,
}

exchange_views!(RequestCx);
field_views!(RequestCx);

impl<'a> RequestCx<'a> {
    pub(crate) fn new(head: &'a mut dyn RequestHead, exchange: &'a mut Exchange) -> Self {
        Self { head, exchange, session: false }
    }

    pub(crate) fn with_session(self, session: bool) -> Self {
        Self { session, ..self }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.head.method()
    }

    /// The path as it stands now, in normal form unless a filter changed it.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// The query, without the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.head.query()
    }

    /// The host that the request was matched by: lower-case, without port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.exchange.target.host()
    }

    /// The client's IP address; `None` over a unix socket.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.exchange.client.ip()
    }

    /// How the client speaks to us.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.exchange.scheme
    }

    /// What TLS with the client has agreed on, its certificate included; `None` in the clear.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsSession> {
        self.exchange.tls.as_deref()
    }

    /// The name of the route that matched.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.exchange.route.as_deref()
    }

    /// Puts another path and query in place, for the upstream. The route is not chosen anew.
    ///
    /// # Errors
    /// They don't make a request target.
    pub fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        self.head.set_target(path, query)
    }

    /// Puts another host in place, for the upstream. The route is not chosen anew.
    ///
    /// # Errors
    /// It is no authority.
    pub fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        self.head.set_host(host)
    }

    /// Sends the request to this upstream in place of the route's own.
    pub fn use_upstream(&mut self, upstream: &UpstreamRef) {
        self.exchange.upstream = Some(upstream.upstream());
    }

    /// Reads the whole body, up to `max` bytes and at most 64 KiB, and keeps it for the upstream.
    ///
    /// # Errors
    /// 413 if the body is larger, 400 or 408 if the client does not send it.
    pub async fn buffer_body(&mut self, max: usize) -> Result<Bytes, Error> {
        self.head.buffer_body(max).await
    }

    /// Pingora's session: the escape hatch, for filters whose hooks hold [`Hooks::SESSION`](crate::filter::Hooks::SESSION). `None`
    /// otherwise, in tests and in explain.
    pub fn session(&mut self) -> Option<&mut pingora_proxy::Session> {
        if self.session { self.head.session() } else { None }
    }

    /// The request as [`Filter::explain`](crate::filter::Filter::explain) sees it.
    #[must_use]
    pub fn view(&self) -> RequestView<'_> {
        RequestView { head: self.head, exchange: self.exchange }
    }
}

/// A request to look at, not to change.
pub struct RequestView<'a> {
    head: &'a dyn RequestHead,
    exchange: &'a Exchange,
}

impl RequestView<'_> {
    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.head.method()
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// The query, without the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.head.query()
    }

    /// The value of the first field of this name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The request's record.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        self.exchange
    }
}

/// What `upstream_request` sees: the copy that is sent on this attempt.
pub struct UpstreamCx<'a> {
    head: &'a mut dyn RequestHead,
    exchange: &'a mut Exchange,
}

exchange_views!(UpstreamCx);
field_views!(UpstreamCx);

impl<'a> UpstreamCx<'a> {
    pub(crate) fn new(head: &'a mut dyn RequestHead, exchange: &'a mut Exchange) -> Self {
        Self { head, exchange }
    }

    /// Where this attempt goes. `None` in tests of a single filter.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.exchange.endpoint.as_deref()
    }

    /// 1 for the first attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.exchange.tries
    }

    /// The path that is sent.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.path()
    }

    /// The query that is sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.head.query()
    }

    /// Sends another path and query on this attempt.
    ///
    /// # Errors
    /// They don't make a request target.
    pub fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        self.head.set_target(path, query)
    }

    /// Sends another host on this attempt.
    ///
    /// # Errors
    /// It is no authority.
    pub fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        self.head.set_host(host)
    }
}

/// What `response` sees.
pub struct ResponseCx<'a> {
    head: &'a mut dyn ResponseHead,
    exchange: &'a mut Exchange,
    edits: &'a mut Edits,
}

/// What response hooks ask the proxy to do beside changing the head.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) body_changes: bool,
    pub(crate) replacement: Option<Reply>,
}

exchange_views!(ResponseCx);
field_views!(ResponseCx);

impl<'a> ResponseCx<'a> {
    pub(crate) fn new(head: &'a mut dyn ResponseHead, exchange: &'a mut Exchange, edits: &'a mut Edits) -> Self {
        Self { head, exchange, edits }
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// Puts another status in place.
    ///
    /// # Errors
    /// It is no status code.
    pub fn set_status(&mut self, status: u16) -> Result<(), InvalidField> {
        self.head.set_status(status)
    }

    /// Says that `response_body` will change the body: drops `Content-Length`, `Accept-Ranges` and a strong `ETag`.
    pub fn will_change_body(&mut self) {
        self.edits.body_changes = true;
        for name in ["content-length", "accept-ranges", "content-md5", "digest", "content-digest", "repr-digest"] {
            self.head.remove(name);
        }
        if self.head.get("etag").is_some_and(|tag| !tag.starts_with(b"W/")) {
            self.head.remove("etag");
        }
    }

    /// Puts a whole answer in the place of this one. The filters that are still to come on the way back see the new one.
    pub fn replace(&mut self, reply: Reply) {
        self.edits.replacement = Some(reply);
    }
}

/// What `request_body` and `response_body` see: one piece.
pub struct BodyCx<'a> {
    chunk: &'a mut Option<Bytes>,
    end: bool,
    exchange: &'a mut Exchange,
}

exchange_views!(BodyCx);

impl<'a> BodyCx<'a> {
    pub(crate) fn new(chunk: &'a mut Option<Bytes>, end: bool, exchange: &'a mut Exchange) -> Self {
        Self { chunk, end, exchange }
    }

    /// The piece; may be empty.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        self.chunk.as_deref().unwrap_or_default()
    }

    /// Puts another piece in place; an empty one sends nothing.
    pub fn set_chunk(&mut self, chunk: impl Into<Bytes>) {
        let chunk = chunk.into();
        *self.chunk = if chunk.is_empty() && !self.end { None } else { Some(chunk) };
    }

    /// Whether the body ends here.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.end
    }
}

/// What `response_trailers` sees.
pub struct Trailers<'a> {
    head: &'a mut dyn Fields,
    exchange: &'a mut Exchange,
}

exchange_views!(Trailers);
field_views!(Trailers);

impl<'a> Trailers<'a> {
    pub(crate) fn new(head: &'a mut dyn Fields, exchange: &'a mut Exchange) -> Self {
        Self { head, exchange }
    }
}

/// What `log` sees: the whole record.
pub struct LogCx<'a> {
    exchange: &'a Exchange,
}

impl<'a> LogCx<'a> {
    pub(crate) fn new(exchange: &'a Exchange) -> Self {
        Self { exchange }
    }

    /// The request's record.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        self.exchange
    }

    /// The status that went to the client; `None` if none did.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.exchange.status
    }

    /// What ended the request in error.
    #[must_use]
    pub fn failure(&self) -> Option<&Error> {
        self.exchange.failure.as_ref()
    }
}
