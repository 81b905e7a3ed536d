//! Ravelin's `ProxyHttp`: each of Pingora's hooks is a few lines that call the route's chain.
//!
//! The order on live traffic: [`request`] admits and routes a request and walks it through its filters; [`upstream`] picks an
//! endpoint and makes the copy that is sent; [`response`] walks the answer back; [`reply`] sends the answers that Ravelin makes
//! itself; [`failure`] turns what went wrong into one of them; [`self::log`] records how it ended.

mod acme;
mod affinity;
mod bounds;
mod chunks;
mod clock;
mod connect;
mod ctx;
mod enter;
mod express;
mod failure;
mod followed;
mod forwarded;
pub(crate) mod frame;
mod framed;
mod grpc;
mod head;
mod hedge;
mod hpack;
mod https;
mod judge;
mod log;
mod mirror;
pub mod offline;
mod outcome;
mod overload;
mod pace;
mod purse;
mod reply;
mod request;
mod response;
mod retry;
mod session;
mod settle;
mod split;
pub mod trace;
mod upstream;
mod uptake;
mod via;
mod watch;
mod who;
mod wrapping;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

pub(crate) use self::chunks::Chunks;
pub(crate) use self::clock::{Clock, Expired};
pub(crate) use self::connect::Dialer;
use self::ctx::Ctx;
pub(crate) use self::ctx::{Connection, StreamBounds, serve};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::express::fuzzing as express_fuzzing;
pub(crate) use self::express::{Downstream, Express, Framing, Line, Outcome, Rows};
pub(crate) use self::failure::{PLAINTEXT, refusal};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::framed::found_alike;
pub(crate) use self::log::{Refused, refused_barely, refused_silently, refused_unseen};
use self::overload::Load;
pub(crate) use self::pace::Pace;
pub(crate) use self::purse::Purse;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::split::cookies;
pub(crate) use self::trace::explained;
pub(crate) use self::uptake::Uptake;
use self::via::Via;
use crate::observe::Observers;
use crate::runtime::Store;

/// The proxy: one for all listeners.
pub(crate) struct Proxy(Arc<Common>);

/// What both lanes have in common.
pub(crate) struct Common {
    store: Arc<Store>,
    observers: Arc<Observers>,
    via: Via,
    load: Arc<Load>,
    dialer: Dialer,
    /// How often Pingora tries a request at most.
    max_tries: u32,
    mirrors: mirror::Mirrors,
    /// Connections of requests that may go to two endpoints at once.
    hedges: hedge::Hedges,
}

impl Proxy {
    pub(crate) fn new(store: Arc<Store>, observers: Arc<Observers>, settings: &ServerConf) -> Self {
        let max_tries = u32::try_from(settings.max_retries).unwrap_or(u32::MAX);
        let mirrors = mirror::Mirrors::new(settings);
        let (via, load, dialer) = (Via::new(), Arc::new(Load::new()), Dialer::new(settings));
        let hedges = Arc::new(Connector::new_custom(Some(ConnectorOptions::from_server_conf(settings)), dialer.clone()));
        Self(Arc::new(Common { store, observers, via, load, dialer, max_tries, mirrors, hedges }))
    }

    /// The express lane beside it.
    pub(crate) fn express(&self, conf: &ServerConf) -> Express {
        Express::new(self.0.clone(), conf)
    }

    /// Opens connections to endpoints.
    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }
}

impl std::ops::Deref for Proxy {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.0
    }
}

type Result<T> = pingora_core::Result<T>;

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Box<Ctx>;

    fn new_ctx(&self) -> Box<Ctx> {
        Ctx::new(self.observers.clone())
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // None: Pingora's compression module would be here, switched off.
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<bool> {
        self.handle_request(session, ctx).await
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        upstream::request_body(session, body, end, ctx, self).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<Ctx>) -> Result<Box<HttpPeer>> {
        upstream::select(session, ctx, self).await
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Box<Ctx>,
    ) -> Result<()> {
        ::log::debug!("connected endpoint={} reused={reused}", peer._address);
        upstream::connected(session, reused, ctx);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Box<Ctx>,
        error: Box<pingora_core::Error>,
    ) -> Box<pingora_core::Error> {
        upstream::connect_failed(session, ctx, error, self.max_tries)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<pingora_core::Error>,
        ctx: &mut Box<Ctx>,
        reused: bool,
    ) -> Box<pingora_core::Error> {
        upstream::exchange_failed(session, error, ctx, reused, self.max_tries)
    }

    async fn upstream_request_filter(&self, session: &mut Session, head: &mut RequestHeader, ctx: &mut Box<Ctx>) -> Result<()> {
        upstream::prepare_request(session, head, ctx, self).await
    }

    async fn upstream_response_filter(&self, session: &mut Session, head: &mut ResponseHeader, ctx: &mut Box<Ctx>) -> Result<()> {
        retry::by_status(session, head, ctx, self.max_tries)
    }

    async fn response_filter(&self, session: &mut Session, head: &mut ResponseHeader, ctx: &mut Box<Ctx>) -> Result<()> {
        self.handle_response(session, head, ctx).await
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<Duration>> {
        if end {
            ctx.connection.clock.clear_step();
        } else {
            response::body_arrived(ctx, Instant::now());
        }
        Ok(None)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<Duration>> {
        response::body(body, end, ctx)?;
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut http::HeaderMap,
        ctx: &mut Box<Ctx>,
    ) -> Result<Option<Bytes>> {
        response::trailers(trailers, ctx)?;
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &pingora_core::Error, ctx: &mut Box<Ctx>) -> FailToProxy {
        self.handle_failure(session, error, ctx).await
    }

    // What failed is logged once, by `logging`, with who is at fault.
    fn suppress_error_log(&self, _: &Session, _: &Box<Ctx>, _: &pingora_core::Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Box<Ctx>, _: &pingora_core::Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, _: Option<&pingora_core::Error>, ctx: &mut Box<Ctx>) {
        log::finish(session, ctx);
    }
}
