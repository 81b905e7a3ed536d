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
mod process;
mod reload;
mod signals;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use pingora_core::server::configuration::Opt;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use pingora_proxy::http_proxy;

pub(crate) use self::bind::{BoundSocket, SocketFile};
pub(crate) use self::drain::Drain;
pub(crate) use self::reload::Load;

use self::listeners::Listeners;
use self::reload::{Configuration, First};
use self::signals::Signals;
use crate::admin::{Admin, Api};
use crate::config::Report;
use crate::observe::Observers;
use crate::proxy::Proxy;
use crate::runtime::{Compiled, Store};

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// An address can't be had.
    #[error(transparent)]
    Bind(#[from] bind::BindError),
    /// The user can't be had.
    #[error(transparent)]
    Privileges(#[from] process::PrivilegeError),
}

/// Serves until a signal ends the process. Addresses are bound before any thread starts. `load` makes the next configurations.
///
/// # Errors
/// An address can't be bound, or the process can't become the user that is configured.
pub(crate) fn serve(compiled: Compiled, report: &Report, load: Load) -> Result<(), StartError> {
    let Compiled { boot, reload, snapshot, tasks } = compiled;
    process::raise_descriptor_limit();
    let sockets = bind::all(&boot.listeners)?;
    let admin =
        boot.admin.as_ref().map(|plan| Ok::<_, StartError>((bind::admin(&plan.address)?, plan.token.clone()))).transpose()?;
    process::drop_privileges(&boot.pingora)?;
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
    let observers = Arc::new(Observers::default());
    let proxy = Arc::new(http_proxy(&server.configuration, Proxy::new(store.clone(), observers.clone())));
    let drain = Arc::new(Drain::new());
    let listening = server.add_service(Listeners::new(sockets, proxy.clone(), store.clone(), drain.clone(), observers));
    if let Some((socket, token)) = admin {
        // It is there before the first connection, and says that none is taken yet.
        let admin = server.add_service(Admin::new(socket, Api::new(token, drain.clone(), store.clone())));
        listening.add_dependency(&admin);
    }
    let first = First { tasks, reload, files: report.files() };
    let configuration = Configuration::new(load, server.configuration.clone(), (boot.listeners, boot.admin), store, first);
    let configured = server.add_service(background_service("configuration", configuration));
    listening.add_dependency(&configured);
    server.run(RunArgs { shutdown_signal: Box::new(Signals { drain, lame_duck, drain_limit, proxy }) });
    log::info!("stopped");
    Ok(())
}
