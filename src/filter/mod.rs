//! The hook contract: what a request-phase filter is, what it sees, and what it may do.
//!
//! A [`Filter`] is built once per configuration and shared by all requests; what it remembers of one request is its
//! `State`. Filters run in the order of the file on the request and walk back on the response:
//!
//! * every response walks back, Ravelin's own errors included, through exactly the filters whose `request` said
//!   [`Flow::Next`];
//! * an `Err` ends the request with its status; once the response's head is out, it aborts visibly. A panic is a 500;
//! * `log` runs exactly once for every filter that a request entered;
//! * a hook that [`Filter::hooks`] leaves out costs nothing.
//!
//! Nothing in this module but [`RequestCx::session`] knows Pingora: heads are seen through [`Fields`].

mod build;
mod chain;
mod cx;
mod erased;
mod error;
mod exchange;
mod head;
mod hooks;
mod kept;
mod registry;
mod reply;
pub mod testing;

use std::future::Future;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub(crate) use self::build::Keeping;
pub use self::build::{BuildCx, BuildError, TaskFuture, UpstreamRef};
pub(crate) use self::chain::{Chain, Run, Slot};
pub use self::cx::{BodyCx, LogCx, RequestCx, RequestView, ResponseCx, Trailers, UpstreamCx};
pub(crate) use self::erased::ErasedFilter;
pub use self::error::{Error, Party};
pub use self::exchange::{Client, Exchange, RequestId, Scheme, Target};
pub use self::head::{Field, FieldList, Fields, InvalidField, Request, RequestHead, ResponseHead, parse_field, parse_target};
pub use self::hooks::Hooks;
pub(crate) use self::kept::Kept;
pub use self::registry::{DuplicateFilter, Registry};
pub use self::reply::{Body, Reply, ReplyHead};

/// One step in a route's chain: built once per configuration, shared by all requests.
///
/// ```
/// use ravelin::prelude::*;
///
/// /// Lets in who knows the word.
/// struct Word { word: String }
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct WordConfig {
///     /// The word that a caller must send in `x-word`.
///     word: String,
/// }
///
/// impl Filter for Word {
///     const NAME: &'static str = "word";
///     type Config = WordConfig;
///     type State = ();
///     fn build(c: WordConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> { Ok(Self { word: c.word }) }
///     async fn request(&self, req: &mut RequestCx<'_>, _: &mut ()) -> Result<Flow, Error> {
///         if req.header("x-word") == Some(self.word.as_str()) { Ok(Flow::Next) } else { Err(Error::status(403)) }
///     }
/// }
///
/// let harness = ravelin::testing::Harness::<Word>::new("word: sesame").unwrap();
/// assert_eq!(harness.send(Request::get("/")).status(), 403);
/// assert_eq!(harness.send(Request::get("/").header("x-word", "sesame")).status(), 200);
/// ```
pub trait Filter: Sized + Send + Sync + 'static {
    /// The key in the configuration.
    const NAME: &'static str;
    /// Whether `request` and `upstream_request` follow from the settings and the request alone, and leave nothing behind: no I/O, no
    /// counting, no state that outlives the request. Then `ravelin explain` runs them to show the request as it would leave. It runs
    /// nothing of a filter that does not say so, and asks [`Filter::explain`] only.
    const PURE: bool = false;
    /// What stands under the key. Doc comments become schema and reference; use `deny_unknown_fields`.
    type Config: DeserializeOwned + JsonSchema + Send + 'static;
    /// What one request leaves for this filter's later hooks; `()` if nothing. Two instances of a filter never share it.
    type State: Default + Send + Sync + 'static;

    /// Makes the filter. Pure but for reading files that the settings name: nothing is spawned or connected here, since
    /// the configuration may still be refused; [`BuildCx::task`] starts work once it is in force.
    ///
    /// # Errors
    /// The settings can't work; the message is shown with its place in the file.
    fn build(config: Self::Config, cx: &mut BuildCx<'_>) -> Result<Self, BuildError>;

    /// Which hooks this filter has. Narrow it, and the others cost nothing.
    fn hooks(&self) -> Hooks {
        Hooks::ALL
    }

    /// The request's head has come: let it pass, answer it, or end it in error.
    fn request(&self, _req: &mut RequestCx<'_>, _st: &mut Self::State) -> impl Future<Output = Result<Flow, Error>> + Send {
        async { Ok(Flow::Next) }
    }

    /// A piece of the request's body, on its way to the upstream.
    fn request_body(&self, _body: &mut BodyCx<'_>, _st: &mut Self::State) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// The head that is about to be sent to an endpoint; for each attempt anew.
    fn upstream_request(
        &self,
        _req: &mut UpstreamCx<'_>,
        _st: &mut Self::State,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// A response's head, whoever made it: an endpoint, another filter, or Ravelin.
    fn response(&self, _res: &mut ResponseCx<'_>, _st: &mut Self::State) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }

    /// A piece of the response's body. Not async: Pingora's hook is not yet.
    ///
    /// # Errors
    /// The response is aborted visibly.
    fn response_body(&self, _body: &mut BodyCx<'_>, _st: &mut Self::State) -> Result<(), Error> {
        Ok(())
    }

    /// The fields after a response's body.
    ///
    /// # Errors
    /// The response is aborted visibly.
    fn response_trailers(&self, _trailers: &mut Trailers<'_>, _st: &mut Self::State) -> Result<(), Error> {
        Ok(())
    }

    /// The request is over: exactly once for every filter that it entered, even after an error.
    fn log(&self, _done: &LogCx<'_>, _st: &mut Self::State) {}

    /// What this filter would do with a request, in a few words. No effects, no I/O.
    fn explain(&self, _req: &RequestView<'_>) -> Option<String> {
        None
    }
}

/// What a filter decides on a request.
#[derive(Debug)]
pub enum Flow {
    /// On to the next filter, then to the route's action.
    Next,
    /// This is the answer. It walks back through the filters before this one.
    Reply(Reply),
}
