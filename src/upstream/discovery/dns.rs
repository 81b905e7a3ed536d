//! Endpoints by name: the addresses of one (A and AAAA), or a service record (SRV, RFC 2782), asked through hickory-resolver.

use std::net::{IpAddr, SocketAddr as InetAddress};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::time::Instant as Deadline;

use super::found::{Answer, Found, GRACE, News};
use crate::config::{DnsDiscovery, SrvDiscovery};
use crate::observe::UpstreamMeter;
use crate::upstream::directory::Entry;

/// How long one answer may take, all servers and tries together.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one server may take for one question.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A TTL is respected up to here: whoever says a week may have made a mistake.
const LONGEST: Duration = Duration::from_secs(3600);
/// Hosts of one service record.
const TARGETS: usize = 128;

pub(in crate::upstream) struct Dns {
    name: Box<str>,
    /// `None`: a service record, which has ports of its own.
    port: Option<u16>,
    refresh: Duration,
    nameserver: Option<InetAddress>,
    resolver: Mutex<Option<TokioResolver>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    found: Found,
    /// Until the next question.
    pause: Duration,
}

/// Addresses, and how long they hold.
struct Hosts {
    addresses: Vec<IpAddr>,
    ttl: Duration,
    /// Why one family's are those that were known before.
    failed: Option<String>,
}

/// Whether an address is of it.
type Family = fn(&IpAddr) -> bool;

/// What is found altogether; the last says why some of it is as it was known before.
type Whole = (Vec<Entry>, Duration, Option<String>);

impl Dns {
    pub(in crate::upstream) fn of_addresses(section: &DnsDiscovery) -> Self {
        let nameserver = section.resolver.map(|resolver| resolver.address());
        Self::new(section.name.as_str(), Some(section.port.get()), section.refresh.get(), nameserver)
    }

    pub(in crate::upstream) fn of_services(section: &SrvDiscovery) -> Self {
        let nameserver = section.resolver.map(|resolver| resolver.address());
        Self::new(section.name.as_str(), None, section.refresh.get(), nameserver)
    }

    fn new(name: &str, port: Option<u16>, refresh: Duration, nameserver: Option<InetAddress>) -> Self {
        Self { name: name.into(), port, refresh, nameserver, resolver: Mutex::default(), state: Mutex::default() }
    }

    /// What stands for its endpoints where nobody is asked.
    pub(in crate::upstream) fn label(&self) -> String {
        self.port.map_or_else(|| self.name.to_string(), |port| format!("{}:{port}", self.name))
    }

    /// Goes on from what was found for a configuration before, if that asked for the same.
    pub(in crate::upstream) fn go_on_from(&self, before: &Self) {
        if (&self.name, self.port) == (&before.name, before.port) {
            let found = before.state.lock().unwrap_or_else(PoisonError::into_inner).found.clone();
            self.state.lock().unwrap_or_else(PoisonError::into_inner).found = found;
        }
    }

    /// The endpoints of its last good answer.
    pub(in crate::upstream) fn entries(&self) -> Vec<Entry> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).found.entries.clone()
    }

    /// How long its last answer holds.
    pub(in crate::upstream) fn pause(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).pause.max(self.refresh)
    }

    /// Asks, and says which endpoints there are now.
    pub(in crate::upstream) async fn look(&self, upstream: &str, meter: &UpstreamMeter) -> Vec<Entry> {
        let (answer, ttl) = self.ask(Deadline::now() + PATIENCE).await;
        if matches!(answer, Answer::Failed(_) | Answer::Part(..)) {
            meter.discovery_failed();
            // What the system asks may have changed.
            self.resolver.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let news = state.found.take(answer, Instant::now());
        state.pause = ttl.min(LONGEST);
        let (name, count) = (&self.name, state.found.entries.len());
        match news {
            Some(News::Fails(error)) => {
                log::warn!(
                    "discovery fails, the last endpoints are kept upstream={upstream} name={name} error={error:?} endpoints={count}"
                );
            }
            Some(News::FailsInPart(error)) => {
                log::warn!(
                    "discovery fails in part, the last endpoints of that part are kept upstream={upstream} name={name} error={error:?} endpoints={count}"
                );
            }
            Some(News::Empties) => {
                log::warn!(
                    "discovery finds none, the last endpoints are kept for {GRACE:?} upstream={upstream} name={name} endpoints={count}"
                );
            }
            Some(News::Emptied) => {
                log::warn!("discovery has found none for {GRACE:?}: there is none upstream={upstream} name={name}")
            }
            Some(News::Recovers) => {
                log::info!("discovery finds endpoints again upstream={upstream} name={name} endpoints={count}")
            }
            Some(News::TooMany(left_out)) => {
                log::warn!(
                    "discovery finds too many endpoints upstream={upstream} name={name} endpoints={count} left_out={left_out}"
                );
            }
            None => {}
        }
        state.found.entries.clone()
    }

    async fn ask(&self, until: Deadline) -> (Answer, Duration) {
        let asked = match self.port {
            Some(port) => {
                let host: Arc<str> = self.label().into();
                self.addresses(&self.name, &host, until).await.map(|hosts| {
                    let entry = |ip| Entry::of(InetAddress::new(ip, port), &host);
                    (hosts.addresses.into_iter().map(entry).collect::<Vec<_>>(), hosts.ttl, hosts.failed)
                })
            }
            None => self.services(until).await,
        };
        match asked {
            Ok((entries, ttl, None)) if entries.is_empty() => (Answer::Empty, ttl.min(self.refresh)),
            Ok((entries, ttl, None)) => (Answer::Found(entries), ttl),
            // What failed is asked for again, however long the rest holds.
            Ok((entries, _, Some(reason))) => (Answer::Part(entries, reason), Duration::ZERO),
            Err(reason) => (Answer::Failed(reason), Duration::ZERO),
        }
    }

    /// Both families. One that fails does not take the other's away, nor what is known of itself, but one that fails beside nothing is
    /// a failure.
    async fn addresses(&self, name: &str, host: &str, until: Deadline) -> Result<Hosts, String> {
        let (v4, v6) = tokio::join!(self.records(name, RecordType::A, until), self.records(name, RecordType::AAAA, until));
        // Which of both failed, and why.
        let mut lost: Option<(String, Family)> = None;
        let (data, ttl) = match (v4, v6) {
            (Ok((v4, first)), Ok((v6, second))) => {
                let ttl = if v6.is_empty() {
                    first
                } else if v4.is_empty() {
                    second
                } else {
                    first.min(second)
                };
                ([v4, v6].concat(), ttl)
            }
            (Err(reason), Err(_)) => return Err(reason),
            (Ok((data, ttl)), Err(reason)) => {
                lost = Some((reason, IpAddr::is_ipv6));
                (data, ttl)
            }
            (Err(reason), Ok((data, ttl))) => {
                lost = Some((reason, IpAddr::is_ipv4));
                (data, ttl)
            }
        };
        let mut addresses: Vec<IpAddr> = data
            .iter()
            .filter_map(|data| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            })
            .filter(|address| is_usable(*address))
            .collect();
        let Some((reason, is_lost)) = lost else { return Ok(Hosts { addresses, ttl, failed: None }) };
        if data.is_empty() {
            return Err(reason);
        }
        let known = self.known(host).into_iter().filter_map(|entry| entry.address.as_inet().map(InetAddress::ip)).filter(is_lost);
        let answered = addresses.len();
        addresses.extend(known);
        // Many a server has no idea of the other family: there is nothing to keep, and nothing to say.
        let failed = (addresses.len() > answered).then_some(reason);
        Ok(Hosts { addresses, ttl, failed })
    }

    /// What the last good answer said of a host.
    fn known(&self, host: &str) -> Vec<Entry> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.found.entries.iter().filter(|entry| *entry.host == *host).cloned().collect()
    }

    async fn services(&self, until: Deadline) -> Result<Whole, String> {
        let (data, mut ttl) = self.records(&self.name, RecordType::SRV, until).await?;
        let services: Vec<SRV> = data
            .into_iter()
            .filter_map(|data| if let RData::SRV(service) = data { Some(service) } else { None })
            // A target of `.` says that the service is decidedly not there.
            .filter(|service| !service.target.is_root() && service.port > 0)
            .take(TARGETS)
            .collect();
        let Some(first) = services.iter().map(|service| service.priority).min() else { return Ok((Vec::new(), ttl, None)) };
        let named = services.iter().map(|service| {
            let name = service.target.to_ascii();
            let host: Arc<str> = format!("{}:{}", name.trim_end_matches('.').to_ascii_lowercase(), service.port).into();
            (name, host)
        });
        let named: Vec<(String, Arc<str>)> = named.collect();
        let found = join_all(named.iter().map(|(name, host)| self.addresses(name, host, until))).await;
        let mut entries = Vec::new();
        let mut failed = None;
        for ((service, (_, host)), hosts) in services.iter().zip(&named).zip(found) {
            match hosts {
                Ok(hosts) => {
                    ttl = ttl.min(hosts.ttl);
                    entries.extend(hosts.addresses.into_iter().map(|ip| Entry {
                        // 0 is the smallest share, and not none (RFC 2782).
                        weight: u32::from(service.weight).max(1),
                        backup: service.priority > first,
                        ..Entry::of(InetAddress::new(ip, service.port), host)
                    }));
                    failed = hosts.failed.or(failed);
                }
                Err(reason) => {
                    // What was known of this host holds on.
                    entries.extend(self.known(host));
                    failed = Some(reason);
                }
            }
        }
        match failed {
            Some(reason) if entries.is_empty() => Err(reason),
            failed => Ok((entries, ttl, failed)),
        }
    }

    /// The records of a name; none, if there is no such name.
    async fn records(&self, name: &str, kind: RecordType, until: Deadline) -> Result<(Vec<RData>, Duration), String> {
        // With a server of its own there is no list of domains to search.
        let absolute = self.nameserver.is_some() && !name.ends_with('.');
        let name =
            Name::from_ascii(if absolute { format!("{name}.") } else { name.to_owned() }).map_err(|error| error.to_string())?;
        let resolver = self.resolver().map_err(|error| error.to_string())?;
        let Ok(answered) = tokio::time::timeout_at(until, resolver.lookup(name, kind)).await else {
            return Err(format!("no answer within {PATIENCE:?}"));
        };
        match answered {
            Ok(answer) => {
                let ttl = answer.valid_until().saturating_duration_since(Instant::now());
                let question = answer.message().queries.first().ok_or("the answer is to no question")?;
                Ok((of_name(question.name(), answer.answers()), ttl))
            }
            Err(error) if error.is_no_records_found() && !is_failure(&error) => Ok((Vec::new(), Duration::ZERO)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*resolver {
            return Ok(resolver.clone());
        }
        let mut builder = match self.nameserver {
            Some(address) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                let server = NameServerConfig::new(address.ip(), true, connections.to_vec());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio()?,
        };
        let options = builder.options_mut();
        // How long an answer holds is known here, and asked again when it is over.
        options.cache_size = 0;
        // Of whom each record is, is looked at here.
        options.preserve_intermediates = true;
        options.timeout = TIMEOUT;
        options.attempts = 2;
        if self.nameserver.is_some() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        let made = builder.build()?;
        *resolver = Some(made.clone());
        Ok(made)
    }
}

/// Whether an answer without records says that the server could not tell.
fn is_failure(error: &NetError) -> bool {
    use hickory_resolver::net::DnsError;
    use hickory_resolver::proto::op::ResponseCode;
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return false };
    !matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// Whether anybody can be there.
fn is_usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

/// What is said of a name, and of what it is another name for. A record of anybody else has no place in the answer.
fn of_name(name: &Name, answers: &[Record]) -> Vec<RData> {
    let mut names = vec![name];
    // Nobody has more names in a row than that.
    for _ in answers.iter().take(16) {
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if names.contains(&&record.name) && !names.contains(&&target.0) => Some(&target.0),
            _ => None,
        });
        let Some(alias) = alias else { break };
        names.push(alias);
    }
    answers.iter().filter(|record| names.contains(&&record.name)).map(|record| record.data.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_can_be_is_no_endpoint() {
        for (address, usable) in [
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_usable(address.parse().unwrap()), usable, "{address}");
        }
    }
}
