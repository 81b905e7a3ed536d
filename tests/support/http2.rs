//! An HTTP/2 client with prior knowledge (h2c), over the `h2` crate.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::deadline::Deadline;
use super::http1::Outgoing;
use super::runtime;
use super::tls::Client;
use super::wire::{Direction, Field, Head, Response, Transcript, Trouble};

/// One HTTP/2 connection; each request is a stream of it.
pub(crate) struct H2Connection {
    requests: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
    streams: VecDeque<Stream>,
    /// Open still, and read no more.
    left: Vec<Stream>,
    pub(crate) sent_at: Instant,
    pub(crate) transcript: Transcript,
}

/// A request without its whole answer.
enum Stream {
    Waiting(ResponseFuture),
    Open(Response, RecvStream),
    Ended(Response),
}

impl H2Connection {
    /// Connects to `address:port` or `unix:/path` and speaks HTTP/2 at once.
    pub(crate) fn open(address: &str, deadline: Deadline) -> io::Result<Self> {
        let handshake = async {
            match address.strip_prefix("unix:") {
                Some(path) => handshake(UnixStream::connect(path).await?).await,
                None => handshake(TcpStream::connect(address).await?).await,
            }
        };
        Ok(Self::over(within(deadline, "the HTTP/2 handshake", handshake).map_err(io::Error::other)??))
    }

    /// Connects over TLS, as this client, and asks for this name.
    pub(crate) fn open_secure(address: &str, client: &Client, name: &str, deadline: Deadline) -> io::Result<Self> {
        let handshake = async {
            let stream = TcpStream::connect(address).await?;
            let name = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
            handshake(tokio_rustls::TlsConnector::from(client.config()).connect(name, stream).await?).await
        };
        Ok(Self::over(within(deadline, "both handshakes", handshake).map_err(io::Error::other)??))
    }

    fn over((requests, driver): Handshake) -> Self {
        let transcript = Transcript::default();
        Self { requests, driver, streams: VecDeque::new(), left: Vec::new(), sent_at: Instant::now(), transcript }
    }

    /// Opens a stream with this request.
    pub(crate) fn request(&mut self, request: &Outgoing, deadline: Deadline) -> Result<(), Trouble> {
        let host = String::from_utf8_lossy(request.value("host").unwrap_or_default()).into_owned();
        let mut shown = format!(":method: {}\n:path: {}\n:authority: {host}\n", request.method, request.target);
        let uri = format!("http://{host}{}", request.target);
        let mut message = http::Request::builder().method(request.method.as_str()).uri(uri);
        message = message.version(http::Version::HTTP_2);
        for (name, value) in request.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            shown.push_str(&format!("{}: {}\n", name.to_ascii_lowercase(), String::from_utf8_lossy(value)));
            message = message.header(name.as_str(), value.as_slice());
        }
        self.transcript.event("a new stream");
        self.transcript.add(Direction::Sent, shown.as_bytes());
        self.transcript.add(Direction::Sent, &request.body);
        self.sent_at = Instant::now();
        let message = message.body(()).map_err(|error| Trouble::Broken(format!("cannot send this over HTTP/2: {error}")))?;
        let body = Bytes::from(request.body.clone());
        let mut requests = self.requests.clone();
        let sent = within(deadline, "a free stream", async move {
            requests = requests.ready().await?;
            let (answer, mut stream) = requests.send_request(message, body.is_empty())?;
            if !body.is_empty() {
                // It may have been answered already.
                let _ = stream.send_data(body, true);
            }
            Ok::<_, h2::Error>(answer)
        })?;
        let answer = sent.map_err(|error| Trouble::Broken(format!("cannot send this over HTTP/2: {error}")))?;
        self.streams.push_back(Stream::Waiting(answer));
        Ok(())
    }

    /// The answer on the oldest stream without one.
    pub(crate) fn next_response(&mut self, deadline: Deadline) -> Result<Response, Trouble> {
        let response = self.read(deadline, |_| false)?;
        self.streams.pop_front();
        Ok(response)
    }

    /// The answer as far as it has come once `enough` says so; the rest is left to a later call.
    pub(crate) fn response_so_far(
        &mut self,
        deadline: Deadline,
        enough: impl Fn(&Response) -> bool,
    ) -> Result<Response, Trouble> {
        self.read(deadline, enough)
    }

    /// Goes on to the next stream; this one stays open.
    pub(crate) fn forget_oldest(&mut self) {
        if let Some(stream) = self.streams.pop_front() {
            self.left.push(stream);
        }
    }

    /// Resets the oldest stream.
    pub(crate) fn give_up(&mut self) {
        self.streams.pop_front();
    }

    fn read(&mut self, deadline: Deadline, enough: impl Fn(&Response) -> bool) -> Result<Response, Trouble> {
        let stream = self.streams.pop_front();
        let (mut response, mut body) = match stream.ok_or_else(|| Trouble::Broken("no request awaits an answer".into()))? {
            Stream::Open(response, body) => (response, body),
            Stream::Ended(response) => {
                self.streams.push_front(Stream::Ended(response.clone()));
                return Ok(response);
            }
            Stream::Waiting(answer) => {
                let answer = within(deadline, "a response", answer)?;
                let (parts, body) = match answer {
                    Ok(answer) => answer.into_parts(),
                    Err(error) => {
                        self.transcript.event(&error.to_string());
                        return Err(Trouble::Silence(error.to_string()));
                    }
                };
                let head = head(&parts);
                self.transcript.add(Direction::Came, &head.raw);
                (Response { head, interim: vec![], body: vec![], trailers: vec![], cut: Some("still open".into()) }, body)
            }
        };
        while response.cut.is_some() && !enough(&response) {
            match within(deadline, "more of the body", body.data()) {
                Ok(Some(Ok(data))) => {
                    let _ = body.flow_control().release_capacity(data.len());
                    self.transcript.add(Direction::Came, &data);
                    response.body.extend_from_slice(&data);
                }
                Ok(Some(Err(error))) => {
                    self.transcript.event(&error.to_string());
                    response.cut = Some(error.to_string());
                    self.streams.push_front(Stream::Ended(response.clone()));
                    return Ok(response);
                }
                Ok(None) => {
                    response.trailers = self.trailers(&mut body, deadline)?;
                    response.cut = None;
                }
                Err(trouble) => {
                    self.streams.push_front(Stream::Open(response, body));
                    return Err(trouble);
                }
            }
        }
        self.streams.push_front(Stream::Open(response.clone(), body));
        Ok(response)
    }

    fn trailers(&mut self, body: &mut RecvStream, deadline: Deadline) -> Result<Vec<Field>, Trouble> {
        let trailers = within(deadline, "the trailers", body.trailers())?;
        let trailers = trailers.map_err(|error| Trouble::Broken(error.to_string()))?.unwrap_or_default();
        let fields = trailers.iter().map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()));
        Ok(fields.collect())
    }

    /// Waits for the peer to end the connection.
    pub(crate) fn closed(&mut self, deadline: Deadline) -> Result<(), Trouble> {
        within(deadline, "the connection to be closed", &mut self.driver).map(|_| ())
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }
}

impl Drop for H2Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

type Handshake = (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>);

async fn handshake<S>(stream: S) -> io::Result<Handshake>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    Ok((requests, tokio::spawn(connection)))
}

fn within<F: Future>(deadline: Deadline, what: &'static str, future: F) -> Result<F::Output, Trouble> {
    let limited = async { tokio::time::timeout_at(deadline.at().into(), future).await };
    runtime().block_on(limited).map_err(|_| Trouble::Deadline(what))
}

fn head(parts: &http::response::Parts) -> Head {
    let mut raw = format!("HTTP/2 {}\r\n", parts.status.as_u16()).into_bytes();
    for (name, value) in &parts.headers {
        raw.extend_from_slice(name.as_str().as_bytes());
        raw.extend_from_slice(b": ");
        raw.extend_from_slice(value.as_bytes());
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n");
    Head::parse(&raw)
}
