//! The process: sockets bound first, then Pingora's server with Ravelin's own listening service and background work in it.

#[cfg(any(test, feature = "fuzzing"))]
mod agreement;
mod alarm;
mod background;
mod bind;
mod clients;
mod connection;
mod descriptors;
mod drain;
mod engine;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod handshake;
mod head;
mod http2;
mod listeners;
mod logs;
mod private;
mod process;
mod proxy_protocol;
mod ready;
mod refusals;
mod reload;
mod sandbox;
mod signals;
mod socket;
mod stream;
mod supervisor;
mod upgrade;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::background::background_service;
use rustix::process::geteuid;
use tokio::sync::{oneshot, watch};

pub(crate) use self::bind::{BoundSocket, Socket};
pub(crate) use self::drain::Drain;
pub(crate) use self::head::{arrived, verdict};
pub(crate) use self::process::{find_group, find_user};
pub(crate) use self::reload::Load;

use self::background::Launcher;
use self::bind::{Binder, Bound, SocketFile};
use self::engine::engine;
use self::listeners::Listeners;
use self::logs::Logs;
use self::private::{Folder, PidFile};
use self::process::Heir;
use self::ready::Waiting;
use self::reload::{Configuration, First};
use self::sandbox::{Places, Sandbox};
use self::signals::{Signals, Times};
use self::upgrade::{Door, Offer, Predecessor, Successors, Tenure};
use crate::admin::{Admin, Api};
use crate::config::{LogOutput, Report};
use crate::observe::{AccessLog, Budget, Observers, OpenError, metrics};
use crate::proxy::Proxy;
use crate::runtime::{BootPlan, Compiled, InForce, Store};

/// How long the end of the process may wait for what reads its logs.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long each side of an upgrade waits for the other (`upgrade_sock_connect_accept_max_retries`).
const UPGRADE_WAIT: usize = 5;

/// How the process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// By itself.
    Fresh,
    /// With the sockets of the process that runs (`-u`).
    Upgrade,
    /// By itself, and leaving no trace in the file system: no pid file, and no successor.
    Alone,
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// An address can't be had.
    #[error(transparent)]
    Bind(#[from] bind::BindError),
    /// There is nothing to take over.
    #[error(transparent)]
    Upgrade(#[from] upgrade::UpgradeError),
    /// The socket of upgrades can't be had, and is configured.
    #[error("can't listen on `upgrade_sock: {0}`: {1}")]
    UpgradeSocket(String, io::Error),
    /// It can't go to the background.
    #[error(transparent)]
    Background(#[from] background::BackgroundError),
    /// The pid file can't be written.
    #[error(transparent)]
    PidFile(#[from] private::PidFileError),
    /// The user can't be had.
    #[error(transparent)]
    Privileges(#[from] process::PrivilegeError),
    /// The log can't be written.
    #[error(transparent)]
    AccessLog(#[from] OpenError),
    /// Pingora's engine can't be had.
    #[error("the proxy can't be started: {0}")]
    Engine(io::Error),
}

/// What a process has before it becomes the one that serves.
struct Seat {
    listeners: Vec<Bound>,
    admin: Option<BoundSocket>,
    upgrade: Option<(UnixListener, SocketFile)>,
    offers: Vec<Offer>,
    predecessor: Option<Predecessor>,
    tenure: Tenure,
    pid_file: Option<PidFile>,
    /// Whom it ran as when it began.
    uid: u32,
    /// Goes last.
    folder: Option<Folder>,
}

/// Serves until a signal ends the process. Addresses are bound before any thread starts, and before the process goes to the background
/// or becomes another user. `load` makes the next configurations.
///
/// # Errors
/// An address can't be bound, the process can't become the user that is configured, or a log can't be opened.
pub(crate) fn serve(compiled: Compiled, report: &Report, load: Load, start: Start) -> Result<(), StartError> {
    signals::hold();
    process::raise_descriptor_limit();
    let seat = take_seat(&compiled.boot, start)?;
    let user = process::future_user(&compiled.boot.pingora)?;
    for client in compiled.snapshot.acme_clients() {
        client.make_folders(user);
    }
    let asks_authorities = compiled.snapshot.acme_clients().next().is_some();
    let names = asks_authorities || compiled.snapshot.upstreams().iter().any(|upstream| upstream.has_names());
    let sockets = seat.predecessor.iter().flat_map(Predecessor::files);
    // While paths are still meant from the folder in which the process was started.
    let files: Vec<_> = report.files().into_iter().chain(report.followed().iter().cloned()).collect();
    let places = Places::of(&compiled.boot, &files, names)
        .with_sockets(sockets)
        .with_storage(compiled.snapshot.acme_clients().map(|client| client.folder()));
    let conf = &compiled.boot.pingora;
    let launcher = if conf.daemon { Some(background::enter(conf, conf.daemon_wait_for_ready)?) } else { None };
    let launcher = Arc::new(Mutex::new(launcher));
    let served = settle(compiled, report, load, seat, places, launcher.clone());
    if let (Err(error), Some(launcher)) = (&served, launcher.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        launcher.failed(&error.to_string());
    }
    served
}

/// Takes sockets and files, as the user who started this.
fn take_seat(boot: &BootPlan, start: Start) -> Result<Seat, StartError> {
    let conf = &boot.pingora;
    let (user, heir) = (process::future_user(conf)?, Heir::of(conf)?);
    let tenure = Tenure::default();
    let upgrade_sock = Path::new(&conf.upgrade_sock);
    let predecessor = match start {
        Start::Upgrade => Some(Predecessor::find(upgrade_sock, upgrade_wait(conf), user, &tenure)?),
        Start::Fresh | Start::Alone => None,
    };
    let mut binder = Binder::new(predecessor, tenure.clone(), heir);
    let listeners = binder.listeners(&boot.listeners)?;
    let admin = boot.admin.as_ref().map(|plan| binder.admin(plan)).transpose()?;
    let (folder, upgrade, pid_file) = if start == Start::Alone {
        (None, None, None)
    } else {
        let folder = make_folder(boot, user, heir);
        (folder, bind_upgrade(&mut binder, boot)?, claim_pid_file(boot, start)?)
    };
    let (predecessor, offers) = binder.finish();
    let uid = geteuid().as_raw();
    Ok(Seat { listeners, admin, upgrade, offers, predecessor, tenure, pid_file, uid, folder })
}

/// The folder of pid file and socket, where the file does not say where they are.
fn make_folder(boot: &BootPlan, user: Option<u32>, heir: Heir) -> Option<Folder> {
    let paths = [
        (boot.given.pid_file.is_some(), &boot.pingora.pid_file),
        (boot.given.upgrade_sock.is_some(), &boot.pingora.upgrade_sock),
    ];
    let path = paths.iter().find(|(given, _)| !given).and_then(|(_, path)| Path::new(path).parent())?;
    let made = Folder::make(path, user, heir);
    made.inspect_err(|error| log::warn!("the process's own folder can't be had path={} error={error}", path.display())).ok()
}

/// Without it upgrades are not possible: a reason not to start only for who asked for it.
fn bind_upgrade(binder: &mut Binder, boot: &BootPlan) -> Result<Option<(UnixListener, SocketFile)>, StartError> {
    let path = &boot.pingora.upgrade_sock;
    match binder.upgrade(Path::new(path)) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if boot.given.upgrade_sock.is_some() => Err(StartError::UpgradeSocket(path.clone(), error)),
        Err(error) => {
            log::warn!("no upgrade will be possible upgrade_sock={path} error={error}");
            Ok(None)
        }
    }
}

/// Likewise; a daemon can't be found without it.
fn claim_pid_file(boot: &BootPlan, start: Start) -> Result<Option<PidFile>, StartError> {
    match PidFile::claim(Path::new(&boot.pingora.pid_file), start == Start::Upgrade) {
        Ok(claimed) => Ok(Some(claimed)),
        Err(error) if boot.given.pid_file.is_some() || boot.pingora.daemon => Err(error.into()),
        Err(error) => {
            log::warn!("{error}");
            Ok(None)
        }
    }
}

/// Becomes the process that serves, and serves.
fn settle(
    compiled: Compiled,
    report: &Report,
    load: Load,
    mut seat: Seat,
    places: Places,
    launcher: Arc<Mutex<Option<Launcher>>>,
) -> Result<(), StartError> {
    let Compiled { boot, reload, snapshot, tasks, tests: _ } = compiled;
    if let Some(pid_file) = &mut seat.pid_file {
        pid_file.write()?;
    }
    process::drop_privileges(&boot.pingora)?;
    let (files, patterns) = (report.files(), report.patterns().to_vec());
    // Before the first thread: what starts later has no more rights than this.
    let sandbox = Sandbox::enter(boot.hardening, places);
    // As the user who will have to open it again when it is rotated.
    let access_log = boot.access_log.as_ref().map(AccessLog::open).transpose()?.flatten();
    let observers = Arc::new(Observers { access_log, budget: Budget::default() });
    if boot.pingora.daemon && boot.access_log.as_ref().is_some_and(|log| log.output == LogOutput::Stdout) {
        log::warn!("access log goes to standard output, which a daemon does not have: give it a file");
    }
    log::info!(
        "starting version={} pid={} routes={} upstreams={} listeners={} threads={}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        snapshot.route_count(),
        snapshot.upstreams().len(),
        seat.listeners.len(),
        boot.pingora.threads,
    );
    let store = Arc::new(Store::new(snapshot));
    let first = First { tasks, reload, files, patterns, sandbox };
    run(boot, Configured { load, first, store, observers }, seat, launcher)?;
    log::info!("stopped");
    Ok(())
}

/// What requests are served by.
struct Configured {
    load: Load,
    first: First,
    store: Arc<Store>,
    observers: Arc<Observers>,
}

/// Puts Pingora's server together and runs it.
fn run(boot: BootPlan, configured: Configured, seat: Seat, launcher: Arc<Mutex<Option<Launcher>>>) -> Result<(), StartError> {
    let Configured { load, first, store, observers } = configured;
    let times = times(&boot.pingora);
    let in_force = InForce {
        pingora: boot.keys(),
        listeners: boot.listeners,
        access_log: boot.access_log,
        admin: boot.admin.clone(),
        hardening: boot.hardening,
    };
    // The process is in the background already, if it should be. No command line of Pingora's: ours has the same flags.
    let conf = ServerConf { daemon: false, user: None, group: None, ..boot.pingora };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let proxy = Proxy::new(store.clone(), observers.clone(), &server.configuration);
    let express = Arc::new(proxy.express(&server.configuration));
    let proxy = engine(&server.configuration, proxy).map_err(StartError::Engine)?;
    let drain = Arc::new(Drain::new());
    let successors = Arc::new(Successors::new(seat.offers, [seat.uid, geteuid().as_raw()]));
    let (settled, is_settled) = watch::channel(false);
    let shared = seat.predecessor.is_some();
    let pid_file = Arc::new(Mutex::new(seat.pid_file));
    let waiting = Waiting { launcher, predecessor: seat.predecessor, settled, pid_file: pid_file.clone() };
    let listeners =
        Listeners::new(seat.listeners, waiting, (proxy.clone(), express), store.clone(), drain.clone(), observers.clone());
    let listening = server.add_service(listeners);
    if let (Some(socket), Some(plan)) = (seat.admin, boot.admin) {
        // It is there before the first connection, and says that none is taken yet.
        let api = Api::new(plan.token, drain.clone(), store.clone());
        let admin = server.add_service(Admin::new(socket, shared, api, drain.clone()));
        listening.add_dependency(&admin);
    }
    if let Some(socket) = seat.upgrade {
        let socket = Mutex::new(Some(socket));
        let door = Door { successors: successors.clone(), socket, settled: is_settled.clone(), drain: drain.clone() };
        server.add_service(background_service("upgrades", door));
    }
    let (caught, catching) = oneshot::channel();
    let configuration = Configuration::new(load, in_force, store, first, is_settled.clone(), caught);
    let configured = server.add_service(background_service("configuration", configuration));
    listening.add_dependency(&configured);
    let logs = server.add_service(background_service("logs", Logs::new(observers.clone())));
    listening.add_dependency(&logs);
    let tenure = seat.tenure.clone();
    let signals = Signals { caught: Mutex::new(Some(catching)), drain, successors, tenure: seat.tenure, times, proxy };
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    await_records();
    if let Some(log) = &observers.access_log {
        log.finish(LAST_LINES);
    }
    tenure.let_all_go();
    drop(pid_file);
    drop(seat.folder);
    Ok(())
}

fn times(conf: &ServerConf) -> Times {
    Times {
        lame_duck: Duration::from_secs(conf.grace_period_seconds.unwrap_or(0)),
        drain: Duration::from_secs(conf.graceful_shutdown_timeout_seconds.unwrap_or(30)),
        successor: upgrade_wait(conf),
    }
}

fn upgrade_wait(conf: &ServerConf) -> Duration {
    let seconds = conf.upgrade_sock_connect_accept_max_retries.unwrap_or(UPGRADE_WAIT);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

/// What was cut off is recorded when it is dropped, by threads that end after Pingora has: no line of log is to be lost for that.
fn await_records() {
    let until = Instant::now() + LAST_LINES;
    while metrics().in_flight() > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}
