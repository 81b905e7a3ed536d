//! The plain record of one request: what filters share, and what logs, metrics and explain are made of.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::filter::Error;
use crate::tls::{ClientCertificate, TlsSession};
use crate::types::{Values, Variable};
use crate::upstream::{Endpoint, Upstream};

/// Facts about one request and its answer so far.
pub struct Exchange {
    /// Minted by the proxy; in every answer that it makes itself.
    pub id: RequestId,
    /// When the request's head was complete.
    pub started: Instant,
    /// Who asks.
    pub client: Client,
    /// How the client speaks to us, or to the trusted proxy that says so.
    pub scheme: Scheme,
    /// What TLS with who is connected to us has agreed on; `None` in the clear.
    pub tls: Option<Arc<TlsSession>>,
    /// The request as it was matched, before any filter changed it.
    pub target: Target,
    /// The route that matched.
    pub route: Option<Arc<str>>,
    /// Where the request goes.
    pub upstream: Option<Arc<Upstream>>,
    /// The endpoint of the last try.
    pub endpoint: Option<Arc<Endpoint>>,
    /// How many endpoints were tried.
    pub tries: u32,
    /// The status that went to the client.
    pub status: Option<u16>,
    /// What ended the request in error, if anything.
    pub failure: Option<Error>,
    /// What filters and the proxy noted.
    pub notes: Vec<Cow<'static, str>>,
    shared: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
}

impl Exchange {
    /// A request that has just come.
    #[must_use]
    pub fn new(id: RequestId, client: Client, scheme: Scheme) -> Self {
        Self {
            id,
            started: Instant::now(),
            client,
            scheme,
            tls: None,
            target: Target::default(),
            route: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            status: None,
            failure: None,
            notes: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// What another filter left here for others to see.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.shared.iter().find(|(id, _)| *id == TypeId::of::<T>()).and_then(|(_, value)| value.downcast_ref())
    }

    /// The client's certificate, if it showed one: it is good.
    #[must_use]
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.tls.as_deref().and_then(TlsSession::client)
    }

    /// Leaves a value for other filters, one of each type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.shared.retain(|(id, _)| *id != TypeId::of::<T>());
        self.shared.push((TypeId::of::<T>(), Box::new(value)));
    }
}

/// The parts of a request that routing looks at, in normal form, in one piece of memory.
#[derive(Clone, Default)]
pub struct Target {
    method: http::Method,
    text: Box<str>,
    path: usize,
    query: Option<usize>,
}

impl Target {
    /// `host` and `path` are in normal form.
    #[must_use]
    pub fn new(method: http::Method, host: &str, path: &str, query: Option<&str>) -> Self {
        let mut text = String::with_capacity(host.len() + path.len() + query.map_or(0, str::len));
        text.push_str(host);
        text.push_str(path);
        text.push_str(query.unwrap_or(""));
        Self { method, text: text.into_boxed_str(), path: host.len(), query: query.map(|_| host.len() + path.len()) }
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> &http::Method {
        &self.method
    }

    /// Lower-case, without port or trailing dot.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.text[..self.path]
    }

    /// The path in normal form.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path..self.query.unwrap_or(self.text.len())]
    }

    /// The query as it was sent, without the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.map(|start| &self.text[start..])
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// As a trusted proxy says, or the peer's own. Port 0: nobody said which. `None`: over a unix socket.
    pub address: Option<SocketAddr>,
    /// Who is connected to us: the client itself, or a proxy in front of us.
    pub peer: Option<SocketAddr>,
}

impl Client {
    /// A client that is connected to us itself.
    #[must_use]
    pub fn direct(address: Option<SocketAddr>) -> Self {
        Self { address, peer: address }
    }

    /// The client's IP address, if it has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip().to_canonical())
    }
}

/// How a client speaks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The two hexadecimal digits of each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// A request's id: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A new id. Unguessable enough to tell requests apart, not a secret.
    #[must_use]
    pub fn mint() -> Self {
        Self(fastrand::u128(..))
    }

    /// Of what is asked offline: the same each time, and that of no request.
    pub(crate) fn offline() -> Self {
        Self(0)
    }

    pub(crate) fn bits(self) -> u128 {
        self.0
    }

    /// Its digits, without the formatting machinery.
    pub(crate) fn digits(self) -> [u8; 32] {
        let mut digits = [0; 32];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(self.0.to_be_bytes()) {
            *pair = HEX[usize::from(byte)];
        }
        digits
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The values of `{{ … }}`; what is not known at the time is empty.
impl Values for Exchange {
    fn write(&self, variable: Variable, out: &mut String) {
        use fmt::Write as _;
        // Writing to a String can't fail.
        let _ = match variable {
            Variable::RequestMethod => out.write_str(self.target.method().as_str()),
            Variable::RequestHost => out.write_str(self.target.host()),
            Variable::RequestPath => out.write_str(self.target.path()),
            Variable::RequestQuery => out.write_str(self.target.query().unwrap_or("")),
            Variable::RequestScheme => out.write_str(self.scheme.as_str()),
            Variable::RequestTarget => match self.target.query() {
                Some(query) => write!(out, "{}?{query}", self.target.path()),
                None => out.write_str(self.target.path()),
            },
            Variable::RequestId => write!(out, "{}", self.id),
            Variable::ClientIp => self.client.ip().map_or(Ok(()), |ip| write!(out, "{ip}")),
            Variable::TlsVersion => out.write_str(self.tls.as_ref().map_or("", |tls| tls.version())),
            Variable::TlsCipher => out.write_str(self.tls.as_ref().map_or("", |tls| tls.cipher())),
            Variable::TlsSni => out.write_str(self.tls.as_ref().and_then(|tls| tls.server_name()).unwrap_or("")),
            Variable::ClientCertSubject => out.write_str(self.certificate().map_or("", ClientCertificate::subject)),
            Variable::ClientCertIssuer => out.write_str(self.certificate().map_or("", ClientCertificate::issuer)),
            Variable::ClientCertSerial => out.write_str(self.certificate().map_or("", ClientCertificate::serial)),
            Variable::ClientCertSans => out.write_str(self.certificate().map_or("", ClientCertificate::names)),
            Variable::ClientCertFingerprint => out.write_str(self.certificate().map_or("", ClientCertificate::fingerprint)),
            Variable::RouteName => out.write_str(self.route.as_deref().unwrap_or("")),
            Variable::UpstreamName => out.write_str(self.upstream.as_ref().map_or("", |upstream| upstream.name())),
            Variable::UpstreamEndpoint => out.write_str(self.endpoint.as_ref().map_or("", |endpoint| endpoint.as_str())),
            Variable::ResponseStatus => self.status.map_or(Ok(()), |status| write!(out, "{status}")),
            // Known at the end: no template that is evaluated before holds it.
            _ => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_its_parts_apart() {
        let target = Target::new(http::Method::GET, "a.example", "/x", Some("y=1"));
        assert_eq!((target.host(), target.path(), target.query()), ("a.example", "/x", Some("y=1")));
        let target = Target::new(http::Method::GET, "", "/", None);
        assert_eq!((target.host(), target.path(), target.query()), ("", "/", None));
    }

    #[test]
    fn shared_values_are_found_by_their_type() {
        let client = Client::direct(None);
        let mut exchange = Exchange::new(RequestId::mint(), client, Scheme::Http);
        exchange.insert(1_u8);
        exchange.insert("a");
        exchange.insert(2_u8);
        assert_eq!((exchange.get::<u8>(), exchange.get::<&str>(), exchange.get::<u16>()), (Some(&2), Some(&"a"), None));
    }
}
