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
    /// `request.id`
    RequestId,
    /// `client.ip`: empty over a unix socket.
    ClientIp,
    /// `route.name`
    RouteName,
    /// `upstream.name`
    UpstreamName,
    /// `upstream.endpoint`
    UpstreamEndpoint,
    /// `response.status`
    ResponseStatus,
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
    /// A name for a part of Ravelin that is not there yet.
    #[error("`{0}` is not supported yet")]
    NotYet(String),
}

/// Gives the values of a request.
pub trait Values {
    /// Appends a value; nothing if there is none.
    fn write(&self, variable: Variable, out: &mut String);
}

impl Variable {
    /// Every name of the table.
    pub const ALL: [Self; 10] = [
        Self::RequestMethod,
        Self::RequestHost,
        Self::RequestPath,
        Self::RequestQuery,
        Self::RequestId,
        Self::ClientIp,
        Self::RouteName,
        Self::UpstreamName,
        Self::UpstreamEndpoint,
        Self::ResponseStatus,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestMethod => "request.method",
            Self::RequestHost => "request.host",
            Self::RequestPath => "request.path",
            Self::RequestQuery => "request.query",
            Self::RequestId => "request.id",
            Self::ClientIp => "client.ip",
            Self::RouteName => "route.name",
            Self::UpstreamName => "upstream.name",
            Self::UpstreamEndpoint => "upstream.endpoint",
            Self::ResponseStatus => "response.status",
        }
    }

    /// When its value is known.
    #[must_use]
    pub fn needs(self) -> Phase {
        match self {
            Self::UpstreamName | Self::UpstreamEndpoint => Phase::Upstream,
            Self::ResponseStatus => Phase::Response,
            _ => Phase::Request,
        }
    }
}

/// Names of the reference that come with TLS.
const NOT_YET: [&str; 2] = ["tls.", "client.cert."];

impl FromStr for Variable {
    type Err = TemplateError;

    fn from_str(name: &str) -> Result<Self, TemplateError> {
        if let Some(variable) = Self::ALL.into_iter().find(|variable| variable.as_str() == name) {
            return Ok(variable);
        }
        if NOT_YET.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(TemplateError::NotYet(name.to_owned()));
        }
        let near = Self::ALL.iter().map(|variable| variable.as_str()).max_by(|a, b| {
            let similarity = |other: &str| strsim::jaro_winkler(name, other);
            similarity(a).total_cmp(&similarity(b))
        });
        let hint = match near {
            Some(near) if strsim::jaro_winkler(name, near) > 0.8 => format!("did you mean `{near}`?"),
            _ => format!("there are {}", Self::ALL.map(Self::as_str).join(", ")),
        };
        Err(TemplateError::Unknown { name: name.to_owned(), hint })
    }
}

impl Template {
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

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Variable(name.trim().parse()?));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self { text: text.into(), pieces: pieces.into() })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

super::from_text!(Template, "Template", "text that may hold {{ request.path }} and other names");

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
            assert_eq!(variable.as_str().parse(), Ok(variable));
        }
    }

    #[test]
    fn a_wrong_name_is_never_literal_text() {
        let error = |text: &str| text.parse::<Template>().unwrap_err().to_string();
        assert_eq!(error("{{ request.pth }}"), "unknown name `request.pth` in `{{ }}`: did you mean `request.path`?");
        assert!(error("{{ x }}").contains("there are request.method, request.host"));
        assert_eq!(error("{{ tls.sni }}"), "`tls.sni` is not supported yet");
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
