//! One reading of a request's fields: what protocols, versions and habits leave open is settled before anybody routes on it.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Version};
use pingora_http::RequestHeader;
use pingora_http::authority::raw_target_authority;
use pingora_proxy::Session;

use crate::config::Underscores;
use crate::filter::{Error, Party};
use crate::proxy::head::connection_options;

/// Leaves one reading of the fields, or none.
///
/// # Errors
/// The client must say it otherwise.
pub(super) fn settle(session: &mut Session, found: &Unsettled, underscores: Underscores) -> Result<(), Error> {
    let version = session.req_header().version;
    if version == Version::HTTP_10 {
        // What an upstream tells in advance is unknown there (RFC 9110 §15.2).
        session.as_downstream_mut().set_ignore_info_resp(true);
    }
    settle_fields(session.req_header_mut(), found, underscores)?;
    if found.expect && (version == Version::HTTP_10 || session.as_mut().is_body_empty()) {
        // Where nothing is to be continued it is taken away, lest an upstream waits for a body that never comes, or answers out of turn.
        session.req_header_mut().remove_header(&EXPECT);
    }
    Ok(())
}

/// Likewise, of a head that has no session: that a body follows can only be told by its fields, over HTTP/2 too.
pub(super) fn drop_idle_expectation(head: &mut RequestHeader) {
    let length = head.headers.get(CONTENT_LENGTH).and_then(number);
    let has_body = length.unwrap_or(0) > 0 || head.headers.contains_key(TRANSFER_ENCODING);
    if head.version == Version::HTTP_10 || !has_body {
        head.remove_header(&EXPECT);
    }
}

/// What of it needs no session.
///
/// # Errors
/// As [`settle`].
pub(super) fn settle_fields(head: &mut RequestHeader, found: &Unsettled, underscores: Underscores) -> Result<(), Error> {
    let version = head.version;
    if version == Version::HTTP_10 && !found.host {
        host_of_target(head);
    }
    if found.underscore {
        settle_underscores(head, underscores)?;
    }
    if found.expect && version != Version::HTTP_10 {
        known_expectation(head)?;
    }
    // One field with one number, as on HTTP/1, where this has been seen to: an upstream frames the body by it.
    if found.lengths > 1 || (version == Version::HTTP_2 && found.lengths > 0 && number(&head.headers[CONTENT_LENGTH]).is_none()) {
        return Err(Error::new(400, Party::Client, "ambiguous_length"));
    }
    if found.upgrade && !is_upgrade(head) {
        // Pingora would nominate it.
        head.remove_header(&UPGRADE);
    }
    if found.cookies > 1 && version == Version::HTTP_2 {
        join_cookies(head);
    }
    Ok(())
}

/// Without being nominated it is none (RFC 9110 §7.8). Behind a body nobody could tell where a tunnel begins.
fn is_upgrade(head: &RequestHeader) -> bool {
    let has_body =
        head.headers.contains_key(TRANSFER_ENCODING) || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    !has_body && connection_options(&head.headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Which fields there are that need a decision: noted while the head is looked over.
#[derive(Default)]
pub(super) struct Unsettled {
    underscore: bool,
    host: bool,
    expect: bool,
    upgrade: bool,
    lengths: u8,
    cookies: u8,
}

impl Unsettled {
    /// Takes a field into account.
    pub(super) fn note(&mut self, name: &HeaderName) {
        // Most fields are known by name, and none of these has an underscore.
        if *name == HOST {
            self.host = true;
        } else if *name == COOKIE {
            self.cookies = self.cookies.saturating_add(1);
        } else if *name == CONTENT_LENGTH {
            self.lengths = self.lengths.saturating_add(1);
        } else {
            self.expect |= *name == EXPECT;
            self.upgrade |= *name == UPGRADE;
            self.underscore |= name.as_str().bytes().any(|byte| byte == b'_');
        }
    }
}

/// An absolute target names the host too (RFC 9112 §3.2.2), which only HTTP/1.0 may do instead of a field.
fn host_of_target(head: &mut RequestHeader) {
    if let Some(authority) = raw_target_authority(head.raw_path()).authority()
        && let Ok(host) = HeaderValue::from_bytes(authority)
    {
        // A name and a value that are right: it can't fail.
        let _ = head.insert_header(HOST, host);
    }
}

/// Many a service reads `_` in a name as `-`: `Content_Length` could frame a body there, and `X_Forwarded_For` name a client.
fn settle_underscores(head: &mut RequestHeader, underscores: Underscores) -> Result<(), Error> {
    let taken = match underscores {
        Underscores::Refuse => return Err(Error::new(400, Party::Client, "underscore")),
        // Those that look like ours are taken away in any case, with what else the client says of itself.
        Underscores::Pass => return Ok(()),
        Underscores::Drop => head.headers.keys().filter(|name| name.as_str().contains('_')),
    };
    for name in taken.cloned().collect::<Vec<HeaderName>>() {
        head.remove_header(&name);
    }
    Ok(())
}

/// `100-continue` is the only expectation that there is (RFC 9110 §10.1.1).
fn known_expectation(head: &RequestHeader) -> Result<(), Error> {
    let mut values = head.headers.get_all(EXPECT).iter();
    let known = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if known && values.next().is_none() { Ok(()) } else { Err(Error::new(417, Party::Client, "expectation")) }
}

/// HTTP/2 may cut a cookie into crumbs; nobody else knows that (RFC 9113 §8.2.3).
fn join_cookies(head: &mut RequestHeader) {
    let crumbs: Vec<&[u8]> = head.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        // A value made of values: it can't fail.
        let _ = head.insert_header(COOKIE, whole);
    }
}

/// As on HTTP/1: a leading zero makes an octal number for some.
pub(super) fn number(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    let plain = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header((*name).to_owned(), *value).unwrap();
        }
        head
    }

    #[test]
    fn underscores_go_are_refused_or_stay() {
        let given = [("x-a", "1"), ("Content_Length", "2"), ("X_Forwarded-For", "3")];
        let names = |underscores| {
            let mut head = head(&given);
            settle_underscores(&mut head, underscores).map(|()| head.headers.keys().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names(Underscores::Drop).unwrap(), ["x-a"]);
        assert_eq!(names(Underscores::Pass).unwrap(), ["x-a", "content_length", "x_forwarded-for"]);
        assert_eq!(names(Underscores::Refuse).unwrap_err().code(), 400);
    }

    #[test]
    fn crumbs_become_a_cookie() {
        let mut head = head(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut head);
        assert_eq!(head.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
