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
        let near = known().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        let hint = match near.filter(|near| similarity(near) > 0.8) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", known().map(Self::as_str).collect::<Vec<_>>().join(", ")),
        };
        Err(TemplateError::Unknown { name: name.to_owned(), hint })
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Template {
    fn read(text: &str, names: &[&[Variable]]) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Variable(Variable::read(name.trim(), names)?));
            rest = after;
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
    fn a_template_knows_when_its_values_are_known() {
        let needs = |text: &str| text.parse::<Template>().unwrap().needs();
        assert_eq!(needs("a"), Phase::Request);
        assert_eq!(needs("{{ upstream.name }}{{ request.id }}"), Phase::Upstream);
        assert_eq!(needs("{{ response.status }}"), Phase::Response);
    }
}
