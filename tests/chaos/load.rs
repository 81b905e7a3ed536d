//! Constant load: a request at each tick, whether those before it are over or not, timed from its tick.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::runtime;

/// One request in so many is a POST: it can't be repeated.
const POSTS: u64 = 10;
/// A client's patience.
const PATIENCE: Duration = Duration::from_secs(15);

/// A finished request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Its tick, from the beginning of the load.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) post: bool,
    /// `None`: there was no whole answer.
    pub(crate) status: Option<u16>,
}

impl Sample {
    pub(crate) fn failed(&self) -> bool {
        self.status != Some(200)
    }
}

/// Load that goes on until it is stopped.
pub(crate) struct Load {
    pub(crate) began: Instant,
    ticking: JoinHandle<JoinSet<Sample>>,
    stop: tokio::sync::watch::Sender<bool>,
}

/// Connections that wait for a next request.
type Pool = Arc<Mutex<Vec<TcpStream>>>;

impl Load {
    /// `rate`: requests in a second. `posts`: whether some of them are POSTs.
    pub(crate) fn start(address: &str, rate: u64, posts: bool) -> Self {
        let (address, pool) = (address.to_owned(), Pool::default());
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let began = Instant::now();
        let ticking = runtime().spawn(async move {
            let mut requests = JoinSet::new();
            for number in 0.. {
                let at = Duration::from_micros(number * 1_000_000 / rate);
                tokio::select! {
                    () = tokio::time::sleep_until((began + at).into()) => {}
                    _ = stopped.changed() => break,
                }
                let (address, pool) = (address.clone(), pool.clone());
                requests.spawn(async move {
                    let post = posts && number % POSTS == POSTS - 1;
                    let answered = tokio::time::timeout(PATIENCE, exchange(&address, &pool, post)).await;
                    Sample { at, took: began.elapsed().saturating_sub(at), post, status: answered.ok().flatten() }
                });
            }
            requests
        });
        Self { began, ticking, stop }
    }

    /// Ends it, and waits for what is under way.
    pub(crate) fn stop(self) -> Vec<Sample> {
        let _ = self.stop.send(true);
        let mut samples = runtime().block_on(async { self.ticking.await.unwrap().join_all().await });
        samples.sort_by_key(|sample| sample.at);
        samples
    }
}

async fn exchange(address: &str, pool: &Pool, post: bool) -> Option<u16> {
    let kept = pool.lock().unwrap().pop();
    let (mut stream, kept) = match kept {
        Some(stream) => (stream, true),
        None => (TcpStream::connect(address).await.ok()?, false),
    };
    let request = if post {
        "POST /order HTTP/1.1\r\nhost: app\r\ncontent-length: 5\r\n\r\nhello"
    } else {
        "GET /item HTTP/1.1\r\nhost: app\r\n\r\n"
    };
    let mut answer = once(&mut stream, request).await;
    if kept && !post && matches!(answer, Err(Cut { begun: false })) {
        // Closed while it waited, as it may be: what every client does then, with what may be repeated.
        stream = TcpStream::connect(address).await.ok()?;
        answer = once(&mut stream, request).await;
    }
    let (status, stays) = answer.ok()?;
    if stays {
        pool.lock().unwrap().push(stream);
    }
    Some(status)
}

/// There was no whole answer.
struct Cut {
    /// A part of one has come.
    begun: bool,
}

/// The status, and whether the connection stays.
async fn once(stream: &mut TcpStream, request: &str) -> Result<(u16, bool), Cut> {
    stream.write_all(request.as_bytes()).await.map_err(|_| Cut { begun: false })?;
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 2048];
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => seen.extend_from_slice(&buffer[..read]),
            _ => return Err(Cut { begun: !seen.is_empty() }),
        }
        if let Some(answer) = whole(&seen) {
            return answer.ok_or(Cut { begun: true });
        }
    }
}

/// An answer that has come, if it is whole; and if it is one.
#[expect(clippy::option_option, reason = "not whole, and whole but none")]
fn whole(seen: &[u8]) -> Option<Option<(u16, bool)>> {
    let end = seen.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let read = || {
        let length: usize = value("content-length:")?.parse().ok()?;
        Some((head.get(9..12)?.parse().ok()?, value("connection:") != Some("close"), length))
    };
    match read() {
        None => Some(None),
        Some((_, _, length)) if seen.len() < end + 4 + length => None,
        Some((status, stays, _)) => Some(Some((status, stays))),
    }
}

/// The time within which so many of a thousand were over.
pub(crate) fn per_mille<'a>(samples: impl Iterator<Item = &'a Sample>, share: usize) -> Option<Duration> {
    let mut times: Vec<Duration> = samples.map(|sample| sample.took).collect();
    times.sort_unstable();
    times.get((times.len() * share).div_ceil(1000).saturating_sub(1)).copied()
}
