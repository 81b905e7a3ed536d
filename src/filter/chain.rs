//! A route's filters in order, and one request's walk through them.

use std::sync::Arc;

use bytes::Bytes;

use crate::filter::cx::Edits;
use crate::filter::erased::State;
use crate::filter::{
    BodyCx, ErasedFilter, Error, Exchange, Fields, Flow, Hooks, LogCx, Reply, RequestCx, RequestHead, RequestView, ResponseCx,
    ResponseHead, Trailers, UpstreamCx,
};

/// The filters of a route, with what is known of them before a request comes.
#[derive(Default)]
pub(crate) struct Chain {
    slots: Box<[Slot]>,
    any: AnyHooks,
    /// What keeps requests from the express lane: a filter, and what it asks for.
    general: Option<(&'static str, &'static str)>,
}

/// A filter's place in a chain. Chains that use one another share the filter, not the place.
#[derive(Clone)]
pub(crate) struct Slot {
    filter: Arc<dyn ErasedFilter>,
    hooks: Hooks,
    /// It may send requests where the express lane does not go.
    diverts: bool,
}

/// Which hooks any filter of a chain has.
#[derive(Default, Clone, Copy)]
struct AnyHooks {
    request: bool,
    request_body: bool,
    upstream_request: bool,
    response: bool,
    response_body: bool,
    response_trailers: bool,
}

/// What a filter would do with a request.
pub(crate) struct Told {
    pub(crate) filter: &'static str,
    pub(crate) says: Option<String>,
    /// It may change the request, or answer it, and only a live request would show how.
    pub(crate) unseen: bool,
}

/// One request's walk: the state of each filter that it entered.
#[derive(Default)]
pub(crate) struct Run {
    /// In the order of entry; as long as the number of filters entered.
    states: Vec<State>,
    /// How many said `Next`: these see the response.
    passed: usize,
    logged: bool,
}

impl Slot {
    pub(crate) fn new(filter: Arc<dyn ErasedFilter>) -> Self {
        Self { hooks: filter.hooks(), filter, diverts: false }
    }

    fn has(&self, hook: Hooks) -> bool {
        self.hooks.contains(hook)
    }

    /// What the express lane can't give.
    fn general(&self) -> Option<&'static str> {
        [
            (Hooks::REQUEST_BODY, "looks at the bodies of requests"),
            (Hooks::RESPONSE_BODY, "looks at the bodies of responses"),
            (Hooks::SESSION, "asks for Pingora's session"),
        ]
        .into_iter()
        .find_map(|(hook, what)| self.has(hook).then_some(what))
        .or(self.diverts.then_some("may choose an upstream that is not for the express lane"))
    }

    /// It may send requests to an upstream that the express lane can't reach.
    pub(crate) fn diverting(self, diverts: bool) -> Self {
        Self { diverts, ..self }
    }
}

impl Chain {
    pub(crate) fn new(slots: Vec<Slot>) -> Self {
        let any = |hook| slots.iter().any(|slot: &Slot| slot.has(hook));
        let any = AnyHooks {
            request: any(Hooks::REQUEST),
            request_body: any(Hooks::REQUEST_BODY),
            upstream_request: any(Hooks::UPSTREAM_REQUEST),
            response: any(Hooks::RESPONSE),
            response_body: any(Hooks::RESPONSE_BODY),
            response_trailers: any(Hooks::RESPONSE_TRAILERS),
        };
        let general = slots.iter().find_map(|slot| Some((slot.filter.name(), slot.general()?)));
        Self { slots: slots.into_boxed_slice(), any, general }
    }

    /// Whether requests can take the express lane, which shows no bodies and has no session.
    pub(crate) fn is_express(&self) -> bool {
        self.general.is_none()
    }

    /// Why they can't: a filter, and what it asks for.
    pub(crate) fn general(&self) -> Option<(&'static str, &'static str)> {
        self.general
    }

    /// Whether a filter looks at the request before it is copied for an endpoint.
    pub(crate) fn sees_request(&self) -> bool {
        self.any.request
    }

    /// Enters all filters with a request that none of them looks at.
    pub(crate) fn enter(&self, run: &mut Run) {
        run.states.extend(self.slots.iter().map(|slot| slot.filter.state()));
        run.passed = self.slots.len();
    }

    /// Walks the request through the filters. `Some`: one of them answered.
    pub(crate) async fn request(
        &self,
        run: &mut Run,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange,
    ) -> Result<Option<Reply>, Error> {
        run.states.reserve_exact(self.slots.len());
        for slot in &self.slots {
            let state = run.states.push_mut(slot.filter.state());
            let flow = if slot.has(Hooks::REQUEST) {
                let cx = RequestCx::new(head, exchange);
                slot.filter.request(&mut cx.with_session(slot.has(Hooks::SESSION)), state).await?
            } else {
                Flow::Next
            };
            match flow {
                Flow::Next => run.passed += 1,
                Flow::Reply(reply) => return Ok(Some(reply)),
            }
        }
        Ok(None)
    }

    /// Whether [`Chain::request_body`] would do anything.
    pub(crate) fn sees_request_body(&self) -> bool {
        self.any.request_body
    }

    pub(crate) async fn request_body(
        &self,
        run: &mut Run,
        chunk: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        for (slot, state) in self.slots.iter().zip(&mut run.states).filter(|(slot, _)| slot.has(Hooks::REQUEST_BODY)) {
            slot.filter.request_body(&mut BodyCx::new(chunk, end, exchange), state).await?;
        }
        Ok(())
    }

    /// Whether [`Chain::upstream_request`] would do anything.
    pub(crate) fn sees_upstream_request(&self) -> bool {
        self.any.upstream_request
    }

    /// The head of one attempt, in the order of the file.
    pub(crate) async fn upstream_request(
        &self,
        run: &mut Run,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        if !self.any.upstream_request {
            return Ok(());
        }
        for (slot, state) in self.slots.iter().zip(&mut run.states).filter(|(slot, _)| slot.has(Hooks::UPSTREAM_REQUEST)) {
            slot.filter.upstream_request(&mut UpstreamCx::new(head, exchange), state).await?;
        }
        Ok(())
    }

    /// Walks a response back. `Some`: a filter put this answer in its place, and the rest of the walk has seen it.
    pub(crate) async fn response(
        &self,
        run: &mut Run,
        head: &mut dyn ResponseHead,
        exchange: &mut Exchange,
    ) -> Result<Option<Reply>, Error> {
        if !self.any.response {
            return Ok(None);
        }
        let mut replaced: Option<Reply> = None;
        for (slot, state) in self.slots[..run.passed].iter().zip(&mut run.states).rev() {
            if !slot.has(Hooks::RESPONSE) {
                continue;
            }
            let mut edits = Edits::default();
            let head: &mut dyn ResponseHead = match &mut replaced {
                Some(reply) => &mut reply.head,
                None => head,
            };
            exchange.status = Some(head.status());
            slot.filter.response(&mut ResponseCx::new(head, exchange, &mut edits), state).await?;
            if let Some(reply) = edits.replacement {
                replaced = Some(reply);
            }
        }
        Ok(replaced)
    }

    /// Whether [`Chain::response`] would do anything.
    pub(crate) fn sees_response(&self) -> bool {
        self.any.response
    }

    /// Whether [`Chain::response_body`] would do anything.
    pub(crate) fn sees_response_body(&self) -> bool {
        self.any.response_body
    }

    pub(crate) fn response_body(
        &self,
        run: &mut Run,
        chunk: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        for (slot, state) in self.slots[..run.passed].iter().zip(&mut run.states).rev() {
            if slot.has(Hooks::RESPONSE_BODY) {
                slot.filter.response_body(&mut BodyCx::new(chunk, end, exchange), state)?;
            }
        }
        Ok(())
    }

    pub(crate) fn response_trailers(&self, run: &mut Run, head: &mut dyn Fields, exchange: &mut Exchange) -> Result<(), Error> {
        if !self.any.response_trailers {
            return Ok(());
        }
        for (slot, state) in self.slots[..run.passed].iter().zip(&mut run.states).rev() {
            if slot.has(Hooks::RESPONSE_TRAILERS) {
                slot.filter.response_trailers(&mut Trailers::new(head, exchange), state)?;
            }
        }
        Ok(())
    }

    /// What each filter says that it would do, in order; those that say nothing are left out.
    pub(crate) fn explain(&self, request: &RequestView<'_>) -> Vec<String> {
        self.slots.iter().filter_map(|slot| slot.filter.explain(request)).collect()
    }

    /// Walks a request through the filters without any effect: each says what it would do, and those that are pure do it.
    ///
    /// `Ok(Some)`: one of these answered. The filters after one that ends the request are not told of.
    pub(crate) async fn rehearse(
        &self,
        run: &mut Run,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange,
        told: &mut Vec<Told>,
    ) -> Result<Option<Reply>, Error> {
        for slot in &self.slots {
            let state = run.states.push_mut(slot.filter.state());
            let mut cx = RequestCx::new(head, exchange);
            let unseen = !slot.filter.is_pure() && (slot.has(Hooks::REQUEST) || slot.has(Hooks::UPSTREAM_REQUEST));
            told.push(Told { filter: slot.filter.name(), says: slot.filter.explain(&cx.view()), unseen });
            if slot.has(Hooks::REQUEST)
                && slot.filter.is_pure()
                && let Flow::Reply(reply) = slot.filter.request(&mut cx, state).await?
            {
                return Ok(Some(reply));
            }
            run.passed += 1;
        }
        Ok(None)
    }

    /// The head of a try, as the filters that are pure leave it.
    pub(crate) async fn rehearse_upstream_request(
        &self,
        run: &mut Run,
        head: &mut dyn RequestHead,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        let pure = |slot: &Slot| slot.has(Hooks::UPSTREAM_REQUEST) && slot.filter.is_pure();
        for (slot, state) in self.slots.iter().zip(&mut run.states).filter(|(slot, _)| pure(slot)) {
            slot.filter.upstream_request(&mut UpstreamCx::new(head, exchange), state).await?;
        }
        Ok(())
    }

    /// The request is over. A second call does nothing.
    pub(crate) fn log(&self, run: &mut Run, exchange: &Exchange) {
        if std::mem::replace(&mut run.logged, true) {
            return;
        }
        for (slot, state) in self.slots.iter().zip(&mut run.states).rev() {
            if slot.has(Hooks::LOG) {
                slot.filter.log(&LogCx::new(exchange), state);
            }
        }
    }
}

impl Run {
    /// From here on no filter sees the response: what is left is an answer of last resort.
    pub(crate) fn give_up(&mut self) {
        self.passed = 0;
    }
}
