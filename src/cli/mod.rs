//! The command line.

mod app;
mod check;
mod demo;
mod run;
mod schema;

pub use self::app::App;
