//! Filters behind one object type: what chains hold.
//!
//! Here a panic of a filter ends: it becomes a 500, is logged and counted, and the process lives.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::filter::{BodyCx, Error, Filter, Flow, Hooks, LogCx, Party, RequestCx, RequestView, ResponseCx, Trailers, UpstreamCx};
use crate::observe::metrics;

/// A filter's state for one request.
pub(crate) type State = Box<dyn Any + Send + Sync>;

/// A [`Filter`] without its types. `st` is always what this filter's own `state` made.
pub(crate) trait ErasedFilter: Send + Sync {
    fn name(&self) -> &'static str;
    fn is_pure(&self) -> bool;
    fn hooks(&self) -> Hooks;
    fn state(&self) -> State;
    fn request<'a>(&'a self, req: &'a mut RequestCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<Flow, Error>>;
    fn request_body<'a>(&'a self, body: &'a mut BodyCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<(), Error>>;
    fn upstream_request<'a>(&'a self, req: &'a mut UpstreamCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<(), Error>>;
    fn response<'a>(&'a self, res: &'a mut ResponseCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<(), Error>>;
    fn response_body(&self, body: &mut BodyCx<'_>, st: &mut State) -> Result<(), Error>;
    fn response_trailers(&self, trailers: &mut Trailers<'_>, st: &mut State) -> Result<(), Error>;
    fn log(&self, done: &LogCx<'_>, st: &mut State);
    fn explain(&self, req: &RequestView<'_>) -> Option<String>;
}

impl<F: Filter> ErasedFilter for F {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn is_pure(&self) -> bool {
        F::PURE
    }

    fn hooks(&self) -> Hooks {
        // A filter that can't say which hooks it has is asked for all: none of its guards is left out.
        contain::<F, _>(catch_unwind(AssertUnwindSafe(|| Ok(Filter::hooks(self))))).unwrap_or(Hooks::ALL)
    }

    fn state(&self) -> State {
        // Without its state each of its hooks fails, and so does the request.
        contain::<F, State>(catch_unwind(|| Ok(Box::new(F::State::default()) as State))).unwrap_or_else(|_| Box::new(Lost))
    }

    fn request<'a>(&'a self, req: &'a mut RequestCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<Flow, Error>> {
        Box::pin(async move { contain::<F, _>(AssertUnwindSafe(Filter::request(self, req, own::<F>(st)?)).catch_unwind().await) })
    }

    fn request_body<'a>(&'a self, body: &'a mut BodyCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            contain::<F, _>(AssertUnwindSafe(Filter::request_body(self, body, own::<F>(st)?)).catch_unwind().await)
        })
    }

    fn upstream_request<'a>(&'a self, req: &'a mut UpstreamCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            contain::<F, _>(AssertUnwindSafe(Filter::upstream_request(self, req, own::<F>(st)?)).catch_unwind().await)
        })
    }

    fn response<'a>(&'a self, res: &'a mut ResponseCx<'_>, st: &'a mut State) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(
            async move { contain::<F, _>(AssertUnwindSafe(Filter::response(self, res, own::<F>(st)?)).catch_unwind().await) },
        )
    }

    fn response_body(&self, body: &mut BodyCx<'_>, st: &mut State) -> Result<(), Error> {
        let st = own::<F>(st)?;
        contain::<F, _>(catch_unwind(AssertUnwindSafe(|| Filter::response_body(self, body, st))))
    }

    fn response_trailers(&self, trailers: &mut Trailers<'_>, st: &mut State) -> Result<(), Error> {
        let st = own::<F>(st)?;
        contain::<F, _>(catch_unwind(AssertUnwindSafe(|| Filter::response_trailers(self, trailers, st))))
    }

    fn log(&self, done: &LogCx<'_>, st: &mut State) {
        if let Ok(st) = own::<F>(st) {
            // Nothing is left to be answered: the panic is logged and counted, and that is all.
            let _ = contain::<F, _>(catch_unwind(AssertUnwindSafe(|| {
                Filter::log(self, done, st);
                Ok(())
            })));
        }
    }

    fn explain(&self, req: &RequestView<'_>) -> Option<String> {
        contain::<F, _>(catch_unwind(AssertUnwindSafe(|| Ok(Filter::explain(self, req))))).unwrap_or_default()
    }
}

/// In the place of a state that could not be made.
struct Lost;

fn own<F: Filter>(state: &mut State) -> Result<&mut F::State, Error> {
    if (**state).is::<Lost>() {
        return Err(Error::new(500, Party::Us, "filter_panic").of_filter(F::NAME));
    }
    // The box itself is `Any` too: look inside it.
    (**state).downcast_mut().ok_or_else(|| Error::internal("a filter was given another filter's state"))
}

fn contain<F: Filter, T>(outcome: Result<Result<T, Error>, Box<dyn Any + Send>>) -> Result<T, Error> {
    match outcome {
        Ok(result) => result.map_err(|error| error.of_filter(F::NAME)),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let total = metrics().filter_panicked(F::NAME);
            log::error!("filter panicked filter={} message={:?} panics_total={total}", F::NAME, said.unwrap_or("unknown"));
            Err(Error::new(500, Party::Us, "filter_panic").of_filter(F::NAME))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::testing::Harness;
    use crate::filter::{BuildCx, BuildError, Request};

    struct Silent;

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    struct Nothing {}

    impl Filter for Silent {
        const NAME: &'static str = "silent";
        type Config = Nothing;
        type State = ();

        fn build(_: Nothing, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
            Ok(Self)
        }

        fn explain(&self, _: &RequestView<'_>) -> Option<String> {
            panic!("nothing to say")
        }

        fn hooks(&self) -> Hooks {
            panic!("nor to do")
        }
    }

    #[test]
    fn a_panic_ends_here_whatever_was_asked() {
        let erased: &dyn ErasedFilter = &Silent;
        assert_eq!(erased.hooks(), Hooks::ALL);
        let harness = Harness::<Silent>::new("{}").unwrap();
        assert_eq!(harness.explain(Request::get("/")), None);
    }
}
