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
    /// Why this is not the rank of the other.
    pub(super) fn differs_by(&self, other: &Self) -> Criterion {
        let (own, their) = (&self.rank, &other.rank);
        let differing = [
            (self.host != other.host, Criterion::Host),
            (self.path != other.path, Criterion::Path),
            (own.any_method != their.any_method, Criterion::Method),
            (own.headers != their.headers, Criterion::Headers),
            (own.query != their.query, Criterion::Query),
            (own.cookies != their.cookies, Criterion::Cookies),
            (own.any_client != their.any_client, Criterion::ClientIps),
        ];
        differing.into_iter().find(|(differs, _)| *differs).map_or(Criterion::Order, |(_, criterion)| criterion)
    }
}

/// How the winner is more specific.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "a more specific host",
            Self::Path => "a more specific path",
            Self::Method => "names methods",
            Self::Headers => "more conditions on header fields",
            Self::Query => "more conditions on the query",
            Self::Cookies => "more conditions on cookies",
            Self::ClientIps => "names client addresses",
            Self::Order => "comes first in the file",
        })
    }
}
