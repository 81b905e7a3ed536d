//! The command line.

mod app;
mod check;
mod demo;
mod logging;
mod run;
mod schema;

pub use self::app::App;
