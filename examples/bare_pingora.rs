//! The smallest Pingora proxy that puts the same header fields on the wire as Ravelin does: what `benches/compare` measures
//! Ravelin against. What a request costs more in Ravelin is Ravelin's own.
//!
//! `bare_pingora LISTEN [--tls CERT KEY] ENDPOINT…`, addresses all of them. It forgives nothing: it is no proxy to run.

#![expect(clippy::expect_used, reason = "a program for measurements may fail loudly")]

use std::env;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::lb::LoadBalancer;
use pingora::lb::health_check::TcpHealthCheck;
use pingora::lb::selection::RoundRobin;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{Error, ErrorType, HttpPeer, Opt, Result, Server};
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use pingora::services::background::background_service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    balancer: Arc<LoadBalancer<RoundRobin>>,
    scheme: &'static str,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let endpoint = self.balancer.select(b"", 256).ok_or_else(|| Error::new(ErrorType::ConnectNoRoute))?;
        Ok(Box::new(HttpPeer::new(endpoint, false, String::new())))
    }

    async fn upstream_request_filter(&self, session: &mut Session, head: &mut RequestHeader, (): &mut ()) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            head.insert_header("x-forwarded-for", client.ip().to_string())?;
        }
        head.insert_header("x-forwarded-proto", self.scheme)?;
        if let Some(host) = head.headers.get("host").cloned() {
            head.insert_header("x-forwarded-host", host)?;
        }
        head.insert_header("via", "1.1 bare")
    }

    async fn response_filter(&self, _: &mut Session, head: &mut ResponseHeader, (): &mut ()) -> Result<()> {
        head.insert_header("via", "1.1 bare")?;
        head.insert_header("x-proxy", "bench")
    }
}

fn main() {
    let mut arguments = env::args().skip(1).peekable();
    let listen = arguments.next().expect("LISTEN");
    let pair = arguments.next_if_eq("--tls").map(|_| (arguments.next().expect("CERT"), arguments.next().expect("KEY")));
    let directory = env::temp_dir();
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 512,
        pid_file: directory.join("bare_pingora.pid").to_string_lossy().into_owned(),
        upgrade_sock: directory.join("bare_pingora.sock").to_string_lossy().into_owned(),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();

    let mut balancer = LoadBalancer::<RoundRobin>::try_from_iter(arguments).expect("ENDPOINT…");
    balancer.set_health_check(TcpHealthCheck::new());
    balancer.health_check_frequency = Some(Duration::from_secs(1));
    let health = background_service("health", balancer);

    let scheme = if pair.is_some() { "https" } else { "http" };
    let mut proxy = http_proxy_service(&server.configuration, Bare { balancer: health.task(), scheme });
    match pair {
        Some((cert, key)) => {
            let mut settings = TlsSettings::intermediate(&cert, &key).expect("a certificate and its key");
            settings.enable_h2();
            proxy.add_tls_with_settings(&listen, None, settings);
        }
        None => proxy.add_tcp(&listen),
    }
    server.add_service(proxy);
    server.add_service(health);
    server.run_forever();
}
