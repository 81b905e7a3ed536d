//! What the admin address answers.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode, request};
use http_body_util::Full;

use crate::observe::{self, Text, metrics};
use crate::runtime::Store;
use crate::server::Drain;
use crate::types::Secret;
use crate::upstream::Candidate;

/// What is asked of it, and of whom.
pub(crate) struct Api {
    token: Option<Secret>,
    drain: Arc<Drain>,
    /// `None` in tests.
    store: Option<Arc<Store>>,
}

type Answer = Response<Full<Bytes>>;

impl Api {
    pub(crate) fn new(token: Option<Secret>, drain: Arc<Drain>, store: Arc<Store>) -> Self {
        Self { token, drain, store: Some(store) }
    }

    #[cfg(test)]
    pub(super) fn testing(token: Option<&str>) -> Self {
        Self { token: token.map(|token| token.parse().unwrap()), drain: Arc::new(Drain::new()), store: None }
    }

    /// The answer to a request, whose body is of no interest.
    pub(super) fn answer(&self, request: &request::Parts) -> Answer {
        let path = request.uri.path();
        // Whoever restarts a process that does not answer needs no token. To others not even a path exists.
        if path != "/healthz" && !self.admits(&request.headers) {
            let mut answer = plain(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN\n");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"ravelin admin\""));
            return answer;
        }
        if let Some(asked) = Draining::of(path) {
            return self.drain(request, &asked);
        }
        let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
        if known && !matches!(request.method, Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => match self.drain.readiness() {
                Ok(()) => plain(StatusCode::OK, "ready\n"),
                Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            },
            "/metrics" => text(StatusCode::OK, observe::CONTENT_TYPE, self.metrics()),
            _ => plain(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz, /readyz and POST /upstreams/NAME/endpoints/ADDRESS/drain (or undrain)\n",
            ),
        }
    }

    /// Whether there is no token, or the request has it, once.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(only), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, credentials)) = only.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && token.matches(credentials.trim_ascii())
    }

    /// Keeps requests from an endpoint, or gives them to it again.
    fn drain(&self, request: &request::Parts, asked: &Draining) -> Answer {
        if request.method != Method::POST {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        // Without a token whoever is on this machine may ask: but not a page of somebody else's that a browser on it shows.
        if self.token.is_none() && (request.headers.contains_key(ORIGIN) || request.headers.contains_key("sec-fetch-site")) {
            return plain(StatusCode::FORBIDDEN, "browsers need a token\n");
        }
        let snapshot = self.store.as_ref().map(|store| store.load());
        let upstreams = || snapshot.iter().flat_map(|snapshot| snapshot.upstreams());
        let Some(upstream) = upstreams().find(|upstream| upstream.name() == asked.upstream) else {
            return plain(StatusCode::NOT_FOUND, "there is no such upstream\n");
        };
        match upstream.drain(&asked.endpoint, asked.drain) {
            None => plain(StatusCode::NOT_FOUND, "the upstream has no such endpoint\n"),
            Some(changed) => {
                let state = if asked.drain { "drained" } else { "given requests" };
                let again = if changed { "" } else { " already" };
                let standings = upstream.standings();
                let in_flight = standings.iter().find(|one| one.address == asked.endpoint).map_or(0, |one| one.in_flight);
                plain(StatusCode::OK, format!("{} is {state}{again}; requests under way: {in_flight}\n", asked.endpoint))
            }
        }
    }

    fn metrics(&self) -> String {
        let mut written = String::with_capacity(16 * 1024);
        let mut out = Text::new(&mut written);
        metrics().write(&mut out);
        // What is in force now, and not what was counted.
        let snapshot = self.store.as_ref().map(|store| store.load());
        let mut upstreams: Vec<_> = snapshot.iter().flat_map(|snapshot| snapshot.upstreams()).collect();
        upstreams.sort_by_key(|upstream| upstream.name());
        let standings: Vec<_> = upstreams.iter().map(|upstream| (upstream.name(), upstream.standings())).collect();
        for (name, help, number) in ENDPOINTS {
            out.family(name, "gauge", help);
            for (upstream, endpoints) in &standings {
                for endpoint in endpoints {
                    out.sample(&[("upstream", *upstream), ("endpoint", &endpoint.address)], number(endpoint));
                }
            }
        }
        out.family("ravelin_upstream_queue", "gauge", "Requests that wait for an endpoint with room.");
        for upstream in &upstreams {
            out.sample(&[("upstream", upstream.name())], upstream.waiting());
        }
        out.family(
            "ravelin_certificate_expiry_timestamp_seconds",
            "gauge",
            "When a certificate that is served ceases to be valid, in seconds since 1970.",
        );
        for (listener, tls) in snapshot.iter().flat_map(|snapshot| snapshot.terminators()) {
            for (file, expiry) in tls.expiries() {
                let seconds = expiry.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
                out.sample(&[("listener", listener), ("certificate", &file.to_string_lossy())], seconds);
            }
        }
        for (listener, client) in snapshot.iter().flat_map(|snapshot| snapshot.obtained()) {
            if let Some((name, expiry)) = client.expiry() {
                let seconds = expiry.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
                out.sample(&[("listener", listener), ("certificate", name)], seconds);
            }
        }
        written
    }
}

/// What a path asks for: `/upstreams/NAME/endpoints/ADDRESS/drain`, or `undrain`.
#[derive(Debug, PartialEq, Eq)]
struct Draining {
    upstream: String,
    endpoint: String,
    drain: bool,
}

impl Draining {
    fn of(path: &str) -> Option<Self> {
        let (upstream, rest) = path.strip_prefix("/upstreams/")?.split_once("/endpoints/")?;
        let (endpoint, what) = rest.rsplit_once('/')?;
        let drain = match what {
            "drain" => true,
            "undrain" => false,
            _ => return None,
        };
        Some(Self { upstream: decoded(upstream)?, endpoint: decoded(endpoint)?, drain })
    }
}

/// With `%2F` and the like decoded: the path of a socket has slashes, and an address brackets.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok().filter(|hex| !hex.starts_with('+'))?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// What is told of each endpoint.
type Standing = (&'static str, &'static str, fn(&Candidate) -> u32);
const ENDPOINTS: [Standing; 5] = [
    ("ravelin_endpoint_healthy", "1 while the endpoint is given requests, 0 while its health check fails.", |endpoint| {
        u32::from(endpoint.healthy)
    }),
    ("ravelin_endpoint_ejected", "1 while the endpoint is left out for how its requests ended.", |endpoint| {
        u32::from(endpoint.ejected)
    }),
    ("ravelin_endpoint_drained", "1 while an operator keeps requests from the endpoint.", |endpoint| u32::from(endpoint.drained)),
    ("ravelin_endpoint_share_percent", "How much of its weight counts: less than 100 while it starts slowly.", |endpoint| {
        endpoint.share
    }),
    ("ravelin_endpoint_requests_in_flight", "Requests under way at the endpoint.", |endpoint| endpoint.in_flight),
];

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    text(status, "text/plain; charset=utf-8", body)
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // A state of a moment ago is wrong.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn ask(api: &Api, method: &str, path: &str, authorization: &[&str]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for value in authorization {
            request = request.header(AUTHORIZATION, *value);
        }
        api.answer(&request.body(()).unwrap().into_parts().0)
    }

    fn status(api: &Api, path: &str, authorization: &[&str]) -> u16 {
        ask(api, "GET", path, authorization).status().as_u16()
    }

    #[test]
    fn the_token_is_asked_for_everywhere_but_at_healthz() {
        let api = Api::testing(Some("sesame"));
        for path in ["/metrics", "/readyz", "/", "/nothing"] {
            assert_eq!(status(&api, path, &[]), 401, "{path}");
        }
        assert_eq!(status(&api, "/healthz", &[]), 200);
        assert_eq!(status(&api, "/healthz", &["Bearer wrong"]), 200);
        let answer = ask(&api, "GET", "/metrics", &[]);
        assert!(answer.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer "));
        assert_eq!(ask(&api, "POST", "/metrics", &[]).status(), 401);
    }

    #[test]
    fn only_the_token_opens() {
        let api = Api::testing(Some("sesame"));
        for right in ["Bearer sesame", "bearer sesame", "BEARER  sesame"] {
            assert_eq!(status(&api, "/metrics", &[right]), 200, "{right}");
        }
        for wrong in ["", "Bearer", "Bearer ", "Bearer sesam", "Bearer sesame2", "Bearer Sesame", "Basic sesame", "sesame"] {
            assert_eq!(status(&api, "/metrics", &[wrong]), 401, "{wrong}");
        }
        assert_eq!(status(&api, "/metrics", &["Bearer wrong", "Bearer sesame"]), 401);
        assert_eq!(status(&api, "/metrics", &["Bearer sesame", "Bearer sesame"]), 401);
    }

    #[test]
    fn without_a_token_nobody_is_asked() {
        let api = Api::testing(None);
        assert_eq!(status(&api, "/metrics", &[]), 200);
        assert_eq!(status(&api, "/metrics", &["Bearer whatever"]), 200);
        assert_eq!(status(&api, "/", &[]), 404);
    }

    #[test]
    fn other_methods_are_told_which_there_are() {
        let api = Api::testing(None);
        for path in ["/metrics", "/healthz", "/readyz"] {
            let answer = ask(&api, "POST", path, &[]);
            assert_eq!((answer.status().as_u16(), answer.headers()[ALLOW].as_bytes()), (405, &b"GET, HEAD"[..]));
        }
        assert_eq!(ask(&api, "HEAD", "/healthz", &[]).status(), 200);
    }

    #[test]
    fn what_is_to_be_drained_stands_in_the_path() {
        let of = |path| Draining::of(path).map(|asked| (asked.upstream, asked.endpoint, asked.drain));
        let named = |upstream: &str, endpoint: &str, drain| Some((upstream.to_owned(), endpoint.to_owned(), drain));
        assert_eq!(of("/upstreams/api/endpoints/10.0.0.1:80/drain"), named("api", "10.0.0.1:80", true));
        assert_eq!(of("/upstreams/api/endpoints/%5B::1%5D:80/undrain"), named("api", "[::1]:80", false));
        assert_eq!(of("/upstreams/api/endpoints/%2Frun%2Fa.sock/drain"), named("api", "/run/a.sock", true));
        assert_eq!(of("/upstreams/api/endpoints//run/a.sock/drain"), named("api", "/run/a.sock", true));
        for other in
            ["/upstreams", "/upstreams/a/endpoints/b", "/upstreams/a/endpoints/b/stop", "/upstreams/a/endpoints/%zz/drain"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn draining_is_for_those_who_may() {
        let path = "/upstreams/a/endpoints/b/drain";
        let closed = Api::testing(Some("sesame"));
        assert_eq!(ask(&closed, "POST", path, &[]).status(), 401);
        assert_eq!(ask(&closed, "POST", path, &["Bearer sesame"]).status(), 404);
        let open = Api::testing(None);
        assert_eq!(ask(&open, "POST", path, &[]).status(), 404);
        assert_eq!(ask(&open, "GET", path, &[]).status(), 405);
        for header in ["origin", "sec-fetch-site"] {
            let request = Request::builder().method("POST").uri(path).header(header, "null").body(()).unwrap();
            assert_eq!(open.answer(&request.into_parts().0).status(), 403, "{header}");
        }
    }

    #[test]
    fn readiness_follows_the_process() {
        let api = Api::testing(None);
        assert_eq!(status(&api, "/readyz", &[]), 503);
        api.drain.listening();
        assert_eq!(status(&api, "/readyz", &[]), 200);
        api.drain.stopping();
        assert_eq!(status(&api, "/readyz", &[]), 503);
        api.drain.listening();
        assert_eq!(status(&api, "/readyz", &[]), 503);
        assert_eq!(status(&api, "/healthz", &[]), 200);
    }
}
