//! `ravelin schema`: the JSON Schema of the configuration file.

use std::process::ExitCode;

use crate::filter::Registry;

#[expect(clippy::print_stdout, reason = "the command line speaks to a person")]
pub(super) fn print(registry: &Registry) -> ExitCode {
    println!("{:#}", crate::config::schema(registry));
    ExitCode::SUCCESS
}
