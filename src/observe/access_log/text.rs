//! Lines of plain text: the Common Log Format, the combined one, and templates.
//!
//! What a client sends stands in them escaped as nginx does it: `"`, `\`, control characters and all beyond ASCII become `\xHH`.
//! So no value ends its quotes or its line.

use std::fmt::Write as _;
use std::time::Duration;

use super::json::millis;
use super::stamp::Moment;
use crate::observe::{Connect, Event};
use crate::tls::{ClientCertificate, TlsSession};
use crate::types::{LogTemplate, Values, Variable};

/// Appends `client - - [time] "request" status bytes`.
pub(super) fn common(event: &Event<'_>, moment: Moment<'_>, out: &mut String) {
    let values = Line { event, moment };
    values.write(Variable::ClientIp, out);
    out.push_str(" - - [");
    out.push_str(moment.common());
    out.push_str("] \"");
    request(event, out);
    out.push_str("\" ");
    values.write(Variable::ResponseStatus, out);
    out.push(' ');
    values.write(Variable::ResponseBytes, out);
}

/// As [`common`], then `"referer" "user agent"`.
pub(super) fn combined(event: &Event<'_>, moment: Moment<'_>, out: &mut String) {
    common(event, moment, out);
    for value in [event.referer, event.user_agent] {
        out.push_str(" \"");
        escaped(value.unwrap_or(b"-"), out);
        out.push('"');
    }
}

/// Appends a template's text; what has no value is `-`.
pub(super) fn template(template: &LogTemplate, event: &Event<'_>, moment: Moment<'_>, out: &mut String) {
    template.template().render(&Line { event, moment }, out);
}

/// `GET /path?query HTTP/1.1`, as far as it is known.
fn request(event: &Event<'_>, out: &mut String) {
    if event.method.is_empty() {
        return out.push('-');
    }
    escaped(event.method.as_bytes(), out);
    out.push(' ');
    escaped(event.path.as_bytes(), out);
    if let Some(query) = event.query {
        out.push('?');
        escaped(query.as_bytes(), out);
    }
    if !event.protocol.is_empty() {
        out.push(' ');
        out.push_str(event.protocol);
    }
}

fn escaped(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | ..0x20 | 0x7f.. => {
                // Writing to a String can't fail.
                let _ = write!(out, "\\x{byte:02X}");
            }
            plain => out.push(char::from(*plain)),
        }
    }
}

/// The values of a template.
struct Line<'a> {
    event: &'a Event<'a>,
    moment: Moment<'a>,
}

impl Values for Line<'_> {
    fn write(&self, variable: Variable, out: &mut String) {
        let event = self.event;
        let text = |value: &str, out: &mut String| escaped(if value.is_empty() { b"-" } else { value.as_bytes() }, out);
        match variable {
            Variable::RequestMethod => text(event.method, out),
            Variable::RequestHost => text(event.host, out),
            Variable::RequestPath => text(event.path, out),
            Variable::RequestQuery => text(event.query.unwrap_or(""), out),
            Variable::RequestScheme => out.push_str(event.scheme),
            Variable::RequestProtocol => text(event.protocol, out),
            Variable::RequestUserAgent => escaped(event.user_agent.unwrap_or(b"-"), out),
            Variable::RequestReferer => escaped(event.referer.unwrap_or(b"-"), out),
            Variable::TlsVersion => text(event.tls.map_or("", TlsSession::version), out),
            Variable::TlsCipher => text(event.tls.map_or("", TlsSession::cipher), out),
            Variable::TlsSni => text(event.tls.and_then(TlsSession::server_name).unwrap_or(""), out),
            Variable::ClientCertSubject => text(event.certificate().map_or("", ClientCertificate::subject), out),
            Variable::ClientCertIssuer => text(event.certificate().map_or("", ClientCertificate::issuer), out),
            Variable::ClientCertSerial => text(event.certificate().map_or("", ClientCertificate::serial), out),
            Variable::ClientCertSans => text(event.certificate().map_or("", ClientCertificate::names), out),
            Variable::ClientCertFingerprint => text(event.certificate().map_or("", ClientCertificate::fingerprint), out),
            Variable::ListenerName => text(event.listener, out),
            Variable::RouteName => text(event.route.unwrap_or(""), out),
            Variable::UpstreamName => text(event.upstream.unwrap_or(""), out),
            Variable::UpstreamEndpoint => text(event.endpoint.unwrap_or(""), out),
            Variable::Reason => text(event.reason().unwrap_or(""), out),
            Variable::Party => text(event.failure.map_or("", |failure| failure.party), out),
            Variable::Detail => text(event.failure.map_or("", |failure| failure.message), out),
            Variable::Notes if event.notes.is_empty() => out.push('-'),
            Variable::Notes => {
                for (index, note) in event.notes.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { ", " });
                    escaped(note.as_bytes(), out);
                }
            }
            Variable::ClientIp => shown(event.client_ip(), out),
            Variable::ClientPort => shown(event.client_port(), out),
            Variable::ClientPeer => shown(event.peer.map(|peer| peer.ip().to_canonical()), out),
            Variable::RequestTarget => {
                text(event.path, out);
                if let Some(query) = event.query {
                    out.push('?');
                    escaped(query.as_bytes(), out);
                }
            }
            Variable::ResponseStatus => shown(event.status, out),
            Variable::RequestId => shown(Some(format_args!("{:032x}", event.id)), out),
            Variable::Time => shown(Some(self.moment), out),
            Variable::RequestBytes => shown(Some(event.received), out),
            Variable::ResponseBytes => shown(Some(event.sent), out),
            Variable::UpstreamTries => shown(Some(event.tries), out),
            Variable::Duration => took(event.duration, out),
            Variable::TimingRouted => took(event.timing.routed, out),
            Variable::TimingResponse => took(event.timing.response, out),
            Variable::TimingConnect => match event.timing.connect {
                Some(Connect::Opened(duration)) => millis(duration, out),
                Some(Connect::Reused) => out.push_str("reused"),
                None => out.push('-'),
            },
        }
    }
}

fn took(duration: Option<Duration>, out: &mut String) {
    match duration {
        Some(duration) => millis(duration, out),
        None => out.push('-'),
    }
}

fn shown(value: Option<impl std::fmt::Display>, out: &mut String) {
    let _ = match value {
        Some(value) => write!(out, "{value}"),
        None => out.write_char('-'),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{line, refused, sound};
    use super::*;
    use crate::observe::Failure;

    fn rendered(text: &str, event: &Event<'_>) -> String {
        let parsed: LogTemplate = text.parse().unwrap();
        line(event, |event, moment, out| template(&parsed, event, moment, out))
    }

    #[test]
    fn the_common_format() {
        assert_eq!(line(&sound(), common), r#"192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] "GET /a%20b?x=1&y HTTP/1.1" 200 1234"#);
        assert_eq!(line(&refused(), common), r#"- - - [02/Jan/2026:03:04:05 +0000] "-" 400 60"#);
    }

    #[test]
    fn the_combined_format() {
        assert_eq!(
            line(&sound(), combined),
            r#"192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] "GET /a%20b?x=1&y HTTP/1.1" 200 1234 "https://example.org/?q=%22" "curl/8.5.0""#
        );
        assert_eq!(line(&refused(), combined), r#"- - - [02/Jan/2026:03:04:05 +0000] "-" 400 60 "-" "-""#);
    }

    #[test]
    fn no_client_forges_a_line() {
        let event = Event {
            user_agent: Some(b"x\" 200 1\n127.0.0.1 - - \\ \xff\x7f"),
            method: "GET\"",
            path: "/\u{e9}\"",
            status: None,
            ..sound()
        };
        assert_eq!(
            line(&event, combined),
            concat!(
                r#"192.0.2.7 - - [02/Jan/2026:03:04:05 +0000] "GET\x22 /\xC3\xA9\x22?x=1&y HTTP/1.1" - 1234 "#,
                r#""https://example.org/?q=%22" "x\x22 200 1\x0A127.0.0.1 - - \x5C \xFF\x7F""#
            )
        );
    }

    #[test]
    fn every_name_of_a_template() {
        let names: Vec<String> =
            Variable::ALL.into_iter().chain(Variable::AT_END).map(|name| format!("{name}={{{{ {name} }}}}")).collect();
        let notes = ["one".into(), "two\n".into()];
        let failure = Some(Failure { party: "us", reason: "internal", message: "no \"b\"" });
        let event = Event { notes: &notes, failure, ..sound() };
        assert_eq!(
            rendered(&names.join("|"), &event),
            concat!(
                "request.method=GET|request.host=example.com|request.path=/a%20b|request.query=x=1&y|",
                "request.target=/a%20b?x=1&y|request.scheme=http|",
                "request.id=0123456789abcdef0123456789abcdef|client.ip=192.0.2.7|tls.version=-|tls.cipher=-|tls.sni=-|",
                "client.cert.subject=-|client.cert.issuer=-|client.cert.serial=-|client.cert.sans=-|client.cert.fingerprint=-|",
                "route.name=all|upstream.name=api|",
                "upstream.endpoint=10.0.0.1:8080|response.status=200|time=2026-01-02T03:04:05.678Z|listener.name=main|",
                "client.port=4711|client.peer=192.0.2.7|request.protocol=HTTP/1.1|request.user_agent=curl/8.5.0|",
                "request.referer=https://example.org/?q=%22|request.bytes=3|response.bytes=1234|upstream.tries=1|",
                "duration=12.345|timing.routed=0.021|timing.connect=0.304|timing.response=11.000|notes=one, two\\x0A|",
                "reason=internal|party=us|detail=no \\x22b\\x22",
            )
        );
    }

    #[test]
    fn what_has_no_value_is_a_dash() {
        for name in
            ["request.method", "request.query", "client.ip", "client.port", "route.name", "duration", "timing.connect", "notes"]
        {
            assert_eq!(rendered(&format!("[{{{{ {name} }}}}]"), &refused()), "[-]", "{name}");
        }
        let mut reused = sound();
        reused.timing.connect = Some(Connect::Reused);
        assert_eq!(rendered("{{ timing.connect }} {{ reason }}", &reused), "reused -");
    }

    proptest! {
        #[test]
        fn a_line_holds_plain_ascii_and_three_quoted_parts(
            agent in any::<Vec<u8>>(), referer in any::<Vec<u8>>(), path in any::<String>(), query in any::<Option<String>>(),
        ) {
            let event = Event { user_agent: Some(&agent), referer: Some(&referer), path: &path, query: query.as_deref(), ..sound() };
            let line = line(&event, combined);
            prop_assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert_eq!(line.matches('"').count(), 6);
        }
    }
}
