//! The compiled model: what a configuration becomes before it serves.

mod acme;
mod circles;
mod compile;
mod errors;
mod https;
mod mirror;
mod routes;
mod snapshot;
mod split;
mod store;
mod tasks;
mod trust;

pub(crate) use self::compile::{AdminPlan, BootPlan, Compiled, InForce, ListenerPlan, compile, compile_offline};
pub(crate) use self::errors::ErrorPages;
pub(crate) use self::https::HttpsPorts;
pub(crate) use self::mirror::{Mirror, Place};
pub use self::routes::{Asked, Routes};
pub(crate) use self::snapshot::{Action, ListenerPolicy, Matched, Redirect, Respond, Route, Snapshot};
pub(crate) use self::split::{Side, Split};
pub(crate) use self::store::Store;
pub(crate) use self::tasks::Upkeep;
pub(crate) use self::trust::Trust;
