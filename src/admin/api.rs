//! What the admin address answers.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode, request};
use http_body_util::Full;

use crate::observe::{self, Text, metrics};
use crate::runtime::Store;
use crate::server::Drain;
use crate::types::Secret;

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
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
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

    fn metrics(&self) -> String {
        let mut written = String::with_capacity(16 * 1024);
        let mut out = Text::new(&mut written);
        metrics().write(&mut out);
        // What is in force now, and not what was counted.
        out.family(
            "ravelin_endpoint_healthy",
            "gauge",
            "1 while the endpoint is given requests, 0 while its health check fails.",
        );
        let snapshot = self.store.as_ref().map(|store| store.load());
        let mut upstreams: Vec<_> = snapshot.iter().flat_map(|snapshot| snapshot.upstreams()).collect();
        upstreams.sort_by_key(|upstream| upstream.name());
        for upstream in upstreams {
            for (endpoint, healthy) in upstream.health() {
                out.sample(&[("upstream", upstream.name()), ("endpoint", &endpoint)], u8::from(healthy));
            }
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
