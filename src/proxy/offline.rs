//! Requests without a socket: explained, or carried through their filters to an upstream that answers from a script.
//!
//! Everything that decides is what decides on live traffic: the compiled snapshot, and the functions that take a head.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::config::{ListenerLimits, Report, Span};
use crate::filter::{Body, Client, Error, Exchange, Party, Reply, RequestId, ResponseHead, Run, Scheme};
use crate::proxy::affinity;
use crate::proxy::enter::{Admitted, Arrival, Entrance, as_sent};
use crate::proxy::head::{OfflineRequest, UpstreamRequest, UpstreamResponse, strip_hop_by_hop};
use crate::proxy::https::redirect_to_https;
use crate::proxy::reply::own_error;
use crate::proxy::request::{Act, act};
use crate::proxy::response;
use crate::proxy::settle::drop_idle_expectation;
use crate::proxy::trace::{Trace, Tracer};
use crate::proxy::upstream::address;
use crate::proxy::via::Via;
use crate::runtime::{Compiled, Matched, Snapshot};
use crate::types::{ListenAddress, Method, Url};
use crate::upstream::Stay;

/// A configuration that is asked instead of served. Nothing is resolved, probed or connected.
pub struct Offline {
    snapshot: Arc<Snapshot>,
    via: Via,
    /// Where its listeners listen, in their order, and whether they speak TLS.
    addresses: Vec<(ListenAddress, bool)>,
    report: Report,
    reader: Reader,
    runtime: tokio::runtime::Runtime,
}

/// Reads a head as a connection does, by the limits of its listener: the status and the reason code if it is refused.
pub(crate) type Reader = fn(&[u8], &ListenerLimits) -> Option<(u16, &'static str)>;

/// A request to ask about.
#[derive(Debug, Clone)]
pub struct Question {
    /// The method.
    pub method: Method,
    /// The URL, as a client would have it.
    pub url: Url,
    /// Header fields. A `host` takes the place of the URL's.
    pub headers: Vec<(String, String)>,
    /// The body; what explains has no use for it.
    pub body: Bytes,
    /// Who is connected; `None`: somebody on a unix socket.
    pub client: Option<IpAddr>,
    /// The listener that the request comes through; `None`: the one with the URL's port, or else the first.
    pub listener: Option<String>,
}

/// A question that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// A header field that can't be sent.
    #[error("`{0}` can't be a header field")]
    Header(String),
    /// What the URL asks for can't be sent.
    #[error("`{0}` can't be asked for")]
    Target(String),
    /// There is none of this name.
    #[error("there is no listener `{0}`; there are: {1}")]
    Listener(String, String),
}

/// What an upstream answers.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// What became of a request.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) route: Option<String>,
    pub(crate) upstream: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// What the endpoint got.
    pub(crate) sent: Option<Forwarded>,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What ended it, if something failed.
    pub(crate) failure: Option<String>,
}

/// A request as an endpoint got it.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) head: RequestHeader,
    pub(crate) body: Bytes,
}

impl Offline {
    /// # Errors
    /// The system gives no runtime for filters to run on.
    pub(crate) fn new(compiled: Compiled, report: Report, reader: Reader) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let addresses = compiled.boot.listeners.into_iter().map(|listener| (listener.address, listener.tls)).collect();
        let snapshot = Arc::new(compiled.snapshot);
        runtime.block_on(async {
            for upstream in snapshot.upstreams() {
                upstream.lay_out_offline().await;
            }
        });
        Ok(Self { snapshot, via: Via::offline(), addresses, report, reader, runtime })
    }

    /// Why a request goes where it goes. No filter runs that could have an effect. Of the routes whose host or path does not match, `far`
    /// are told of where no others are. Not to be called from within an async runtime.
    ///
    /// # Errors
    /// No request can be made of the question.
    pub fn explain(&self, question: &Question, far: usize) -> Result<Trace, QuestionError> {
        let (head, mut exchange, entrance) = self.request(question)?;
        let places = |span: Span| self.report.locate(span);
        let tracer = Tracer { snapshot: &self.snapshot, via: &self.via, places: &places, far, live: false };
        let read = self.read(question, &head, entrance);
        Ok(self.runtime.block_on(tracer.trace(head, &question.body, &mut exchange, entrance, read)))
    }

    /// Carries a request through its filters, to an upstream that answers as scripted, and the answer back.
    pub(crate) fn carry(&self, question: &Question, script: &Script) -> Result<Carried, QuestionError> {
        let (head, exchange, entrance) = self.request(question)?;
        let read = self.read(question, &head, entrance);
        let carrier = Carrier {
            offline: self,
            exchange,
            run: Run::default(),
            route: None,
            stick: None,
            stay: None,
            accepts: HeaderMap::new(),
        };
        Ok(self.runtime.block_on(carrier.carry(head, &question.body, entrance, script, read)))
    }

    fn request(&self, question: &Question) -> Result<(RequestHeader, Exchange, Entrance), QuestionError> {
        let target = question.url.target();
        let bad_target = || QuestionError::Target(target.to_owned());
        let mut head = RequestHeader::build(question.method.as_str(), target.as_bytes(), Some(8)).map_err(|_| bad_target())?;
        let host = question.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let own = (!host).then(|| ("host".to_owned(), question.url.authority().to_owned()));
        for (name, value) in own.iter().chain(&question.headers) {
            let bad = || QuestionError::Header(name.clone());
            let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| bad())?;
            head.append_header(field, value).map_err(|_| bad())?;
        }
        if !question.body.is_empty() && !head.headers.contains_key(CONTENT_LENGTH) {
            head.insert_header(CONTENT_LENGTH, question.body.len()).map_err(|_| bad_target())?;
        }
        let listener = match &question.listener {
            Some(name) => Some(self.snapshot.listener_named(name).ok_or_else(|| self.unknown_listener(name))?),
            None => self.listener_for(&question.url),
        };
        let client = Client::direct(question.client.map(|ip| SocketAddr::new(ip, 50_000)));
        let scheme = if question.url.is_secure() { Scheme::Https } else { Scheme::Http };
        let entrance = Entrance { listener, peer: client.ip() };
        Ok((head, Exchange::new(RequestId::offline(), client, scheme), entrance))
    }

    /// What the connection would say of the head before anybody else looks at it.
    fn read(&self, question: &Question, head: &RequestHeader, entrance: Entrance) -> Result<(), Error> {
        let Some(listener) = entrance.listener else { return Ok(()) };
        let mut bytes = format!("{} {} HTTP/1.1\r\n", head.method, question.url.target()).into_bytes();
        for (name, value) in &head.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        let refused = (self.reader)(&bytes, &self.snapshot.listener(listener).limits);
        refused.map_or(Ok(()), |(status, reason)| Err(Error::new(status, Party::Client, reason)))
    }

    fn listener_for(&self, url: &Url) -> Option<usize> {
        let has_port = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(tcp) if Some(tcp.port()) == url.port());
        let by_port = self.addresses.iter().position(|(address, _)| has_port(address));
        let by_scheme = || self.addresses.iter().position(|(_, tls)| *tls == url.is_secure());
        by_port.or_else(by_scheme).or(Some(0)).filter(|_| !self.addresses.is_empty())
    }

    fn unknown_listener(&self, name: &str) -> QuestionError {
        let names = (0..).map_while(|place| self.snapshot.listener_name(place));
        QuestionError::Listener(name.to_owned(), names.map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }
}

/// One request on its way.
struct Carrier<'a> {
    offline: &'a Offline,
    exchange: Exchange,
    run: Run,
    route: Option<Matched>,
    stick: Option<HeaderValue>,
    stay: Option<Stay>,
    /// The client's fields, for the form of errors.
    accepts: HeaderMap,
}

/// An answer on its way back: its head, and its body as it came.
enum Answer {
    Endpoint(Box<ResponseHeader>, Bytes),
    Own(Reply),
}

impl Carrier<'_> {
    async fn carry(
        mut self,
        mut head: RequestHeader,
        body: &Bytes,
        entrance: Entrance,
        script: &Script,
        read: Result<(), Error>,
    ) -> Carried {
        let mut carried = Carried::default();
        self.accepts = head.headers.clone();
        let answer = match self.decide(&mut head, body, entrance, read).await {
            Ok(Some(reply)) => Answer::Own(reply),
            Ok(None) => match self.forward(head, body, &mut carried).await {
                Ok(()) => {
                    respond(script).map_or_else(|error| self.failed(error), |(head, body)| Answer::Endpoint(Box::new(head), body))
                }
                Err(error) => self.failed(error),
            },
            Err(error) => self.failed(error),
        };
        self.walk_back(answer, &mut carried).await;
        if let Some(route) = &self.route {
            route.chain.log(&mut self.run, &self.exchange);
        }
        carried.route = self.exchange.route.as_ref().map(ToString::to_string);
        carried.upstream = self.exchange.upstream.as_ref().map(|upstream| upstream.name().to_owned());
        carried.endpoint = self.exchange.endpoint.as_ref().map(|endpoint| endpoint.as_str().to_owned());
        carried.failure = self.exchange.failure.as_ref().map(ToString::to_string);
        carried
    }

    /// As on live traffic: `None`: it goes to an upstream.
    async fn decide(
        &mut self,
        head: &mut RequestHeader,
        body: &Bytes,
        entrance: Entrance,
        read: Result<(), Error>,
    ) -> Result<Option<Reply>, Error> {
        let snapshot = &self.offline.snapshot;
        let arrival = Arrival::new(head, &mut self.exchange, entrance, snapshot);
        arrival.take_token(head);
        let unmerged = match read.and_then(|()| arrival.admit(head, &self.offline.via, snapshot)) {
            Ok(Admitted { target, unmerged }) => {
                self.exchange.target = target;
                unmerged
            }
            Err(error) => {
                self.exchange.target = as_sent(head);
                return Err(error);
            }
        };
        if let Some(reply) = redirect_to_https(head, &self.exchange, entrance, snapshot)? {
            return Ok(Some(reply));
        }
        let route = arrival.route(head, &mut self.exchange, unmerged, snapshot)?;
        arrival.claims(head, &self.exchange, snapshot)?.put_in(head)?;
        self.route = Some(route.clone());
        let reply = route.chain.request(&mut self.run, &mut OfflineRequest(head, body), &mut self.exchange).await?;
        if reply.is_some() || self.exchange.upstream.is_some() {
            return Ok(reply);
        }
        Ok(match act(&route.action, &head.headers, &mut self.exchange, |_| 0)? {
            Act::Forward(stick) => {
                self.stick = stick;
                None
            }
            Act::Answer(_, reply) => Some(reply),
        })
    }

    async fn forward(&mut self, mut head: RequestHeader, body: &Bytes, carried: &mut Carried) -> Result<(), Error> {
        let upstream = self.exchange.upstream.clone().ok_or_else(|| Error::internal("no upstream was chosen"))?;
        let (wish, stay) = affinity::wish(&upstream, &self.exchange.target, &head.headers, self.exchange.client.ip());
        self.stay = stay;
        let endpoint = upstream.outlook(wish).next.ok_or_else(|| Error::new(503, Party::Upstream, "no_healthy_endpoint"))?;
        self.exchange.endpoint = Some(endpoint);
        self.exchange.tries = 1;
        drop_idle_expectation(&mut head);
        strip_hop_by_hop(&mut head);
        let version = head.version;
        address(&mut head, version, &self.offline.via, None, &self.exchange)?;
        let mut body = Some(body.clone());
        if let Some(route) = &self.route {
            route.chain.upstream_request(&mut self.run, &mut UpstreamRequest(&mut head), &mut self.exchange).await?;
            route.chain.request_body(&mut self.run, &mut body, true, &mut self.exchange).await?;
        }
        carried.sent = Some(Forwarded { head, body: body.unwrap_or_default() });
        Ok(())
    }

    /// Keeps the first failure, and makes it an answer.
    fn failed(&mut self, error: Error) -> Answer {
        let code = error.code();
        self.exchange.failure.get_or_insert(error);
        let pages = self.route.as_ref().map_or_else(|| self.offline.snapshot.errors(), Matched::errors);
        Answer::Own(own_error(pages, code, &self.exchange, &self.accepts))
    }

    async fn walk_back(&mut self, answer: Answer, carried: &mut Carried) {
        let (headers, status, body) = match answer {
            Answer::Endpoint(mut head, body) => match self.filter_endpoints(&mut head).await {
                Ok(None) => {
                    if let Some(cookie) = affinity::cookie(&self.exchange, self.stay) {
                        // It has no more fields than any head may.
                        let _ = head.append_header(http::header::SET_COOKIE, cookie);
                    }
                    (head.headers.clone(), head.status.as_u16(), Body::Whole(body))
                }
                Ok(Some(reply)) => in_parts(reply),
                Err(error) => {
                    self.run.give_up();
                    let Answer::Own(reply) = self.failed(error) else { return };
                    in_parts(reply)
                }
            },
            Answer::Own(reply) => in_parts(self.filter_own(reply).await),
        };
        (carried.headers, carried.status) = (headers, status);
        self.exchange.status = Some(status);
        if let Some(cookie) = &self.stick {
            carried.headers.append(http::header::SET_COOKIE, cookie.clone());
        }
        let mut body = body.whole().await.map(Some);
        if let (Ok(body), Some(route)) = (&mut body, &self.route)
            && let Err(error) = route.chain.response_body(&mut self.run, body, true, &mut self.exchange)
        {
            self.exchange.failure.get_or_insert(error);
        }
        match body {
            Ok(body) => carried.body = body.unwrap_or_default(),
            Err(error) => _ = self.exchange.failure.get_or_insert(error),
        }
    }

    /// `Some`: a filter put this in the place of the endpoint's answer.
    async fn filter_endpoints(&mut self, head: &mut ResponseHeader) -> Result<Option<Reply>, Error> {
        response::strip_hop_by_hop(head, false);
        let via = self.offline.via.extended(&head.headers, head.version);
        head.insert_header("via", via).map_err(|_| Error::internal("via"))?;
        self.exchange.status = Some(head.status.as_u16());
        match &self.route {
            Some(route) => route.chain.response(&mut self.run, &mut UpstreamResponse(head), &mut self.exchange).await,
            None => Ok(None),
        }
    }

    async fn filter_own(&mut self, mut reply: Reply) -> Reply {
        let Some(route) = &self.route else { return reply };
        match route.chain.response(&mut self.run, &mut reply.head, &mut self.exchange).await {
            Ok(None) => reply,
            Ok(Some(other)) => other,
            Err(error) => {
                self.run.give_up();
                let pages = route.errors();
                let reply = own_error(pages, 500, &self.exchange, &self.accepts);
                self.exchange.failure.get_or_insert(error);
                reply
            }
        }
    }
}

fn in_parts(reply: Reply) -> (HeaderMap, u16, Body) {
    let fields = reply.head.fields().iter().map(|(name, value)| (name.clone(), value.clone()));
    (fields.collect(), reply.head.status(), reply.body)
}

/// What an endpoint answers.
fn respond(script: &Script) -> Result<(ResponseHeader, Bytes), Error> {
    let bad = |what: &str| Error::internal("").with_message(format!("the scripted reply can't be: {what}"));
    let mut head = ResponseHeader::build(script.status, Some(script.headers.len())).map_err(|_| bad("its status"))?;
    for (name, value) in &script.headers {
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(name))?;
        head.append_header(field, value.as_str()).map_err(|_| bad(name))?;
    }
    if !head.headers.contains_key(CONTENT_LENGTH) && !matches!(script.status, 204 | 304) {
        head.insert_header(CONTENT_LENGTH, script.body.len()).map_err(|_| bad("its length"))?;
    }
    Ok((head, script.body.clone()))
}
