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
mod logs;
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
use self::logs::Logs;
use self::reload::{Configuration, First};
use self::signals::Signals;
use crate::admin::{Admin, Api};
use crate::config::{LogOutput, Report};
use crate::observe::{AccessLog, Observers, OpenError};
use crate::proxy::Proxy;
use crate::runtime::{Compiled, InForce, Store};

/// How long the end of the process may wait for what reads its logs.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// An address can't be had.
    #[error(transparent)]
    Bind(#[from] bind::BindError),
    /// The pid file can't be written.
    #[error(transparent)]
    PidFile(#[from] process::PidFileError),
    /// The user can't be had.
    #[error(transparent)]
    Privileges(#[from] process::PrivilegeError),
    /// The log can't be written.
    #[error(transparent)]
    AccessLog(#[from] OpenError),
}

/// Serves until a signal ends the process. Addresses are bound before any thread starts. `load` makes the next configurations.
///
/// # Errors
/// An address can't be bound, the process can't become the user that is configured, or a log can't be opened.
pub(crate) fn serve(compiled: Compiled, report: &Report, load: Load) -> Result<(), StartError> {
    let Compiled { boot, reload, snapshot, tasks } = compiled;
    process::raise_descriptor_limit();
    process::prepare_pid_file(&boot.pingora)?;
    let sockets = bind::all(&boot.listeners)?;
    let admin =
        boot.admin.as_ref().map(|plan| Ok::<_, StartError>((bind::admin(&plan.address)?, plan.token.clone()))).transpose()?;
    process::drop_privileges(&boot.pingora)?;
    // As the user who will have to open it again when it is rotated.
    let access_log = boot.access_log.as_ref().map(AccessLog::open).transpose()?.flatten();
    let observers = Arc::new(Observers { access_log });
    if boot.pingora.daemon && boot.access_log.as_ref().is_some_and(|log| log.output == LogOutput::Stdout) {
        log::warn!("access log goes to standard output, which a daemon does not have: give it a file");
    }
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
    let proxy = Arc::new(http_proxy(&server.configuration, Proxy::new(store.clone(), observers.clone())));
    let drain = Arc::new(Drain::new());
    let listeners = Listeners::new(sockets, proxy.clone(), store.clone(), drain.clone(), observers.clone());
    let listening = server.add_service(listeners);
    if let Some((socket, token)) = admin {
        // It is there before the first connection, and says that none is taken yet.
        let admin = server.add_service(Admin::new(socket, Api::new(token, drain.clone(), store.clone())));
        listening.add_dependency(&admin);
    }
    let first = First { tasks, reload, files: report.files() };
    let in_force = InForce {
        pingora: server.configuration.clone(),
        listeners: boot.listeners,
        access_log: boot.access_log,
        admin: boot.admin,
    };
    let configuration = Configuration::new(load, in_force, store, first);
    let configured = server.add_service(background_service("configuration", configuration));
    listening.add_dependency(&configured);
    let logs = server.add_service(background_service("logs", Logs::new(observers.clone())));
    listening.add_dependency(&logs);
    server.run(RunArgs { shutdown_signal: Box::new(Signals { drain, lame_duck, drain_limit, proxy }) });
    if let Some(log) = &observers.access_log {
        log.finish(LAST_LINES);
    }
    log::info!("stopped");
    Ok(())
}
