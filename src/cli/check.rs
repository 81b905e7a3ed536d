//! `ravelin check`: every mistake of a configuration at once.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::app::{config_path, load, show};
use crate::filter::Registry;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The configuration.
    #[arg(short = 'c', long = "conf", value_name = "FILE", help = format!("The configuration [default: {}]", crate::cli::app::DEFAULT_CONFIG))]
    conf: Option<PathBuf>,
    /// Exit 1 for warnings too.
    #[arg(long)]
    strict: bool,
}

#[expect(clippy::print_stdout, reason = "the command line speaks to a person")]
pub(super) fn check(args: &Args, registry: &Registry) -> ExitCode {
    let path = config_path(args.conf.as_ref());
    let (compiled, report) = load(&path, registry, false, None);
    show(&report, args.conf.as_ref());
    match compiled {
        Some(_) if args.strict && report.warnings() > 0 => ExitCode::FAILURE,
        Some(compiled) => {
            println!(
                "{}: ok (listeners: {}, routes: {}, upstreams: {})",
                path.display(),
                compiled.boot.listeners.len(),
                compiled.snapshot.route_count(),
                compiled.snapshot.upstreams().len(),
            );
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}
