//! The record of one request that is over: plain, borrowed, and the same for logs, metrics and whoever comes next.
//!
//! It is made once, in the proxy, for every request: those that were answered, those that were dropped where they stood, and
//! those that were refused before they were requests at all. Of these little is known: texts are empty then.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use crate::tls::{ClientCertificate, TlsSession};

/// A finished or refused request.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    /// Written as 32 hexadecimal digits.
    pub(crate) id: u128,
    /// When the request's head was complete; of a refused one, when it was refused.
    pub(crate) time: SystemTime,
    /// `None` over a unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// Who was connected: the client, or a proxy in front of it.
    pub(crate) peer: Option<SocketAddr>,
    /// The listener's name.
    pub(crate) listener: &'a str,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// `None`: in the clear, or no request was read.
    pub(crate) tls: Option<&'a TlsSession>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub(crate) protocol: &'static str,
    pub(crate) method: &'a str,
    /// In normal form; as it was sent where that has none.
    pub(crate) host: &'a str,
    /// Likewise.
    pub(crate) path: &'a str,
    /// Without the `?`.
    pub(crate) query: Option<&'a str>,
    /// As it was sent: any bytes but control characters.
    pub(crate) user_agent: Option<&'a [u8]>,
    /// Likewise.
    pub(crate) referer: Option<&'a [u8]>,
    /// `None`: the client was sent none.
    pub(crate) status: Option<u16>,
    /// Bytes of the request's body that came.
    pub(crate) received: u64,
    /// Bytes of the response's body that were written.
    pub(crate) sent: u64,
    /// From the complete head to the end. `None`: refused.
    pub(crate) duration: Option<Duration>,
    pub(crate) timing: Timing,
    /// The route's name.
    pub(crate) route: Option<&'a str>,
    /// The upstream's name.
    pub(crate) upstream: Option<&'a str>,
    /// The address of the last try.
    pub(crate) endpoint: Option<&'a str>,
    /// How many endpoints were tried.
    pub(crate) tries: u32,
    /// What filters and the proxy noted.
    pub(crate) notes: &'a [Cow<'static, str>],
    /// What ended the request in error.
    pub(crate) failure: Option<Failure<'a>>,
    /// What made an answer of Ravelin's own that is no failure: `redirect`, `respond` or `filter`.
    pub(crate) own_answer: Option<&'static str>,
}

/// Where the time went: each step by itself. What was not reached is `None`; of several tries the last one counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// From the complete head until the route was found and its filters had run.
    pub(crate) routed: Option<Duration>,
    /// Until there was a connection to the endpoint.
    pub(crate) connect: Option<Connect>,
    /// From there to the head of its response.
    pub(crate) response: Option<Duration>,
}

/// How a connection to an endpoint was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connect {
    /// It was opened, in this time.
    Opened(Duration),
    /// It had been waiting in the pool.
    Reused,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure<'a> {
    /// Who is at fault: `client`, `upstream`, `operator` or `us`.
    pub(crate) party: &'static str,
    /// A constant word in snake case.
    pub(crate) reason: &'static str,
    /// More of it; may be empty.
    pub(crate) message: &'a str,
}

impl Event<'_> {
    /// The client's address without the port, IPv4 as such.
    pub(crate) fn client_ip(&self) -> Option<IpAddr> {
        self.client.map(|client| client.ip().to_canonical())
    }

    /// The client's certificate.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.tls.and_then(TlsSession::client)
    }

    /// The client's port, if it is known.
    pub(crate) fn client_port(&self) -> Option<u16> {
        self.client.map(|client| client.port()).filter(|port| *port != 0)
    }

    /// The address of the proxy that spoke for the client.
    pub(crate) fn proxy_ip(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical()).filter(|_| self.peer != self.client)
    }

    /// Why Ravelin answered itself, or broke off: a constant word. `None`: an endpoint's answer went out whole.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.failure.map(|failure| failure.reason).or(self.own_answer)
    }
}
