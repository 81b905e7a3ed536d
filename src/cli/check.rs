//! `ravelin check`: every mistake of a configuration at once.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::app::{config_path, load};
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

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line speaks to a person")]
pub(super) fn check(args: &Args, registry: &Registry) -> ExitCode {
    let path = config_path(args.conf.as_ref());
    let (compiled, report) = load(&path, registry);
    if report.has_errors() || report.warnings() > 0 {
        eprint!("{}", report.render(std::io::stderr().is_terminal()));
    }
    match compiled {
        Some(_) if args.strict && report.warnings() > 0 => ExitCode::FAILURE,
        Some(compiled) => {
            println!(
                "{}: ok ({} listeners, {} routes, {} upstreams)",
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
