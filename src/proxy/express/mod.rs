//! The express lane: plain HTTP/1.1 exchanges without Pingora's sessions and header maps.
//!
//! A request that the strict classifier admits (`classify`) is carried over the bytes of its head: fields are places in them
//! (`table`), edits are appended, and head and body go out in as few writes as there are. All that is decided is decided by the same
//! code as on the general way: routes, filters, endpoints, limits, deadlines, records. Whatever is unusual goes the general way, request by
//! request, on the same connection; and since nothing has happened to a request before it is admitted, it starts there as if it had
//! come there first.

mod classify;
mod date;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
mod reply;
mod response;
mod spare;
mod table;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::server::configuration::ServerConf;
use tokio::io::AsyncRead;

pub(super) use self::classify::why_general;
pub(crate) use self::table::Rows;

use self::exchange::Passage;
use crate::proxy::Common;
use crate::proxy::ctx::Connection;
use crate::upstream::Room;

/// The lane, and what its exchanges share.
pub(crate) struct Express {
    common: Arc<Common>,
    /// Where connections are opened by threads of their own (`upstream_connect_offload_threadpools`): Pingora has those.
    connector: Option<TransportConnector>,
    /// For connections that wait.
    room: Room,
    is_open: bool,
}

/// How a request's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// By its chunks.
    Chunked,
}

/// A client's connection, as an exchange uses it.
///
/// Reading gives the bytes of the current request's body as they are on the wire, and no more. Once there are no more, it ends when
/// the client does; until then it is pending, and fails when a deadline of the exchange passes.
pub(crate) trait Downstream: AsyncRead + Unpin + Send + Sync {
    /// What has come of the current head.
    fn head(&self, length: usize) -> &[u8];

    /// Takes the head away: from now on its body is read.
    fn begin(&mut self, head: usize);

    /// Writes what the client takes now.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Waits until all that was written has left.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Fails once a deadline of the exchange has passed, where nothing is read.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Where the client asked.
    fn facing(&self) -> Option<SocketAddr>;

    /// Whether clients are told to leave.
    fn is_stopping(&self) -> bool;
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is over, and the connection can carry another.
    Keep,
    /// It is over, and so is the connection.
    Close,
}

/// Whether requests take the lane where they can.
const OPEN: bool = true;
/// A switch for tests, read once: `general`, `express` (where it is possible), or `auto` for what it is by itself.
const SWITCH: &str = "RAVELIN_LANE";

impl Express {
    pub(super) fn new(common: Arc<Common>, conf: &ServerConf) -> Self {
        let is_open = std::env::var(SWITCH).map_or(OPEN, |lane| if lane == "auto" { OPEN } else { lane == "express" });
        Self {
            common,
            connector: conf
                .upstream_connect_offload_threadpool()
                .map(|_| TransportConnector::new(Some(ConnectorOptions::from_server_conf(conf)))),
            room: Room::new(conf.upstream_keepalive_pool_size, conf.threads),
            is_open,
        }
    }

    /// Whether any request can take it.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Serves a request whose head, of this length, `rows` tells of. `None`: it is one for the general way, and nothing has happened to it.
    ///
    /// The exchange has memory of its own, which is gone while the connection waits for its next request.
    pub(crate) fn serve<'a, D: Downstream>(
        &'a self,
        client: &'a mut D,
        connection: &Arc<Connection>,
        head: usize,
        rows: Rows,
        framing: Framing,
    ) -> Option<Pin<Box<impl Future<Output = Outcome> + Send + 'a>>> {
        let admitted = self.admit(client.head(head), rows, connection)?;
        client.begin(head);
        let connection = connection.clone();
        Some(Box::pin(async move { Passage::new(self, client, connection, admitted, framing).run().await }))
    }
}
