//! What the integration tests share: a Ravelin process, scripted origins and raw clients, all on loopback.
//!
//! ```ignore
//! mod support;
//! use support::{Answer, Connection, Deadline, Origin, Ravelin};
//!
//! let deadline = Deadline::standard();
//! let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
//! let ravelin = Ravelin::start(&format!(
//!     "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
//!      upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\n\
//!      routes: {{all: {{upstream: a}}}}\n", origin.address()));
//! let mut client = Connection::open(ravelin.address(), deadline).unwrap();
//! client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").unwrap();
//! assert_eq!(client.response("GET", deadline).unwrap().body, b"hello");
//! assert_eq!(origin.requests()[0].head.first, b"GET / HTTP/1.1");
//! ```
//!
//! Rules: only loopback; no fixed ports; no sleep where an event can be awaited; whoever waits has a
//! [`Deadline`]; whatever is started ends when its value is dropped.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, reason = "a test whose surroundings fail has nothing better to do than to panic")]

pub(crate) mod covers;
mod deadline;
mod dns;
mod download;
mod endpoint;
mod events;
mod http1;
mod http2;
mod load;
mod origin;
pub(crate) mod pebble;
mod pki;
mod ports;
mod process;
mod serve;
pub(crate) mod tls;
mod usage;
mod wire;

pub(crate) use deadline::Deadline;
pub(crate) use dns::{NameServer, Says};
pub(crate) use download::Halfway;
pub(crate) use endpoint::{Endpoint, Reached};
pub(crate) use events::Events;
pub(crate) use http1::{Connection, Outgoing};
pub(crate) use http2::H2Connection;
pub(crate) use load::{Load, Mirror, NAME};
pub(crate) use origin::{Action, Answer, Bind, Origin, Received, Trigger};
pub(crate) use pki::{Authority, Pair};
pub(crate) use ports::{Reserved, free_port, has_ipv6};
pub(crate) use process::{Launch, Log, Ravelin, Signal, listeners, use_program};
pub(crate) use usage::{Usage, full, get, may_open, metric, metrics, until_metric, until_nothing_is_left};
pub(crate) use wire::{Field, Head, Response, Transcript, Trouble, message_length, request_parts, shortened, visible};

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

/// The runtime of everything asynchronous in here; tests themselves are plain threads.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime for the tests starts"));

pub(crate) fn runtime() -> &'static Runtime {
    &RUNTIME
}
