//! Ravelin: a hardened, programmable edge proxy on Cloudflare's Pingora.
//!
//! Most people run the binary and write YAML. This library is for those who extend it with filters of their own: a
//! [`Filter`](filter::Filter) is one step that a request passes, registered with [`App::filter`] and configured by its name in the same file as
//! everything else. The program that comes out has Ravelin's command line: `run`, `check`, `explain`, `test`, `schema`, `demo`.
//!
//! ```no_run
//! use ravelin::prelude::*;
//!
//! /// Tells clients the time that a request took until its response began.
//! struct Took;
//!
//! /// It has no settings: `took: {}`.
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct TookConfig {}
//!
//! impl Filter for Took {
//!     const NAME: &'static str = "took";
//!     type Config = TookConfig;
//!     type State = ();
//!
//!     fn build(_: TookConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
//!         Ok(Self)
//!     }
//!
//!     fn hooks(&self) -> Hooks {
//!         Hooks::RESPONSE
//!     }
//!
//!     async fn response(&self, res: &mut ResponseCx<'_>, _: &mut ()) -> Result<(), Error> {
//!         let millis = res.exchange().started.elapsed().as_millis();
//!         Ok(res.set_header("x-took", format!("{millis}ms"))?)
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     App::new().filter::<Took>().run()
//! }
//! ```

pub mod config;
pub mod filter;
pub mod filters;
pub mod tls;
pub mod types;
pub mod upstream;

mod admin;
mod cli;
mod observe;
mod proxy;
mod router;
mod runtime;
mod server;

/// The Pingora that this Ravelin is built on: what [`RequestCx::session`](filter::RequestCx::session) gives is of its types.
pub use pingora;

pub use crate::cli::App;
pub use crate::filter::testing;
pub use crate::proxy::{offline, trace};
#[doc(hidden)]
pub use crate::runtime::{Asked, Routes};
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use crate::server::fuzzing;

/// What a filter's source needs.
pub mod prelude {
    pub use std::process::ExitCode;

    pub use crate::cli::App;
    pub use crate::config::Spanned;
    pub use crate::filter::{
        BodyCx, BuildCx, BuildError, Error, Field, Fields, Filter, Flow, Hooks, LogCx, Reply, Request, RequestCx, RequestView,
        ResponseCx, Trailers, UpstreamCx, UpstreamRef,
    };
    pub use crate::testing::Harness;
}
