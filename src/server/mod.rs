//! The process: sockets bound first, then Pingora's server with Ravelin's own listening service and background work in it.

mod bind;
mod chunks;
mod clients;
mod connection;
mod drain;
mod gate;
mod head;
mod http2;
mod listeners;
mod signals;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use pingora_core::server::configuration::Opt;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use pingora_proxy::http_proxy;

pub(crate) use self::bind::BindError;
pub(crate) use self::signals::Stop;

use self::drain::Drain;
use self::listeners::Listeners;
use self::signals::Signals;
use crate::proxy::Proxy;
use crate::runtime::{Compiled, Store, Upkeep};

/// Serves until a signal or `stop` ends the process's service. Addresses are bound before any thread starts.
///
/// # Errors
/// An address can't be bound.
pub(crate) fn serve(compiled: Compiled, stop: Stop) -> Result<(), BindError> {
    let Compiled { boot, snapshot, tasks } = compiled;
    let sockets = bind::all(&boot.listeners)?;
    let drain_limit = Duration::from_secs(boot.pingora.graceful_shutdown_timeout_seconds.unwrap_or(30));
    let lame_duck = Duration::from_secs(boot.pingora.grace_period_seconds.unwrap_or(0));

    log::info!(
        "starting version={} routes={} upstreams={} listeners={} threads={}",
        env!("CARGO_PKG_VERSION"),
        snapshot.route_count(),
        snapshot.upstreams().len(),
        sockets.len(),
        boot.pingora.threads,
    );
    let store = Arc::new(Store::new(snapshot));
    // No command line of Pingora's: ours has the same flags.
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, boot.pingora);
    server.bootstrap();
    let proxy = Arc::new(http_proxy(&server.configuration, Proxy::new(store.clone())));
    let drain = Arc::new(Drain::new());
    let listeners = Listeners::new(sockets, proxy.clone(), store.clone(), drain.clone());
    let listening = server.add_service(listeners);
    let upkeep = server.add_service(background_service("upkeep", Upkeep::new(store, tasks)));
    listening.add_dependency(&upkeep);
    server.run(RunArgs { shutdown_signal: Box::new(Signals { drain, lame_duck, drain_limit, stop, proxy }) });
    log::info!("stopped");
    Ok(())
}
