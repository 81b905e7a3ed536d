//! Makes a trace: what a head goes through on live traffic, gone through once more without any effect.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use pingora_http::RequestHeader;

use crate::config::{self, RetryCondition, Span};
use crate::filter::{Error, Exchange, Fields, Reply, ResponseHead, Run};
use crate::proxy::acme::{CHALLENGE, challenge};
use crate::proxy::affinity;
use crate::proxy::enter::{Admitted, Arrival, Entrance, as_sent, question};
use crate::proxy::express::why_general;
use crate::proxy::head::{OfflineRequest, strip_hop_by_hop};
use crate::proxy::https::{REDIRECT, redirect_to_https};
use crate::proxy::request::{Act, act};
use crate::proxy::settle::drop_idle_expectation;
use crate::proxy::split::choose;
use crate::proxy::trace::{
    Action, Asked, Candidate, Copied, Endpoint, Outcome, Retry, Sent, Side, Step, Sticky, Taken, Target, Trace,
};
use crate::proxy::upstream::address;
use crate::proxy::via::Via;
use crate::proxy::who::WhoAsks;
use crate::router::Verdict;
use crate::runtime::{self, Matched, Snapshot};
use crate::types::{WordOr, carries_a_secret, without_secrets};
use crate::upstream::retry::Reason;

/// What a trace is made with.
pub(in crate::proxy) struct Tracer<'a> {
    pub(in crate::proxy) snapshot: &'a Arc<Snapshot>,
    pub(in crate::proxy) via: &'a Via,
    /// `file:line:column` of a place.
    pub(in crate::proxy) places: &'a (dyn Fn(Span) -> Option<String> + Sync),
    /// How many candidates that are not near are told of.
    pub(in crate::proxy) far: usize,
    /// Whether it serves: then health is known.
    pub(in crate::proxy) live: bool,
}

impl Tracer<'_> {
    /// `head` is a copy: it is changed as a request's is. `read`: what was said of it before it came here.
    pub(in crate::proxy) async fn trace(
        &self,
        mut head: RequestHeader,
        body: &Bytes,
        exchange: &mut Exchange,
        entrance: Entrance,
        read: Result<(), Error>,
    ) -> Trace {
        let typed = head.clone();
        let arrival = Arrival::new(&head, exchange, entrance, self.snapshot);
        arrival.take_token(&mut head);
        let admitted = read.and_then(|()| arrival.admit(&mut head, self.via, self.snapshot));
        exchange.target = admitted.as_ref().map_or_else(|_| as_sent(&head), |admitted| admitted.target.clone());
        let mut trace = self.begin(exchange, entrance);
        let unmerged = match admitted {
            Ok(Admitted { unmerged, .. }) => unmerged,
            Err(error) => {
                trace.outcome = Outcome::of("refused", &error);
                return trace;
            }
        };
        if let Some(reply) = challenge(exchange, entrance, self.snapshot) {
            trace.outcome = Outcome { reason: Some(CHALLENGE.to_owned()), ..Outcome::answered(&reply) };
            return trace;
        }
        match redirect_to_https(&head, exchange, entrance, self.snapshot) {
            Ok(None) => {}
            Ok(Some(reply)) => {
                let location = reply.head.get("location").map(|location| String::from_utf8_lossy(location).into_owned());
                trace.action = Some(Action::Redirect { location: location.unwrap_or_default() });
                trace.outcome = Outcome { reason: Some(REDIRECT.to_owned()), ..Outcome::answered(&reply) };
                return trace;
            }
            Err(error) => {
                trace.outcome = Outcome::of("refused", &error);
                return trace;
            }
        }
        self.candidates(&mut trace, &head, exchange, entrance, unmerged.as_deref());
        let route = match arrival.route(&mut head, exchange, unmerged, self.snapshot) {
            Ok(route) => route,
            Err(error) => {
                trace.outcome = Outcome::of("no_route", &error);
                return trace;
            }
        };
        target_of(&mut trace.request, exchange);
        let lane_reason = why_general(&head, &route);
        trace.route = Some(Taken {
            lane: if lane_reason.is_some() { "general" } else { "express" },
            lane_reason,
            name: route.name.to_string(),
            place: (self.places)(route.span),
            timeout: route.timeout.map(|limit| crate::types::Duration::from(limit).to_string()),
        });
        let claims = arrival.claims(&mut head, exchange, self.snapshot);
        if let Err(error) = self.follow(&mut trace, &route, claims, (head, body), exchange, &typed).await {
            trace.outcome = Outcome::of("failed", &error);
        }
        trace
    }

    fn begin(&self, exchange: &Exchange, entrance: Entrance) -> Trace {
        let ip = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string());
        let client = exchange.client.ip();
        let mut request = Asked {
            method: String::new(),
            scheme: exchange.scheme.as_str(),
            host: String::new(),
            path: String::new(),
            query: None,
            client: ip(client),
            peer: ip(entrance.peer.filter(|peer| Some(*peer) != client)),
            listener: entrance.listener.and_then(|place| self.snapshot.listener_name(place)).map(ToString::to_string),
        };
        target_of(&mut request, exchange);
        Trace::new(request, Outcome { kind: "forwarded", status: None, reason: None, message: None })
    }

    fn candidates(
        &self,
        trace: &mut Trace,
        head: &RequestHeader,
        exchange: &Exchange,
        entrance: Entrance,
        unmerged: Option<&str>,
    ) {
        for (route, verdict) in self.snapshot.explain(&question(head, exchange, entrance, unmerged)) {
            let mut candidate = Candidate {
                route: route.name.to_string(),
                place: None,
                verdict: "taken",
                by: None,
                why: None,
                condition: None,
                saw: None,
                near: true,
            };
            match verdict {
                Verdict::Taken => {}
                Verdict::Outranked(by, why) => {
                    candidate.verdict = "outranked";
                    candidate.by = Some(by.to_string());
                    candidate.why = Some(why);
                }
                Verdict::Failed { condition, saw, near } => {
                    candidate.verdict = "failed";
                    candidate.condition = Some(condition);
                    candidate.saw = saw;
                    candidate.near = near;
                }
            }
            if !candidate.near && trace.candidates.len() >= self.far {
                trace.candidates_left_out += 1;
                continue;
            }
            candidate.place = (self.places)(route.span);
            trace.candidates.push(candidate);
        }
    }

    /// From the route on: its filters, its action, and the request as it would leave.
    async fn follow(
        &self,
        trace: &mut Trace,
        route: &Matched,
        claims: Result<WhoAsks, Error>,
        (mut head, body): (RequestHeader, &Bytes),
        exchange: &mut Exchange,
        typed: &RequestHeader,
    ) -> Result<(), Error> {
        claims?.put_in(&mut head)?;
        let (mut run, mut told) = (Run::default(), Vec::new());
        let answered = route.chain.rehearse(&mut run, &mut OfflineRequest(&mut head, body), exchange, &mut told).await;
        trace.filters = told.into_iter().map(|told| Step { filter: told.filter, does: told.says, unseen: told.unseen }).collect();
        if let Some(reply) = answered? {
            trace.action = Some(Action::Filter);
            trace.outcome = Outcome::answered(&reply);
            return Ok(());
        }
        trace.action = Some(describe(&route.action, &head.headers, exchange));
        if exchange.upstream.is_none() {
            // Of several sides the first is shown: the trace says so.
            match act(&route.action, &head.headers, exchange, |_| 0)? {
                Act::Forward(_) => {}
                Act::Answer(_, reply) => {
                    describe_reply(trace, &reply);
                    trace.outcome = Outcome::answered(&reply);
                    return Ok(());
                }
            }
        }
        trace.mirror = route
            .mirror
            .as_ref()
            .map(|mirror| Copied { upstream: mirror.upstream.name().to_owned(), ratio: mirror.ratio.to_string() });
        self.upstream(trace, exchange, &head.headers);
        if exchange.endpoint.is_none() {
            // Nobody is asked.
            return Ok(());
        }
        drop_idle_expectation(&mut head);
        strip_hop_by_hop(&mut head);
        let version = head.version;
        address(&mut head, version, self.via, None, exchange)?;
        exchange.tries = 1;
        route.chain.rehearse_upstream_request(&mut run, &mut OfflineRequest(&mut head, body), exchange).await?;
        let without = trace.filters.iter().filter(|step| step.unseen).map(|step| step.filter).collect();
        trace.sent = Some(Sent::of(&head, typed, without));
        Ok(())
    }

    fn upstream(&self, trace: &mut Trace, exchange: &mut Exchange, headers: &HeaderMap) {
        let Some(upstream) = exchange.upstream.clone() else { return };
        let (wish, stay) = affinity::wish(&upstream, &exchange.target, headers, exchange.client.ip());
        let (outlook, timeouts) = (upstream.outlook(wish), upstream.timeouts());
        let endpoints = outlook.endpoints.into_iter().map(|endpoint| Endpoint {
            address: endpoint.address,
            weight: endpoint.weight,
            healthy: self.live.then_some(endpoint.healthy),
            ejected: self.live.then_some(endpoint.ejected),
            drained: self.live.then_some(endpoint.drained),
            share: self.live.then_some(endpoint.share),
            requests: self.live.then_some(endpoint.in_flight),
        });
        trace.upstream = Some(Target {
            name: upstream.name().to_owned(),
            balance: outlook.balance,
            endpoints: endpoints.collect(),
            sticky: upstream.seal().map(|seal| {
                let by_cookie = stay.zip(outlook.next.as_ref()).is_some_and(|(stay, next)| stay.at == next.id());
                Sticky { cookie: seal.name().to_owned(), by_cookie }
            }),
            endpoint: outlook.next.as_ref().map(|endpoint| endpoint.as_str().to_owned()),
            connect_timeout: timeouts.connect.to_string(),
            response_timeout: timeouts.response.to_string(),
            read_timeout: timeouts.read.to_string(),
            retries: upstream.retry_settings().retries,
            retry: retry(upstream.retry_settings(), exchange.target.method()),
        });
        if outlook.next.is_none() {
            trace.outcome = Outcome {
                kind: "failed",
                status: Some(503),
                reason: Some("no_healthy_endpoint".to_owned()),
                message: Some(format!("upstream `{}` has no healthy endpoint", upstream.name())),
            };
        }
        exchange.endpoint = outlook.next;
    }
}

fn retry(settings: &config::Retry, method: &http::Method) -> Retry {
    let listed = settings.methods.iter().any(|listed| listed.as_http() == method);
    let holds = |condition: &&RetryCondition| listed || **condition == RetryCondition::ConnectError;
    let conditions = settings.conditions.iter().filter(holds).map(|condition| Reason::Condition(*condition).word());
    Retry {
        conditions: conditions.collect(),
        backoff_base: settings.backoff.base.to_string(),
        backoff_max: settings.backoff.max.to_string(),
        budget: match &settings.budget {
            WordOr::Word(_) => None,
            WordOr::Map(budget) => Some((budget.ratio.to_string(), budget.min.to_string())),
        },
        try_timeout: settings.try_timeout.get().map(|limit| limit.to_string()),
        hedge: match &settings.hedge {
            WordOr::Map(hedge) if listed => Some(hedge.after.to_string()),
            _ => None,
        },
    }
}

fn target_of(request: &mut Asked, exchange: &Exchange) {
    let target = &exchange.target;
    request.method = target.method().to_string();
    request.host = target.host().to_owned();
    request.path = target.path().to_owned();
    request.query = target.query().map(str::to_owned);
}

fn describe(action: &runtime::Action, headers: &HeaderMap, exchange: &Exchange) -> Action {
    match action {
        runtime::Action::Upstream(_) => Action::Upstream,
        runtime::Action::Split(split) => {
            let side = |side: &runtime::Side| Side { upstream: side.upstream.name().to_owned(), weight: side.weight };
            let mut drawn = false;
            let _ = choose(split, headers, exchange.scheme, |_| {
                drawn = true;
                0
            });
            Action::Split {
                cookie: split.cookie.as_ref().map(ToString::to_string),
                by_cookie: !drawn,
                sides: split.sides().iter().map(side).collect(),
            }
        }
        runtime::Action::Redirect(_) => Action::Redirect { location: String::new() },
        runtime::Action::Respond(_) => Action::Respond { content_type: None },
    }
}

fn describe_reply(trace: &mut Trace, reply: &Reply) {
    let field = |name| reply.head.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
    match &mut trace.action {
        Some(Action::Redirect { location }) => *location = field("location").unwrap_or_default(),
        Some(Action::Respond { content_type }) => *content_type = field("content-type"),
        _ => {}
    }
}

impl Outcome {
    fn of(kind: &'static str, error: &Error) -> Self {
        let reason = Some(error.reason().to_owned()).filter(|reason| !reason.is_empty());
        let message = Some(error.message().to_owned()).filter(|message| !message.is_empty());
        Self { kind, status: Some(error.code()), reason, message }
    }

    fn answered(reply: &Reply) -> Self {
        Self { kind: "answered", status: Some(reply.head.status()), reason: None, message: None }
    }
}

impl Sent {
    /// `typed`: what the client sent. It knows that already; of what the configuration adds secrets are not shown.
    pub(in crate::proxy) fn of(head: &RequestHeader, typed: &RequestHeader, without: Vec<&'static str>) -> Self {
        let shown = |(name, value): (&http::HeaderName, &HeaderValue)| {
            let secret = carries_a_secret(name.as_str()) && !typed.headers.get_all(name).iter().any(|sent| sent == value);
            let value = if secret { "***".into() } else { String::from_utf8_lossy(value.as_bytes()).into_owned() };
            (name.as_str().to_owned(), value)
        };
        let mut headers: Vec<(String, String)> = head.headers.iter().map(shown).collect();
        // Over HTTP/2 it stands in the target.
        let authority = head.uri.authority().filter(|_| !head.headers.contains_key(HOST));
        headers.extend(authority.map(|authority| (HOST.as_str().to_owned(), authority.to_string())));
        headers.sort();
        let path = if head.uri.path().is_empty() { "/" } else { head.uri.path() };
        let target = match head.uri.query() {
            Some(query) => format!("{path}?{}", without_secrets(query, typed.uri.query())),
            None => path.to_owned(),
        };
        Self { method: head.method.to_string(), target, headers, without }
    }
}
