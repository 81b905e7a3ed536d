//! `ravelin schema`: the JSON Schema of the configuration file.

use std::process::ExitCode;

use crate::cli::app::say;
use crate::filter::Registry;

pub(super) fn print(registry: &Registry) -> ExitCode {
    say(&format!("{:#}\n", crate::config::schema(registry)))
}
