//! What is said to an authority, and what it answers: over HTTP/1.1, encrypted, each exchange bounded in time and size.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::tls::provider;
use crate::types::Url;

/// For one exchange as a whole.
const EXCHANGE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// Between two exchanges on a connection.
const IDLE: Duration = Duration::from_secs(20);
/// A chain is a few KiB.
const LARGEST: usize = 256 << 10;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("ravelin/", env!("CARGO_PKG_VERSION"), " instant-acme"));

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("no answer within {} s", EXCHANGE.as_secs())]
    Timeout,
    #[error("{0}")]
    Unreachable(String),
    #[error("its own certificate is not trusted: {0}")]
    Untrusted(String),
    #[error("there are no certificates to trust it by: {0}")]
    Roots(String),
    #[error("the authority leads to {0}, which is not https")]
    Insecure(String),
    #[error("its answer is larger than {} KiB", LARGEST >> 10)]
    TooLarge,
    #[error("its answer broke off: {0}")]
    Broken(String),
}

/// An answer that says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<SystemTime>,
}

/// The last answer, if it was one that says no: the library keeps neither its status nor how long it says to wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastAnswer(Arc<Mutex<Option<Refusal>>>);

impl LastAnswer {
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, refusal: Option<Refusal>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }
}

/// Carries the library's requests.
pub(crate) struct Wire {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    last: LastAnswer,
}

impl Wire {
    /// `ca`: whom to trust; `None`: whom the system trusts. It reads files.
    pub(crate) fn new(ca: Option<&[CertificateDer<'static>]>, last: LastAnswer) -> Result<Self, WireError> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(ca) => {
                for certificate in ca {
                    roots.add(certificate.clone()).map_err(|error| WireError::Roots(error.to_string()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    let why = found.errors.first().map_or_else(|| "the system has none".to_owned(), ToString::to_string);
                    return Err(WireError::Roots(why));
                }
            }
        }
        let config = ClientConfig::builder_with_provider(provider().clone());
        let config = config.with_safe_default_protocol_versions().map_err(|error| WireError::Roots(error.to_string()))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        // Whether it may be in the clear is asked of each URL.
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(tcp);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(1);
        Ok(Self { client: builder.build(connector), last })
    }
}

impl HttpClient for Wire {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        self.last.note(None);
        let refused = is_secure(request.uri()).then_some(()).ok_or_else(|| WireError::Insecure(request.uri().to_string()));
        request.headers_mut().insert(USER_AGENT, AGENT);
        let last = self.last.clone();
        let exchange = refused.map(|()| self.client.request(request));
        Box::pin(async move {
            let exchange = async {
                let (parts, body) = exchange?.await.map_err(|error| unreachable(&error))?.into_parts();
                let body = Limited::new(body, LARGEST).collect().await.map_err(|error| {
                    if error.is::<LengthLimitError>() { WireError::TooLarge } else { WireError::Broken(error.to_string()) }
                })?;
                Ok((parts, body.to_bytes()))
            };
            let answer = tokio::time::timeout(EXCHANGE, exchange).await.unwrap_or(Err(WireError::Timeout));
            let (parts, body) = answer.map_err(|error| Error::Other(Box::new(error)))?;
            if parts.status.is_client_error() || parts.status.is_server_error() {
                let retry_after = retry_after(&parts.headers, SystemTime::now());
                last.note(Some(Refusal { status: parts.status.as_u16(), retry_after }));
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

/// An authority that is believed leads to others of its URLs: never in the clear, unless on this machine.
fn is_secure(uri: &Uri) -> bool {
    uri.to_string().parse::<Url>().is_ok_and(|url| url.is_secure() || url.is_loopback())
}

fn unreachable(error: &hyper_util::client::legacy::Error) -> WireError {
    let mut words = Vec::new();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref::<rustls::Error>() {
            return WireError::Untrusted(why.to_string());
        }
        words.push(error.to_string());
        // An error of I/O holds another, and does not name it as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = inner.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    // What lies deepest says what has happened.
    WireError::Unreachable(words.pop().unwrap_or_default())
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<SystemTime> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u64>() {
        Ok(seconds) => now.checked_add(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_wait_is_a_number_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(now + Duration::from_secs(120)));
        assert_eq!(read("Mon, 12 Jan 1970 13:46:41 GMT"), Some(now + Duration::from_secs(1)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("99999999999999999999"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn nothing_is_said_in_the_clear_but_on_this_machine() {
        for (uri, secure) in
            [("https://ca.example/x", true), ("http://127.0.0.1:1/x", true), ("http://ca.example/x", false), ("/x", false)]
        {
            assert_eq!(is_secure(&uri.parse().unwrap()), secure, "{uri}");
        }
    }
}
