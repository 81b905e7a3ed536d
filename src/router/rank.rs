//! Which of two routes is more specific.

use std::cmp::Reverse;
use std::fmt;

/// How closely a route names the host of a request; the least is the most specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HostRank {
    Exact,
    /// By the length of what follows `*.`.
    Wildcard(Reverse<usize>),
    Any,
}

/// How closely a route names the path of a request; the least is the most specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathRank {
    Exact,
    Regex,
    /// By its length.
    Prefix(Reverse<u32>),
    Any,
}

/// What of a route decides where host and path do not; the least is the most specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) any_method: bool,
    pub(super) headers: Reverse<u16>,
    pub(super) query: Reverse<u16>,
    pub(super) cookies: Reverse<u16>,
    pub(super) any_client: bool,
    /// The place in the file: no two routes share it.
    pub(super) order: u32,
}

/// A route's rank for one request: the order of the fields is the order of the criteria.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) host: HostRank,
    pub(super) path: PathRank,
    pub(super) rank: Rank,
}

/// What makes one route win over another that matches too: the first criterion in which they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Criterion {
    /// An exact host over the longest wildcard over any host.
    Host,
    /// An exact path over an expression over the longest prefix over any path.
    Path,
    /// A route that names methods.
    Method,
    /// More conditions on header fields.
    Headers,
    /// More on the query.
    Query,
    /// More on cookies.
    Cookies,
    /// A route that names addresses of clients.
    ClientIps,
    /// The first in the file.
    Order,
}

impl Standing {
    /// Why this is more specific than the other: the criterion, and in words what the one has over the other.
    pub(super) fn differs_by(&self, other: &Self) -> (Criterion, &'static str) {
        let (own, their) = (&self.rank, &other.rank);
        let differing = [
            (self.host != other.host, Criterion::Host, self.host.over(other.host)),
            (self.path != other.path, Criterion::Path, self.path.over(other.path)),
            (own.any_method != their.any_method, Criterion::Method, "names methods, and this one does not"),
            (own.headers != their.headers, Criterion::Headers, "has more conditions on header fields"),
            (own.query != their.query, Criterion::Query, "has more conditions on the query"),
            (own.cookies != their.cookies, Criterion::Cookies, "has more conditions on cookies"),
            (own.any_client != their.any_client, Criterion::ClientIps, "names client addresses, and this one does not"),
        ];
        let first = differing.into_iter().find(|(differs, ..)| *differs);
        first.map_or((Criterion::Order, "comes first in the file"), |(_, criterion, why)| (criterion, why))
    }
}

impl HostRank {
    fn over(self, other: Self) -> &'static str {
        match (self, other) {
            (Self::Exact, Self::Any) => "names this host, and this one takes any",
            (Self::Exact, _) => "names this host exactly, and this one by a wildcard",
            (Self::Wildcard(_), Self::Any) => "names this host by a wildcard, and this one takes any",
            (Self::Wildcard(_) | Self::Any, _) => "has a longer wildcard for this host",
        }
    }
}

impl PathRank {
    fn over(self, other: Self) -> &'static str {
        match (self, other) {
            (_, Self::Any) => "names this path, and this one takes any",
            (Self::Exact, _) => "names this path exactly",
            (Self::Regex, _) => "has a regular expression for this path, which goes before a prefix",
            (Self::Prefix(_) | Self::Any, _) => "has a longer prefix of this path",
        }
    }
}

/// In the words of the file.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "hosts",
            Self::Path => "paths",
            Self::Method => "methods",
            Self::Headers => "headers",
            Self::Query => "query",
            Self::Cookies => "cookies",
            Self::ClientIps => "client_ips",
            Self::Order => "order",
        })
    }
}
