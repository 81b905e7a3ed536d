//! `ravelin check`: every mistake of a configuration at once.

use std::process::ExitCode;

use crate::cli::app::{ConfOrFile, config_path, load_to_check, show};
use crate::filter::Registry;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    conf: ConfOrFile,
    /// Exit 1 for warnings too, but for those about what this machine lacks.
    #[arg(long)]
    strict: bool,
}

#[expect(clippy::print_stdout, reason = "the command line speaks to a person")]
pub(super) fn check(args: &Args, registry: &Registry) -> ExitCode {
    let path = config_path(args.conf.named());
    let (compiled, report, warnings) = load_to_check(&path, registry);
    show(&report, args.conf.named());
    match compiled {
        Some(_) if args.strict && warnings > 0 => ExitCode::FAILURE,
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
