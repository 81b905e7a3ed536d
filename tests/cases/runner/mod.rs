//! Reads and plays case files; the format is described in `tests/cases/README.md`.

mod block;
mod checks;
mod config;
mod exchange;
mod model;
mod observe;
mod parse;
mod report;
mod run;
pub(crate) mod selftest;
mod stage;
mod steps;
mod text;
mod verify;

pub(crate) use model::Case;
pub(crate) use parse::parse;
pub(crate) use run::play;
pub(crate) use stage::Against;
