//! A name server over UDP and TCP that answers as it is told, or lies.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::runtime;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What is said of a name.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// Priority, weight, port and host.
    Services(Vec<(u16, u16, u16, String)>),
    /// The one to who asks for IPv6, the other to anybody else.
    V6Else(Box<Says>, Box<Says>),
    /// The first address, and beside it the second as another name's.
    Besides(IpAddr, IpAddr),
    /// Another name.
    Alias(String),
    /// The name exists, and nothing under it.
    Nothing,
    /// No such name.
    NoName,
    /// It can't tell.
    Failure,
    /// No answer at all.
    Silence,
    /// An answer to another question.
    WrongId(IpAddr),
    /// Bytes that are no message.
    Junk,
}

/// It ends with its value.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    says: Mutex<HashMap<String, Says>>,
    asked: AtomicUsize,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        let sockets = runtime().block_on(async {
            loop {
                // The same port for both.
                let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
                if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("it is bound")).await {
                    return (udp, tcp);
                }
            }
        });
        Self::on(sockets)
    }

    /// Where systems look for one, at this address.
    pub(crate) fn at(ip: IpAddr) -> std::io::Result<Self> {
        let bound = async { Ok((UdpSocket::bind((ip, 53)).await?, TcpListener::bind((ip, 53)).await?)) };
        runtime().block_on(bound).map(Self::on)
    }

    fn on((udp, tcp): (UdpSocket, TcpListener)) -> Self {
        let state = Arc::new(State::default());
        let address = udp.local_addr().expect("it is bound");
        let (over_udp, over_tcp) = (state.clone(), state.clone());
        let tasks = vec![
            runtime().spawn(async move {
                let mut question = [0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut question).await {
                    if let Some(answer) = over_udp.answer(&question[..length]) {
                        let whole = answer.len() <= 512;
                        // A long one is cut, and asked for again over TCP.
                        let sent = if whole { answer } else { truncated(&answer) };
                        let _ = udp.send_to(&sent, from).await;
                    }
                }
            }),
            runtime().spawn(async move {
                while let Ok((mut stream, _)) = tcp.accept().await {
                    let state = over_tcp.clone();
                    tokio::spawn(async move {
                        while let Ok(length) = stream.read_u16().await {
                            let mut question = vec![0; usize::from(length)];
                            if stream.read_exact(&mut question).await.is_err() {
                                return;
                            }
                            let Some(answer) = state.answer(&question) else { return };
                            let mut sent = (answer.len() as u16).to_be_bytes().to_vec();
                            sent.extend(answer);
                            if stream.write_all(&sent).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }),
        ];
        Self { address, state, tasks }
    }

    pub(crate) fn say(&self, name: &str, says: Says) {
        self.state.says.lock().expect("nobody panics").insert(name.to_owned(), says);
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl State {
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = name(question, 12)?;
        let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
        self.asked.fetch_add(1, Ordering::SeqCst);
        let says = self.says.lock().expect("nobody panics").get(&name).cloned().unwrap_or(Says::NoName);
        let says = match says {
            Says::V6Else(v6, rest) => *if kind == AAAA { v6 } else { rest },
            says => says,
        };
        let (mut records, mut foreign) = (Vec::new(), None);
        let mut code = 0;
        let mut id = [question[0], question[1]];
        match says {
            Says::Addresses(addresses, ttl) => records.extend(addresses.iter().filter_map(|ip| address(*ip, kind, ttl))),
            Says::Services(services) if kind == SRV => {
                for (priority, weight, port, host) in services {
                    let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
                    data.extend(labels(&host));
                    records.push((SRV, 1, data));
                }
            }
            Says::Besides(own, other) => {
                records.extend(address(own, kind, 0));
                foreign = address(other, kind, 0);
            }
            Says::Alias(to) => records.push((CNAME, 1, labels(&to))),
            Says::Services(_) | Says::Nothing => {}
            Says::NoName => code = 3,
            Says::Failure => code = 2,
            Says::Silence | Says::V6Else(..) => return None,
            Says::WrongId(ip) => {
                id[0] ^= 0xff;
                records.extend(address(ip, kind, 1));
            }
            Says::Junk => return Some(b"\xff\xfe junk, and no message at all".to_vec()),
        }
        let mut out = id.to_vec();
        out.extend([0x81, 0x80 | code, 0, 1]);
        out.extend(((records.len() + usize::from(foreign.is_some())) as u16).to_be_bytes());
        out.extend([0, 0, 0, 0]);
        out.extend(&question[12..end + 4]);
        let own = records.into_iter().map(|record| (vec![0xc0, 0x0c], record));
        for (owner, (kind, ttl, data)) in own.chain(foreign.map(|record| (labels("evil.test"), record))) {
            out.extend(owner);
            out.extend(kind.to_be_bytes());
            out.extend([0, 1]);
            out.extend(u32::to_be_bytes(ttl));
            out.extend((data.len() as u16).to_be_bytes());
            out.extend(data);
        }
        Some(out)
    }
}

fn address(ip: IpAddr, kind: u16, ttl: u32) -> Option<(u16, u32, Vec<u8>)> {
    match ip {
        IpAddr::V4(ip) if kind == A => Some((A, ttl, ip.octets().to_vec())),
        IpAddr::V6(ip) if kind == AAAA => Some((AAAA, ttl, ip.octets().to_vec())),
        _ => None,
    }
}

fn truncated(answer: &[u8]) -> Vec<u8> {
    let end = name(answer, 12).map_or(12, |(_, end)| end + 4);
    let mut cut = answer[..end].to_vec();
    cut[2] |= 0x02;
    cut[6..8].copy_from_slice(&[0, 0]);
    cut
}

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

/// The name at a place of a message, and where it ends.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}
