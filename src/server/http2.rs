//! HTTP/2 connections: the framing is Pingora's; each stream enters the proxy like any other request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use crate::filter::Scheme;
use crate::proxy::{CONNECTION, Clock, Connection, Proxy};
use crate::server::listeners::Origin;
use crate::server::stream::Conn;

/// An idle connection ends after this long (`limits.idle_timeout`).
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How much longer than its time an exchange may take to end by itself.
const GRACE: Duration = Duration::from_millis(100);

/// Serves an HTTP/2 connection until it ends.
pub(super) async fn serve(conn: Conn, client: Option<SocketAddr>, listener: Arc<str>, origin: &Origin) {
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(IDLE_TIMEOUT);
    let app = Arc::new(Streams { proxy: origin.proxy.clone(), client, listener, options });
    // Pingora's own watch tells the session to send GOAWAY; ours ends when the process stops accepting.
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let mut serving = Box::pin(app.process_new(Box::new(conn), &shutdown));
    tokio::select! {
        _ = &mut serving => return,
        () = origin.drain.closing() => {}
    }
    // The receiver lives in this function: sending can't fail.
    let _ = stop.send(true);
    serving.await;
}

struct Streams {
    proxy: Arc<HttpProxy<Proxy>>,
    client: Option<SocketAddr>,
    listener: Arc<str>,
    options: HttpServerOptions,
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(self: &Arc<Self>, session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let clock = Arc::new(Clock::new());
        let connection =
            Connection { listener: self.listener.clone(), client: self.client, scheme: Scheme::Http, clock: clock.clone() };
        // Streams share a connection, so its reads can't tell one that its time is up: the exchange is dropped, which resets it.
        let overdue = async {
            clock.expiry().await;
            // Before the head of a response, Pingora's own timeout may still turn this into a 504.
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            reused = CONNECTION.scope(connection, self.proxy.process_new_http(session, shutdown)) => reused,
            () = overdue => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(default_h2_options())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
