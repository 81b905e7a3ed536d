//! Tests of a filter without a socket.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::config;
use crate::filter::exchange::Target;
use crate::filter::{
    Body, BuildCx, Chain, Client, Error, Exchange, Fields, Filter, Keeping, Kept, Registry, Reply, Request, RequestHead,
    RequestId, ResponseHead, Run, Scheme, Slot,
};
use crate::upstream::Upstream;

/// One filter, built from YAML as in a configuration, with a scripted upstream behind it.
///
/// Requests run through all its hooks in the order of live traffic. Bodies come in one piece. Any name is that of an upstream.
pub struct Harness<F> {
    chain: Chain,
    runtime: tokio::runtime::Runtime,
    upstream: Box<dyn Fn(&Request) -> Reply + Send + Sync>,
    filter: PhantomData<F>,
}

/// What came of a request.
#[derive(Debug)]
pub struct Sent {
    upstream: Option<Request>,
    reply: Reply,
    body: Bytes,
    chosen: Option<String>,
    notes: Vec<String>,
}

impl<F: Filter> Harness<F> {
    /// Builds the filter from its settings, as they would stand under its key in a file. The upstream answers 200.
    ///
    /// # Errors
    /// The report on settings that don't fit, or what [`Filter::build`] said.
    pub fn new(settings: &str) -> Result<Self, String> {
        let mut registry = Registry::default();
        registry.register::<F>().map_err(|error| error.to_string())?;
        let decoded = config::decode_filter(settings, F::NAME, &registry)?;
        let mut tasks = Vec::new();
        let mut kept = Kept::default();
        let keeping = Keeping { identity: F::NAME, before: None, kept: &mut kept };
        let mut cx = BuildCx::new(&|name| Some(Arc::new(Upstream::nowhere(name))), &mut tasks, keeping);
        let filter = registry.build(F::NAME, decoded, &mut cx).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        for task in tasks {
            runtime.spawn(task);
        }
        let chain = Chain::new(vec![Slot::new(filter)]);
        Ok(Self { chain, runtime, upstream: Box::new(|_| Reply::new(200)), filter: PhantomData })
    }

    /// Puts an upstream in place: what it is sent, and what it answers.
    #[must_use]
    pub fn upstream(mut self, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        self.upstream = Box::new(answer);
        self
    }

    /// Sends a request from 192.0.2.1 through the filter.
    pub fn send(&self, request: Request) -> Sent {
        self.runtime.block_on(self.exchange(request))
    }

    /// What the filter says that it would do with a request.
    pub fn explain(&self, mut request: Request) -> Option<String> {
        let mut exchange = exchange_for(&request);
        let cx = crate::filter::RequestCx::new(&mut request, &mut exchange);
        self.chain.explain(&cx.view()).pop()
    }

    async fn exchange(&self, mut request: Request) -> Sent {
        let mut exchange = exchange_for(&request);
        let mut run = Run::default();
        let mut forwarded = None;
        let outcome = self.outcome(&mut run, &mut request, &mut exchange, &mut forwarded).await;
        let (reply, body) = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                let (reply, body) = (Reply::new(error.code()), Bytes::new());
                exchange.failure = Some(error);
                (reply, body)
            }
        };
        exchange.status = Some(reply.head.status());
        self.chain.log(&mut run, &exchange);
        let notes = exchange.notes.iter().map(ToString::to_string).collect();
        let chosen = exchange.upstream.as_ref().map(|upstream| upstream.name().to_owned());
        Sent { upstream: forwarded, reply, body, chosen, notes }
    }

    async fn outcome(
        &self,
        run: &mut Run,
        request: &mut Request,
        exchange: &mut Exchange,
        forwarded: &mut Option<Request>,
    ) -> Result<(Reply, Bytes), Error> {
        let mut reply = match self.chain.request(run, request, exchange).await {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                exchange.tries += 1;
                let mut copy = request.clone();
                self.chain.upstream_request(run, &mut copy, exchange).await?;
                let mut body = Some(copy.body_bytes().clone());
                self.chain.request_body(run, &mut body, true, exchange).await?;
                let copy = copy.body(body.unwrap_or_default());
                let reply = (self.upstream)(&copy);
                *forwarded = Some(copy);
                reply
            }
            Err(error) => {
                let reply = Reply::new(error.code());
                exchange.failure = Some(error);
                reply
            }
        };
        if let Some(other) = self.chain.response(run, &mut reply.head, exchange).await? {
            reply = other;
        }
        let mut body = Some(std::mem::replace(&mut reply.body, Body::Whole(Bytes::new())).whole().await?);
        self.chain.response_body(run, &mut body, true, exchange)?;
        Ok((reply, body.unwrap_or_default()))
    }
}

impl Sent {
    /// The status that the client gets.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.reply.head.status()
    }

    /// A header of the response that the client gets.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.reply.head.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The body that the client gets.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The request as the upstream got it; `None` if it never did.
    #[must_use]
    pub fn upstream(&self) -> Option<&Request> {
        self.upstream.as_ref()
    }

    /// A header of the request as the upstream got it.
    #[must_use]
    pub fn upstream_header(&self, name: &str) -> Option<&str> {
        self.upstream.as_ref()?.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The path and query that the upstream got.
    #[must_use]
    pub fn upstream_target(&self) -> Option<String> {
        let request = self.upstream.as_ref()?;
        Some(match request.query() {
            Some(query) => format!("{}?{query}", request.path()),
            None => request.path().to_owned(),
        })
    }

    /// The upstream that the filter chose by [`RequestCx::use_upstream`](crate::filter::RequestCx::use_upstream).
    #[must_use]
    pub fn chosen_upstream(&self) -> Option<&str> {
        self.chosen.as_deref()
    }

    /// What the filter noted.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

fn exchange_for(request: &Request) -> Exchange {
    let client = Client::direct(Some(([192, 0, 2, 1], 50_000).into()));
    let mut exchange = Exchange::new(RequestId::mint(), client, Scheme::Http);
    let host = request.get("host").map(|host| String::from_utf8_lossy(host).into_owned()).unwrap_or_default();
    let method = http::Method::from_bytes(request.method().as_bytes()).unwrap_or_default();
    exchange.target = Target::new(method, &host, request.path(), request.query());
    exchange.route = Some(Arc::from("test"));
    exchange
}
