//! `ravelin demo`: three small async services behind the proxy, with nothing to set up.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cli::app::{fail, say};
use crate::cli::logging::start_logging;
use crate::cli::run::start;
use crate::filter::Registry;
use crate::runtime::{Snapshot, compile};
use crate::server::Start;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the configuration that the demo runs, and exit.
    #[arg(long)]
    config: bool,
    /// Where to listen.
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 6188)))]
    address: SocketAddr,
}

const SERVICES: [&str; 3] = ["alpha", "beta", "gamma"];

#[expect(clippy::print_stdout, reason = "the command line speaks to a person")]
pub(super) fn demo(args: &Args, registry: Registry) -> ExitCode {
    if args.config {
        let endpoints = ["127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003"];
        return say(&format!(
            "# What `ravelin demo` runs; there the three endpoints have free ports of their own.\n{}",
            config(args.address, &endpoints.map(str::to_owned))
        ));
    }
    let services = match start_services() {
        Ok(services) => services,
        Err(error) => return fail(&format!("the demo's services can't be started: {error}")),
    };
    let yaml = config(args.address, &services.map(|address| address.to_string()));
    let load = move |previous: Option<&Snapshot>| {
        let (parsed, mut report) = crate::config::parse(&yaml, Path::new("demo"), &registry, &|_| None);
        (parsed.and_then(|config| compile(config, &registry, previous, &mut report)), report)
    };
    let (compiled, report) = load(None);
    let Some(compiled) = compiled else { return fail(&report.render(false)) };
    start_logging();
    println!("{}", welcome(args.address));
    start(compiled, &report, Arc::new(load), Start::Alone)
}

/// What the demo runs, for services at these addresses.
fn config(address: SocketAddr, endpoints: &[String; 3]) -> String {
    let [alpha, beta, gamma] = endpoints;
    format!(
        "\
# Three services behind one address: each request goes to the next one that is healthy.
listeners:
  demo:
    address: \"{address}\"
upstreams:
  services:
    endpoints:
      - {alpha}   # alpha
      - {beta}   # beta
      - {gamma}   # gamma
    balance: round_robin
    health_check: {{tcp: {{interval: 1s, unhealthy_after: 1}}}}
routes:
  services:
    filters:
      - request_id: {{}}
      - headers: {{response: {{set: {{x-served-by: \"{{{{ upstream.endpoint }}}}\"}}}}}}
    upstream: services
  about:
    match: {{paths: [/about]}}
    respond: {{body: \"answered by the proxy itself, for {{{{ client.ip }}}}\\n\"}}
"
    )
}

fn welcome(address: SocketAddr) -> String {
    // As wide as the commands above it, which name the address.
    let show = format!("{:<1$}", "ravelin demo --config", "curl -X POST http:///stop/beta    ".len() + address.to_string().len());
    format!(
        "\
Three services (alpha, beta, gamma) behind http://{address}. Try, in another terminal:

  curl -i http://{address}/                  again and again: each service in turn
  curl http://{address}/about                answered by the proxy itself
  curl -X POST http://{address}/stop/beta    stop beta: traffic moves to the other two, no request fails
  curl -X POST http://{address}/start/beta   start it again: within a second it is back
  {show}the configuration that runs here

Ctrl-C ends it.
"
    )
}

/// Starts the services on free ports, on a thread of their own.
fn start_services() -> io::Result<[SocketAddr; 3]> {
    let mut sockets = Vec::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
    for address in &mut addresses {
        let socket = std::net::TcpListener::bind(*address)?;
        socket.set_nonblocking(true)?;
        *address = socket.local_addr()?;
        sockets.push(socket);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo services".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let switches: Arc<[watch::Sender<bool>]> = SERVICES.iter().map(|_| watch::channel(true).0).collect();
            let mut tasks = tokio::task::JoinSet::new();
            for (index, socket) in sockets.into_iter().enumerate() {
                tasks.spawn(service(index, socket, switches.clone()));
            }
            while tasks.join_next().await.is_some() {}
        });
    })?;
    Ok(addresses)
}

/// One service: while its switch is on it listens, while it is off its port is closed.
async fn service(index: usize, socket: std::net::TcpListener, switches: Arc<[watch::Sender<bool>]>) {
    let Ok(address) = socket.local_addr() else { return };
    let mut switch = switches[index].subscribe();
    let mut socket = TcpListener::from_std(socket).ok();
    loop {
        if !*switch.borrow_and_update() {
            socket = None;
            if switch.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(listener) = &socket else {
            socket = TcpListener::bind(address).await.ok();
            if socket.is_none() {
                log::error!("demo: {} can't have its port {address} back", SERVICES[index]);
                return;
            }
            continue;
        };
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(converse(index, stream, switches.clone()));
                }
            }
            changed = switch.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Answers the requests of one connection, until the service is stopped.
async fn converse(index: usize, mut stream: TcpStream, switches: Arc<[watch::Sender<bool>]>) -> io::Result<()> {
    let mut switch = switches[index].subscribe();
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    loop {
        let head = tokio::select! {
            head = read_head(&mut lines) => head?,
            _ = switch.wait_for(|on| !*on) => return Ok(()),
        };
        let Some(request) = head else { return Ok(()) };
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let body = match command(method, path, &switches) {
            Some(said) => said,
            None => format!("{}\n{method} {path}\n", SERVICES[index]),
        };
        let length = if method == "HEAD" { "" } else { &body };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{length}", body.len());
        write.write_all(answer.as_bytes()).await?;
    }
}

/// The request line of the next head; a service of the demo takes no bodies.
async fn read_head(lines: &mut tokio::io::Lines<impl tokio::io::AsyncBufRead + Unpin>) -> io::Result<Option<String>> {
    let Some(request) = lines.next_line().await? else { return Ok(None) };
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            return Ok(Some(request));
        }
    }
    Ok(None)
}

/// `POST /stop/NAME` and `POST /start/NAME`, to any of the services.
fn command(method: &str, path: &str, switches: &[watch::Sender<bool>]) -> Option<String> {
    let (verb, name) = path.strip_prefix('/')?.split_once('/')?;
    let on = match verb {
        "start" => true,
        "stop" => false,
        _ => return None,
    };
    let index = SERVICES.iter().position(|service| *service == name)?;
    if method != "POST" {
        return Some(format!("to {verb} {name}, ask with POST: curl -X POST\n"));
    }
    if !on && switches.iter().filter(|switch| *switch.borrow()).count() == 1 {
        return Some("the last service stays: there would be nobody to start the others\n".to_owned());
    }
    switches[index].send_replace(on);
    Some(format!("{name} {}\n", if on { "starts" } else { "stops" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_switch_services_but_never_the_last_one_off() {
        let switches: Vec<watch::Sender<bool>> = SERVICES.iter().map(|_| watch::channel(true).0).collect();
        assert!(command("GET", "/stop/alpha", &switches).unwrap().contains("POST"));
        assert_eq!(command("POST", "/stop/nobody", &switches), None);
        assert_eq!(command("POST", "/stop/alpha", &switches).as_deref(), Some("alpha stops\n"));
        assert_eq!(command("POST", "/stop/beta", &switches).as_deref(), Some("beta stops\n"));
        assert!(command("POST", "/stop/gamma", &switches).unwrap().contains("stays"));
        assert_eq!(command("POST", "/start/alpha", &switches).as_deref(), Some("alpha starts\n"));
        assert_eq!(switches.iter().map(|switch| *switch.borrow()).collect::<Vec<_>>(), [true, false, true]);
    }
}
