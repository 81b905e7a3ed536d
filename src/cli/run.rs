//! `ravelin run`: serve.

use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::app::{ConfOrFile, config_path, fail, load, load_to_check, show};
use crate::cli::logging::start_logging;
use crate::config::Report;
use crate::filter::Registry;
use crate::runtime::{Compiled, Snapshot};
use crate::server::{Load, Start, serve};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    conf: ConfOrFile,
    /// Run in the background.
    #[arg(short, long)]
    daemon: bool,
    /// Take the listening sockets over from the process that runs with this configuration; then end it with SIGQUIT.
    #[arg(short, long)]
    upgrade: bool,
    /// Check the configuration and exit, as `ravelin check` does.
    #[arg(short, long)]
    test: bool,
}

pub(super) fn run(args: &Args, registry: Registry) -> ExitCode {
    let path = config_path(args.conf.named());
    if args.test {
        let (compiled, report, _) = load_to_check(&path, &registry);
        show(&report, args.conf.named());
        return if compiled.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let daemon = args.daemon;
    // A process in the background is in another folder when it reads the file again.
    let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    let load = move |previous: Option<&Snapshot>| {
        let path = if previous.is_some() { &absolute } else { &path };
        load(path, &registry, daemon, previous)
    };
    let (compiled, report) = load(None);
    show(&report, args.conf.named());
    let Some(compiled) = compiled else { return ExitCode::FAILURE };
    start_logging();
    let how = if args.upgrade { Start::Upgrade } else { Start::Fresh };
    start(compiled, &report, Arc::new(load), how)
}

/// Serves until a signal comes.
pub(super) fn start(compiled: Compiled, report: &Report, load: Load, how: Start) -> ExitCode {
    match serve(compiled, report, load, how) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}
