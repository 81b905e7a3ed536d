//! Text with `{{ … }}` in it, evaluated per request from a fixed table of names.

use std::fmt;
use std::str::FromStr;

/// Text with names of the table in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    pieces: Box<[Piece]>,
}

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(Box<str>),
    /// A value of the request.
    Variable(Variable),
}

/// A name of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// `request.method`
    RequestMethod,
    /// `request.host`: in normal form.
    RequestHost,
    /// `request.path`: in normal form, as matched.
    RequestPath,
    /// `request.query`: without the `?`.
    RequestQuery,
    /// `request.target`: the path, and the query with its `?` if there is one.
    RequestTarget,
    /// `request.scheme`: `http` or `https`.
    RequestScheme,
    /// `request.id`
    RequestId,
    /// `client.ip`: empty over a unix socket.
    ClientIp,
    /// `tls.version`: such as `TLSv1.3`; empty in the clear.
    TlsVersion,
    /// `tls.cipher`: the suite.
    TlsCipher,
    /// `tls.sni`: the name that the client asked for.
    TlsSni,
    /// `client.cert.subject`: of a client's certificate; empty without one.
    ClientCertSubject,
    /// `client.cert.issuer`
    ClientCertIssuer,
    /// `client.cert.serial`
    ClientCertSerial,
    /// `client.cert.sans`: its subject's alternative names.
    ClientCertSans,
    /// `client.cert.fingerprint`: SHA-256 of it.
    ClientCertFingerprint,
    /// `route.name`
    RouteName,
    /// `upstream.name`
    UpstreamName,
    /// `upstream.endpoint`
    UpstreamEndpoint,
    /// `response.status`
    ResponseStatus,
    /// `time`: when the request came, by RFC 3339.
    Time,
    /// `listener.name`
    ListenerName,
    /// `client.port`
    ClientPort,
    /// `client.peer`: who is connected: the client, or a proxy in front of it.
    ClientPeer,
    /// `request.protocol`: such as `HTTP/1.1`.
    RequestProtocol,
    /// `request.user_agent`: as the client sent it.
    RequestUserAgent,
    /// `request.referer`: likewise.
    RequestReferer,
    /// `request.bytes`: of the body.
    RequestBytes,
    /// `response.bytes`: of the body.
    ResponseBytes,
    /// `upstream.tries`: how many endpoints were tried.
    UpstreamTries,
    /// `duration`: of the whole exchange, in milliseconds.
    Duration,
    /// `timing.routed`: until the filters had run, in milliseconds.
    TimingRouted,
    /// `timing.connect`: to connect to the endpoint, in milliseconds, or `reused`.
    TimingConnect,
    /// `timing.response`: from there to the head of its response, in milliseconds.
    TimingResponse,
    /// `notes`: what filters noted.
    Notes,
    /// `reason`: why Ravelin answered itself or broke off, as a constant word.
    Reason,
    /// `party`: who is at fault.
    Party,
    /// `detail`: more about a failure.
    Detail,
}

/// When a value is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Once the route is.
    Request,
    /// Once an endpoint is chosen.
    Upstream,
    /// Once there is a response.
    Response,
    /// Once the exchange is over.
    End,
}

/// Text that is no [`Template`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("`{{{{` is never closed: write `{{{{ request.path }}}}`")]
    Unclosed,
    /// A name that is in no table.
    #[error("unknown name `{name}` in `{{{{ }}}}`: {hint}")]
    Unknown {
        /// As it was written.
        name: String,
        /// What would be right.
        hint: String,
    },
    /// A name of what is known too late for anything but a log.
    #[error("`{0}` is known once the request is over: only the template of `access_log` can hold it")]
    TooLate(Variable),
    /// Several of these.
    #[error("{}", several(.0))]
    Several(Vec<Self>),
}

fn several(errors: &[TemplateError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Gives the values of a request.
pub trait Values {
    /// Appends a value; nothing if there is none.
    fn write(&self, variable: Variable, out: &mut String);
}

impl Variable {
    /// Every name that has a value before the exchange is over.
    pub const ALL: [Self; 20] = [
        Self::RequestMethod,
        Self::RequestHost,
        Self::RequestPath,
        Self::RequestQuery,
        Self::RequestTarget,
        Self::RequestScheme,
        Self::RequestId,
        Self::ClientIp,
        Self::TlsVersion,
        Self::TlsCipher,
        Self::TlsSni,
        Self::ClientCertSubject,
        Self::ClientCertIssuer,
        Self::ClientCertSerial,
        Self::ClientCertSans,
        Self::ClientCertFingerprint,
        Self::RouteName,
        Self::UpstreamName,
        Self::UpstreamEndpoint,
        Self::ResponseStatus,
    ];

    /// Those that have one only then: names for [`LogTemplate`] alone.
    pub const AT_END: [Self; 18] = [
        Self::Time,
        Self::ListenerName,
        Self::ClientPort,
        Self::ClientPeer,
        Self::RequestProtocol,
        Self::RequestUserAgent,
        Self::RequestReferer,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::UpstreamTries,
        Self::Duration,
        Self::TimingRouted,
        Self::TimingConnect,
        Self::TimingResponse,
        Self::Notes,
        Self::Reason,
        Self::Party,
        Self::Detail,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestMethod => "request.method",
            Self::RequestHost => "request.host",
            Self::RequestPath => "request.path",
            Self::RequestQuery => "request.query",
            Self::RequestTarget => "request.target",
            Self::ClientPeer => "client.peer",
            Self::RequestId => "request.id",
            Self::ClientIp => "client.ip",
            Self::TlsVersion => "tls.version",
            Self::TlsCipher => "tls.cipher",
            Self::TlsSni => "tls.sni",
            Self::ClientCertSubject => "client.cert.subject",
            Self::ClientCertIssuer => "client.cert.issuer",
            Self::ClientCertSerial => "client.cert.serial",
            Self::ClientCertSans => "client.cert.sans",
            Self::ClientCertFingerprint => "client.cert.fingerprint",
            Self::RouteName => "route.name",
            Self::UpstreamName => "upstream.name",
            Self::UpstreamEndpoint => "upstream.endpoint",
            Self::ResponseStatus => "response.status",
            Self::Time => "time",
            Self::ListenerName => "listener.name",
            Self::ClientPort => "client.port",
            Self::RequestScheme => "request.scheme",
            Self::RequestProtocol => "request.protocol",
            Self::RequestUserAgent => "request.user_agent",
            Self::RequestReferer => "request.referer",
            Self::RequestBytes => "request.bytes",
            Self::ResponseBytes => "response.bytes",
            Self::UpstreamTries => "upstream.tries",
            Self::Duration => "duration",
            Self::TimingRouted => "timing.routed",
            Self::TimingConnect => "timing.connect",
            Self::TimingResponse => "timing.response",
            Self::Notes => "notes",
            Self::Reason => "reason",
            Self::Party => "party",
            Self::Detail => "detail",
        }
    }

    /// Whether it says who a client has proved to be.
    #[must_use]
    pub fn identifies(self) -> bool {
        matches!(
            self,
            Self::ClientCertSubject
                | Self::ClientCertIssuer
                | Self::ClientCertSerial
                | Self::ClientCertSans
                | Self::ClientCertFingerprint
        )
    }

    /// When its value is known.
    #[must_use]
    pub fn needs(self) -> Phase {
        match self {
            Self::UpstreamName | Self::UpstreamEndpoint => Phase::Upstream,
            Self::ResponseStatus => Phase::Response,
            _ if Self::AT_END.contains(&self) => Phase::End,
            _ => Phase::Request,
        }
    }

    /// Reads a name; `among` are those that have a value where it stands.
    fn read(name: &str, among: &[&[Self]]) -> Result<Self, TemplateError> {
        let known = || among.iter().copied().flatten().copied();
        if let Some(variable) = known().find(|variable| variable.as_str() == name) {
            return Ok(variable);
        }
        if let Some(variable) = Self::AT_END.into_iter().find(|variable| variable.as_str() == name) {
            return Err(TemplateError::TooLate(variable));
        }
        let similarity = |variable: &Self| strsim::jaro_winkler(name, variable.as_str());
        let near = known().max_by(|a, b| similarity(a).total_cmp(&similarity(b))).filter(|near| similarity(near) > 0.8);
        let hint = match misnomer(name).filter(|meant| known().any(|known| known == *meant)).or(near) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known().map(Self::as_str).collect::<Vec<_>>().join(", ")),
        };
        Err(TemplateError::Unknown { name: name.to_owned(), hint })
    }
}

/// What a name stands for that is right elsewhere.
fn misnomer(name: &str) -> Option<Variable> {
    Some(match name {
        "request.uri" | "request.url" | "request.path_and_query" | "request.full_path" | "uri" | "url" => Variable::RequestTarget,
        "host" | "request.hostname" | "request.authority" | "request.server_name" => Variable::RequestHost,
        "path" => Variable::RequestPath,
        "query" | "request.args" | "request.query_string" => Variable::RequestQuery,
        "method" => Variable::RequestMethod,
        "scheme" | "request.protocol" => Variable::RequestScheme,
        "client.address" | "client.addr" | "client_ip" | "remote_addr" | "request.remote_addr" | "request.ip" | "remote.ip" => {
            Variable::ClientIp
        }
        "status" | "response.code" => Variable::ResponseStatus,
        "request_id" | "id" => Variable::RequestId,
        "upstream" => Variable::UpstreamName,
        "route" => Variable::RouteName,
        _ => return None,
    })
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Template {
    fn read(text: &str, names: &[&[Variable]]) -> Result<Self, TemplateError> {
        let (mut pieces, mut errors) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, after)) = after.split_once("}}") else {
                errors.push(TemplateError::Unclosed);
                break;
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            match Variable::read(name.trim(), names) {
                Ok(variable) => pieces.push(Piece::Variable(variable)),
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
            rest = after;
        }
        if errors.len() > 1 {
            return Err(TemplateError::Several(errors));
        }
        if let Some(error) = errors.pop() {
            return Err(error);
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self { text: text.into(), pieces: pieces.into() })
    }

    /// Its parts, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The text, if it is the same for every request.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.pieces {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The names in it.
    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(variable) => Some(*variable),
            Piece::Text(_) => None,
        })
    }

    /// When all its values are known.
    #[must_use]
    pub fn needs(&self) -> Phase {
        self.variables().map(Variable::needs).max().unwrap_or(Phase::Request)
    }

    /// Appends the text for one request.
    pub fn render(&self, values: &dyn Values, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable(variable) => values.write(*variable, out),
            }
        }
    }
}

/// A name as nginx would write it, which stays in a text as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign<'a> {
    /// With its `$`.
    pub(crate) written: &'a str,
    /// The name for the same here, where there is one.
    pub(crate) ours: Option<Variable>,
}

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` stays as it is written: it is no name here, but another server's; ", self.written)?;
        match self.ours {
            Some(ours) if ours.needs() == Phase::End => {
                write!(f, "write {{{{ {ours} }}}}, which the template of `access_log` alone can hold")
            }
            Some(ours) => write!(f, "write {{{{ {ours} }}}}"),
            None => f.write_str("there is no value for it"),
        }
    }
}

impl Template {
    /// Names that nginx would put a value in the place of, in what is no template's name.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = Foreign<'_>> {
        self.pieces.iter().flat_map(|piece| match piece {
            Piece::Text(text) => foreign(text),
            Piece::Variable(_) => Vec::new(),
        })
    }
}

fn foreign(text: &str) -> Vec<Foreign<'_>> {
    let belongs = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let signs = text.match_indices('$').filter(|(at, _)| !text[..*at].ends_with('$'));
    let named = signs.filter_map(|(at, _)| {
        let (open, close) = if text[at + 1..].starts_with('{') { (2, 1) } else { (1, 0) };
        let rest = text.get(at + open..)?;
        let name = &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())];
        let closed = close == 0 || rest[name.len()..].starts_with('}');
        let written = &text[at..at + open + name.len() + usize::from(closed) * close];
        closed.then_some(Foreign { written, ours: counterpart(name)? })
    });
    named.collect()
}

/// Of a name of nginx's: ours, if there is one. `None`: no name of nginx's that anybody would look for here.
fn counterpart(name: &str) -> Option<Option<Variable>> {
    Some(Some(match name {
        "host" | "http_host" | "server_name" => Variable::RequestHost,
        "uri" | "document_uri" => Variable::RequestPath,
        "request_uri" => Variable::RequestTarget,
        "args" | "query_string" => Variable::RequestQuery,
        "scheme" => Variable::RequestScheme,
        "request_method" => Variable::RequestMethod,
        "request_id" => Variable::RequestId,
        "remote_addr" | "binary_remote_addr" | "proxy_add_x_forwarded_for" => Variable::ClientIp,
        "ssl_protocol" => Variable::TlsVersion,
        "ssl_cipher" => Variable::TlsCipher,
        "ssl_server_name" => Variable::TlsSni,
        "ssl_client_s_dn" => Variable::ClientCertSubject,
        "ssl_client_i_dn" => Variable::ClientCertIssuer,
        "ssl_client_serial" => Variable::ClientCertSerial,
        "ssl_client_fingerprint" => Variable::ClientCertFingerprint,
        "proxy_host" => Variable::UpstreamName,
        "upstream_addr" => Variable::UpstreamEndpoint,
        "status" => Variable::ResponseStatus,
        "time_iso8601" | "time_local" => Variable::Time,
        "request_time" => Variable::Duration,
        "body_bytes_sent" | "bytes_sent" => Variable::ResponseBytes,
        "request_length" | "content_length" => Variable::RequestBytes,
        "server_protocol" => Variable::RequestProtocol,
        "http_user_agent" => Variable::RequestUserAgent,
        "http_referer" => Variable::RequestReferer,
        "remote_port" => Variable::ClientPort,
        "realip_remote_addr" => Variable::ClientPeer,
        "is_args" | "remote_user" | "server_port" => return Some(None),
        name if ["http_", "arg_", "cookie_", "sent_http_", "upstream_http_"].iter().any(|start| name.starts_with(start)) => {
            return Some(None);
        }
        _ => return None,
    }))
}

impl From<Variable> for Template {
    fn from(variable: Variable) -> Self {
        let text = format!("{{{{ {variable} }}}}").into();
        Self { text, pieces: [Piece::Variable(variable)].into() }
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::read(text, &[&Variable::ALL])
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

super::from_text!(Template, "Template", "text that may hold {{ request.path }} and other names");

/// A [`Template`] for what is written once a request is over: every name has a value there. Never empty, and one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTemplate(Template);

/// Text that is no [`LogTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogTemplateError {
    /// A name is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Nothing would be written.
    #[error("the template is empty: write what a line should hold, such as `{{{{ client.ip }}}} {{{{ response.status }}}}`")]
    Empty,
    /// A line would be several.
    #[error("a line of a log cannot hold a line break or another control character: write the template on one line")]
    Control,
}

impl LogTemplate {
    /// The template in it.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.0
    }
}

impl FromStr for LogTemplate {
    type Err = LogTemplateError;

    fn from_str(text: &str) -> Result<Self, LogTemplateError> {
        let template = Template::read(text, &[&Variable::ALL, &Variable::AT_END])?;
        if template.pieces.is_empty() {
            return Err(LogTemplateError::Empty);
        }
        if text.chars().any(|c| c.is_control() && c != '\t') {
            return Err(LogTemplateError::Control);
        }
        Ok(Self(template))
    }
}

impl fmt::Display for LogTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

super::from_text!(LogTemplate, "LogTemplate", "text that may hold {{ client.ip }}, {{ duration }} and other names");

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;
    impl Values for Names {
        fn write(&self, variable: Variable, out: &mut String) {
            out.push_str(&variable.as_str().to_uppercase());
        }
    }

    fn rendered(text: &str) -> String {
        let mut out = String::new();
        text.parse::<Template>().unwrap().render(&Names, &mut out);
        out
    }

    #[test]
    fn values_stand_where_their_names_were() {
        assert_eq!(rendered("a{{request.id}}b{{  client.ip }}"), "aREQUEST.IDbCLIENT.IP");
        assert_eq!(rendered("{ not } one }}"), "{ not } one }}");
        assert_eq!(rendered(""), "");
    }

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for variable in Variable::ALL {
            let text = format!("{{{{ {variable} }}}}");
            assert_eq!(*text.parse::<Template>().unwrap().pieces(), [Piece::Variable(variable)]);
            assert!(text.parse::<LogTemplate>().is_ok() && variable.needs() < Phase::End);
        }
    }

    #[test]
    fn what_is_known_at_the_end_is_for_logs_alone() {
        for variable in Variable::AT_END {
            let text = format!("{{{{ {variable} }}}}");
            assert_eq!(text.parse::<Template>(), Err(TemplateError::TooLate(variable)));
            assert_eq!(*text.parse::<LogTemplate>().unwrap().template().pieces(), [Piece::Variable(variable)]);
            assert_eq!(variable.needs(), Phase::End);
        }
    }

    #[test]
    fn a_line_of_a_log_is_one_line_of_something() {
        let error = |text: &str| text.parse::<LogTemplate>().unwrap_err().to_string();
        assert!(error("").contains("empty"));
        assert!(error("a\nb").contains("line break"));
        assert!(error("{{ dration }}").contains("did you mean `duration`?"));
        assert!("a\t{{ time }}".parse::<LogTemplate>().is_ok());
    }

    #[test]
    fn a_wrong_name_is_never_literal_text() {
        let error = |text: &str| text.parse::<Template>().unwrap_err().to_string();
        assert_eq!(error("{{ request.pth }}"), "unknown name `request.pth` in `{{ }}`: did you mean `request.path`?");
        assert!(error("{{ x }}").contains("there are request.method, request.host"));
        assert_eq!(
            error("{{ client.cert.subjct }}"),
            "unknown name `client.cert.subjct` in `{{ }}`: did you mean `client.cert.subject`?"
        );
        assert_eq!(error("a {{ request.id"), "`{{` is never closed: write `{{ request.path }}`");
    }

    #[test]
    fn names_of_another_server_are_known_as_such() {
        let found = |text: &str| -> Vec<String> {
            text.parse::<Template>().unwrap().foreign().map(|foreign| foreign.to_string()).collect()
        };
        assert_eq!(
            found("https://$host${request_uri} {{ client.ip }}$http_x_a"),
            [
                "`$host` stays as it is written: it is no name here, but another server's; write {{ request.host }}",
                "`${request_uri}` stays as it is written: it is no name here, but another server's; write {{ request.target }}",
                "`$http_x_a` stays as it is written: it is no name here, but another server's; there is no value for it",
            ]
        );
        for text in ["$5", "$hosts", "a$", "$$host", "${host", "${}", "{{ request.host }}", "$HOST", "$é"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn every_wrong_name_is_told_of() {
        let error = "{{ request.pth }} {{ request.id }} {{ clnt.ip }}".parse::<Template>().unwrap_err().to_string();
        assert!(error.contains("`request.pth`") && error.contains("`clnt.ip`"), "{error}");
    }

    #[test]
    fn a_template_knows_when_its_values_are_known() {
        let needs = |text: &str| text.parse::<Template>().unwrap().needs();
        assert_eq!(needs("a"), Phase::Request);
        assert_eq!(needs("{{ upstream.name }}{{ request.id }}"), Phase::Upstream);
        assert_eq!(needs("{{ response.status }}"), Phase::Response);
    }
}
