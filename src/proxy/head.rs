//! Pingora's header maps behind the head interface of filters.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::HeaderName;
use http::uri::{Authority, PathAndQuery};
use pingora_core::ErrorType;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::filter::{Error, Field, Fields, InvalidField, Party, RequestHead, ResponseHead, parse_field, parse_target};

/// What Pingora keeps of a body to send it again: no more can be buffered.
const BUFFER_MAX: usize = 64 * 1024;

/// The client's request, as the filters of the request phase see it.
pub(super) struct ClientRequest<'a>(pub(super) &'a mut Session);

/// The copy of a request that is sent to an endpoint.
pub(super) struct UpstreamRequest<'a>(pub(super) &'a mut RequestHeader);

/// A request that came through no socket, and its body.
pub(super) struct OfflineRequest<'a>(pub(super) &'a mut RequestHeader, pub(super) &'a Bytes);

/// A response of an endpoint.
pub(super) struct UpstreamResponse<'a>(pub(super) &'a mut ResponseHeader);

/// The fields after a body.
pub(super) struct TrailerFields<'a>(pub(super) &'a mut http::HeaderMap);

macro_rules! fields_of_header {
    ($view:ident, |$this:ident| $shared:expr, |$that:ident| $exclusive:expr, hides $hidden:expr) => {
        impl Fields for $view<'_> {
            fn get(&self, name: &str) -> Option<&[u8]> {
                if $hidden.is_some_and(|hidden: &str| hidden.eq_ignore_ascii_case(name)) {
                    return None;
                }
                let $this = self;
                $shared.headers.get(name).map(http::HeaderValue::as_bytes)
            }

            fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
                let $this = self;
                for (name, value) in &$shared.headers {
                    if $hidden.is_none_or(|hidden| name != hidden) {
                        visit(name.as_str(), value.as_bytes());
                    }
                }
            }

            fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
                let (field, value) = parse_field(name, value)?;
                let $that = self;
                $exclusive.insert_header(field, value).map_err(|_| InvalidField::Value(name.to_owned()))
            }

            fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
                let (field, value) = parse_field(name, value)?;
                let $that = self;
                $exclusive.append_header(field, value).map(|_| ()).map_err(|_| InvalidField::Value(name.to_owned()))
            }

            fn remove(&mut self, name: &str) -> bool {
                let $that = self;
                $exclusive.remove_header(name).is_some()
            }

            fn set_field(&mut self, field: &Field) {
                let $that = self;
                // A name and a value that have been read: it can't fail.
                let _ = $exclusive.insert_header(field.text(), field.parts().1);
            }

            fn add_field(&mut self, field: &Field) {
                let $that = self;
                // Nor can this.
                let _ = $exclusive.append_header(field.text(), field.parts().1);
            }
        }
    };
}

fields_of_header!(ClientRequest, |this| this.0.req_header(), |this| this.0.req_header_mut(), hides None::<&str>);
fields_of_header!(UpstreamRequest, |this| this.0, |this| this.0, hides None::<&str>);
fields_of_header!(OfflineRequest, |this| this.0, |this| this.0, hides None::<&str>);
// It may still be the endpoint's, and Pingora is going to put ours in its place.
fields_of_header!(UpstreamResponse, |this| this.0, |this| this.0, hides Some("connection"));

impl RequestHead for ClientRequest<'_> {
    fn method(&self) -> &str {
        self.0.req_header().method.as_str()
    }
    fn path(&self) -> &str {
        self.0.req_header().uri.path()
    }
    fn query(&self) -> Option<&str> {
        self.0.req_header().uri.query()
    }
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        set_target(self.0.req_header_mut(), parse_target(path, query)?)
    }
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        set_host(self.0.req_header_mut(), host)
    }
    fn buffer_body(&mut self, max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(buffer_body(self.0, max))
    }
    fn session(&mut self) -> Option<&mut Session> {
        Some(self.0)
    }
}

impl RequestHead for UpstreamRequest<'_> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }
    fn path(&self) -> &str {
        self.0.uri.path()
    }
    fn query(&self) -> Option<&str> {
        self.0.uri.query()
    }
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        set_target(self.0, parse_target(path, query)?)
    }
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        set_host(self.0, host)
    }
    fn buffer_body(&mut self, _max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(std::future::ready(Err(Error::internal("a body is buffered in the request hook, not in upstream_request"))))
    }
}

impl RequestHead for OfflineRequest<'_> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }
    fn path(&self) -> &str {
        self.0.uri.path()
    }
    fn query(&self) -> Option<&str> {
        self.0.uri.query()
    }
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        set_target(self.0, parse_target(path, query)?)
    }
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        set_host(self.0, host)
    }
    fn buffer_body(&mut self, max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        let max = max.min(BUFFER_MAX);
        let body = if self.1.len() > max { Err(Error::body_too_large(max)) } else { Ok(self.1.clone()) };
        Box::pin(std::future::ready(body))
    }
}

impl ResponseHead for UpstreamResponse<'_> {
    fn status(&self) -> u16 {
        self.0.status.as_u16()
    }
    fn set_status(&mut self, status: u16) -> Result<(), InvalidField> {
        if !(200..600).contains(&status) {
            return Err(InvalidField::Status(status));
        }
        self.0.set_status(status).map_err(|_| InvalidField::Status(status))
    }
}

impl Fields for TrailerFields<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(http::HeaderValue::as_bytes)
    }
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in self.0.iter() {
            visit(name.as_str(), value.as_bytes());
        }
    }
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        let (name, value) = parse_field(name, value)?;
        self.0.insert(name, value);
        Ok(())
    }
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        let (name, value) = parse_field(name, value)?;
        self.0.append(name, value);
        Ok(())
    }
    fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }
    fn set_field(&mut self, field: &Field) {
        let (name, value) = field.parts();
        self.0.insert(name, value);
    }
    fn add_field(&mut self, field: &Field) {
        let (name, value) = field.parts();
        self.0.append(name, value);
    }
}

/// Whether a field is a matter of one connection, or may be taken for one: what Pingora takes off before a request is sent on.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    is_hop_by_hop_name(name.as_str().as_bytes())
}

/// The same of a name in any spelling.
pub(super) fn is_hop_by_hop_name(name: &[u8]) -> bool {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    // By their lengths: most names are none of these, and are known as such by that alone.
    match name.len() {
        2 => is(b"te"),
        7 => is(b"trailer") || is(b"upgrade"),
        10 => is(b"connection") || is(b"keep-alive"),
        14 => is(b"http2-settings"),
        16 => is(b"proxy-connection"),
        17 => is(b"transfer-encoding"),
        18 => is(b"proxy-authenticate"),
        19 => is(b"proxy-authorization"),
        _ => false,
    }
}

/// Takes off a copy what Pingora takes off before it is sent on. An upgrade to WebSocket stays.
pub(super) fn strip_hop_by_hop(head: &mut RequestHeader) {
    let upgrades = connection_options(&head.headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
        && head.headers.get(http::header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let gone: Vec<HeaderName> = head.headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in gone {
        head.remove_header(&name);
    }
    if upgrades {
        // Constants: they can't fail.
        let _ = head.insert_header(http::header::CONNECTION, "Upgrade");
        let _ = head.insert_header(http::header::UPGRADE, "websocket");
    }
}

/// Puts a target in place; scheme and authority, which HTTP/2 keeps in the same URI, stay.
pub(super) fn set_target(head: &mut RequestHeader, target: PathAndQuery) -> Result<(), InvalidField> {
    let mut parts = head.uri.clone().into_parts();
    let text = target.as_str().to_owned();
    parts.path_and_query = Some(target);
    let uri = http::Uri::from_parts(parts).map_err(|_| InvalidField::Target(text))?;
    head.set_uri(uri);
    Ok(())
}

/// Puts a host in place, in `Host` and, where HTTP/2 has one, in the URI's authority.
pub(super) fn set_host(head: &mut RequestHeader, host: &str) -> Result<(), InvalidField> {
    let invalid = || InvalidField::Host(host.to_owned());
    let authority: Authority = host.parse().map_err(|_| invalid())?;
    if head.uri.authority().is_some() {
        let mut parts = head.uri.clone().into_parts();
        parts.authority = Some(authority);
        head.set_uri(http::Uri::from_parts(parts).map_err(|_| invalid())?);
    }
    head.insert_header(http::header::HOST, host).map_err(|_| invalid())
}

/// The host that a request names, wherever its protocol puts it. Empty if it names none.
pub(super) fn authority(head: &RequestHeader) -> Cow<'_, str> {
    match head.uri.authority() {
        Some(authority) => Cow::Borrowed(authority.as_str()),
        None => {
            let host = head.headers.get(http::header::HOST).map_or(&b""[..], |host| host.as_bytes());
            std::str::from_utf8(host).map_or_else(|_| String::from_utf8_lossy(host), Cow::Borrowed)
        }
    }
}

/// What `Connection` lists, as it was written.
pub(super) fn connection_options(headers: &http::HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(http::header::CONNECTION).iter();
    let options = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    options.map(str::trim).filter(|option| !option.is_empty())
}

async fn buffer_body(session: &mut Session, max: usize) -> Result<Bytes, Error> {
    let max = max.min(BUFFER_MAX);
    let too_large = || Error::body_too_large(max);
    let announced = session
        .req_header()
        .headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    // What is read from here on Pingora keeps, and sends to each endpoint that is tried.
    session.as_mut().enable_retry_buffering();
    let mut body = BytesMut::new();
    loop {
        match session.as_mut().read_request_body().await {
            Ok(Some(chunk)) => {
                if body.len() + chunk.len() > max {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(body.freeze()),
            Err(error) => {
                let (status, reason) = match error.etype() {
                    ErrorType::ReadTimedout => (408, "body_timeout"),
                    _ => (400, "body_broken"),
                };
                return Err(Error::new(status, Party::Client, reason).with_message(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_target_keeps_scheme_and_authority() {
        let mut head = RequestHeader::build("GET", b"/a", None).unwrap();
        head.set_uri("https://example.com/a?b".parse().unwrap());
        set_target(&mut head, parse_target("/c", None).unwrap()).unwrap();
        assert_eq!(head.uri.to_string(), "https://example.com/c");
        set_host(&mut head, "other:81").unwrap();
        assert_eq!((head.uri.authority().unwrap().as_str(), authority(&head).as_ref()), ("other:81", "other:81"));
        assert_eq!(head.headers["host"], "other:81");
        assert_eq!(set_host(&mut head, "a b"), Err(InvalidField::Host("a b".to_owned())));
    }

    #[test]
    fn fields_of_a_connection_are_known_by_name() {
        let hop = [
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        assert!(hop.iter().all(|name| is_hop_by_hop(&HeaderName::from_static(name))));
        for name in ["accept", "host", "trailers", "x-upgrade", "ab", "content-md5", "authorization", "content-location"] {
            assert!(!is_hop_by_hop(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn views_change_the_head_beneath() {
        let mut head = RequestHeader::build("GET", b"/a?b", None).unwrap();
        let mut view = UpstreamRequest(&mut head);
        view.add("x-a", b"1").unwrap();
        view.add("x-a", b"2").unwrap();
        assert_eq!((view.path(), view.query(), view.get("X-A")), ("/a", Some("b"), Some(&b"1"[..])));
        view.set("x-a", b"3").unwrap();
        assert!(view.remove("x-a") && !view.remove("x-a"));
        let mut response = ResponseHeader::build(200, None).unwrap();
        response.insert_header("connection", "keep-alive").unwrap();
        let view = UpstreamResponse(&mut response);
        view.each(&mut |name, _| panic!("{name}"));
        assert_eq!(view.get("Connection"), None);
        assert_eq!(UpstreamResponse(&mut response).set_status(99), Err(InvalidField::Status(99)));
        UpstreamResponse(&mut response).set_status(404).unwrap();
        assert_eq!(response.status, 404);
    }
}
