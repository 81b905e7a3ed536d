//! The command line.

mod app;
mod check;
mod demo;
mod explain;
mod foresight;
mod logging;
mod run;
mod schema;
mod test;

pub use self::app::App;
