//! The express lane: plain exchanges with HTTP/1.1 endpoints without Pingora's proxy, its client sessions and its header maps.
//!
//! A request that the strict classifier admits (`classify`) is carried over the bytes of its head: fields are places in them
//! (`table`), edits are appended, and head and body go out in as few writes as there are. All that is decided is decided by the same
//! code as on the general way: routes, filters, endpoints, limits, deadlines, records. Whatever is unusual goes the general way, request by
//! request, on the same connection; and since nothing has happened to a request before it is admitted, it starts there as if it had
//! come there first.
//!
//! A stream of HTTP/2 takes the lane as a head in bytes, as HTTP/1 would write it (`translate`). Its framing is Pingora's, and what goes back to it
//! are heads and data; where an answer is made is the one place that knows of the two.

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
mod translate;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::server::configuration::ServerConf;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::io::AsyncRead;

pub(crate) use self::classify::Admitted;
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
    /// With the stream that it comes on.
    Stream,
}

/// A client, as an exchange uses it: a connection, or a stream of one.
///
/// Reading gives the bytes of the current request's body as they are on the wire, and no more. It fails when a deadline of the exchange passes.
pub(crate) trait Downstream: AsyncRead + Unpin + Send + Sync {
    /// Whether heads are handed over as such, and bodies as their data alone: the framing is not ours. Otherwise all is bytes.
    const FRAMES: bool;

    /// Hands the head of an answer over, where there are frames. `end`: no data follows.
    fn send_head(&mut self, head: ResponseHeader, end: bool) -> io::Result<()>;

    /// Writes what the client takes now. `last`: the answer ends with these bytes.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8], last: bool) -> Poll<io::Result<usize>>;

    /// Waits until all that was written has left.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Likewise, once the whole answer was written.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Once its whole request has been read: ends when the client leaves, or a deadline passes.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Fails once a deadline of the exchange has passed, where nothing is read.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Where the client asked.
    fn facing(&self) -> Option<SocketAddr>;

    /// Whether clients are told to leave.
    fn is_stopping(&self) -> bool;
}

/// A connection on which one request follows the other, as bytes.
pub(crate) trait Line: Downstream {
    /// What has come of the current head.
    fn head(&self, length: usize) -> &[u8];

    /// Takes the head away: from now on its body is read.
    fn begin(&mut self, head: usize);
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
    pub(crate) fn serve<'a, L: Line>(
        &'a self,
        client: &'a mut L,
        connection: &Arc<Connection>,
        head: usize,
        rows: Rows,
        framing: Framing,
    ) -> Option<Pin<Box<impl Future<Output = Outcome> + Send + 'a>>> {
        let admitted = self.admit_line(client.head(head), rows, framing, connection)?;
        client.begin(head);
        Some(self.carry(client, connection, admitted))
    }

    /// Looks at the request of a stream; `empty`: it has no body. `None`: it is one for the general way, and nothing has happened to it.
    pub(crate) fn admit_stream(&self, head: &RequestHeader, empty: bool, connection: &Connection) -> Option<Admitted> {
        let (head, framing) = translate::request(head, empty, connection)?;
        self.admit(head, framing, connection)
    }

    /// Carries a request that was admitted.
    ///
    /// The exchange has memory of its own, which is gone while the connection waits for its next request.
    pub(crate) fn carry<'a, D: Downstream>(
        &'a self,
        client: &'a mut D,
        connection: &Arc<Connection>,
        admitted: Admitted,
    ) -> Pin<Box<impl Future<Output = Outcome> + Send + 'a>> {
        let connection = connection.clone();
        Box::pin(async move { Passage::new(self, client, connection, admitted).run().await })
    }
}
