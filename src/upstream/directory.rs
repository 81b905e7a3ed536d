//! Which endpoints an upstream has: those given by address, and what the names of the others resolve to.
//!
//! Names are resolved by the background task, never on the request path. An answer that fails or is empty leaves
//! the last good one in place and says so once.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_load_balancing::Backend;
use pingora_load_balancing::discovery::ServiceDiscovery;

use crate::config::{self, Discover};
use crate::observe::UpstreamMeter;
use crate::types::Address;
use crate::upstream::discovery::{Dns, List};
use crate::upstream::endpoint::{Endpoint, EndpointError, Terms};
use crate::upstream::gate::{Gate, capacity};
use crate::upstream::link::Link;
use crate::upstream::outlier::Rules;
use crate::upstream::vitals::Roster;

/// Time between two resolutions of a name.
const REFRESH: Duration = Duration::from_secs(5);
/// How long one resolution may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct Directory {
    upstream: Box<str>,
    link: Arc<Link>,
    meter: Arc<UpstreamMeter>,
    roster: Arc<Roster>,
    terms: Terms,
    listed: ArcSwap<Listed>,
    discovery: Option<Discovery>,
    table: ArcSwap<HashMap<SocketAddr, Arc<Endpoint>>>,
    /// Nothing is resolved: a name stands for itself.
    offline: AtomicBool,
    /// What a configuration before had found stands for the first answer: nobody needs to be asked before requests are served.
    known: AtomicBool,
}

/// An address of an endpoint, its weight, and what it is called.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) address: SocketAddr,
    pub(super) weight: u32,
    pub(super) backup: bool,
    pub(super) host: Arc<str>,
}

impl Entry {
    /// One like any other at an address, called so.
    pub(super) fn of(address: std::net::SocketAddr, host: &(impl AsRef<str> + ?Sized)) -> Self {
        Self { address: SocketAddr::Inet(address), weight: 1, backup: false, host: host.as_ref().into() }
    }
}

/// Where endpoints come from that the configuration does not list.
enum Discovery {
    Dns(Box<Dns>),
    File(List),
}

/// Endpoints of a list, in the configuration or a file of its own.
#[derive(Default)]
struct Listed {
    fixed: Vec<Entry>,
    names: Vec<Named>,
}

struct Named {
    host: String,
    port: u16,
    weight: u32,
    backup: bool,
    label: Arc<str>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    entries: Vec<Entry>,
    failing: bool,
}

impl Directory {
    /// `previous`: that of the same upstream in the configuration before. What it found last, and how endpoints fared, is not forgotten.
    pub(super) fn new(
        upstream: &str,
        section: &config::Upstream,
        link: Arc<Link>,
        meter: Arc<UpstreamMeter>,
        previous: Option<&Self>,
    ) -> Result<Self, EndpointError> {
        let mut listed = Listed::of(section.endpoints.value.iter().map(|endpoint| &endpoint.value))?;
        let discovery = match section.discover.as_ref().map(|discover| &discover.value) {
            Some(Discover::Dns(dns)) => Some(Discovery::Dns(Box::new(Dns::of_addresses(dns)))),
            Some(Discover::DnsSrv(service)) => Some(Discovery::Dns(Box::new(Dns::of_services(service)))),
            Some(Discover::File(file)) => {
                let unusable = |reason: String| EndpointError::List { path: file.path.display().to_string(), reason };
                let (list, endpoints) = List::open(&file.path).map_err(unusable)?;
                listed = Listed::within(&endpoints, &link).map_err(unusable)?;
                Some(Discovery::File(list))
            }
            None => None,
        };
        let roster = previous.map_or_else(Arc::default, |previous| previous.roster.clone());
        let terms = terms(section, &roster);
        if let Some(previous) = previous {
            listed.go_on_from(&previous.listed.load());
            if let (Some(Discovery::Dns(dns)), Some(Discovery::Dns(before))) = (&discovery, &previous.discovery) {
                dns.go_on_from(before);
            }
        }
        let listed = ArcSwap::from_pointee(listed);
        let directory = Self { roster, terms, listed, discovery, ..Self::empty(upstream, link, meter) };
        let looked_up = matches!(directory.discovery, Some(Discovery::Dns(_))) || !directory.listed.load().names.is_empty();
        directory.known.store(looked_up && directory.last_good().is_some(), Ordering::Relaxed);
        let entries = directory.last_good().unwrap_or_else(|| directory.listed.load().fixed.clone());
        directory.publish(entries);
        Ok(directory)
    }

    /// All that was known last, if nothing is missing.
    fn last_good(&self) -> Option<Vec<Entry>> {
        let listed = self.listed.load();
        let mut entries = listed.fixed.clone();
        let mut add = |found: Vec<Entry>| (!found.is_empty()).then(|| entries.extend(found));
        for name in &listed.names {
            add(name.last.lock().unwrap_or_else(PoisonError::into_inner).entries.clone())?;
        }
        if let Some(Discovery::Dns(dns)) = &self.discovery {
            add(dns.entries())?;
        }
        Some(entries)
    }

    /// The directory of an upstream that has no endpoints.
    pub(super) fn empty(upstream: &str, link: Arc<Link>, meter: Arc<UpstreamMeter>) -> Self {
        Self {
            upstream: upstream.into(),
            link,
            meter,
            roster: Arc::default(),
            terms: Terms::default(),
            listed: ArcSwap::default(),
            discovery: None,
            table: ArcSwap::default(),
            offline: AtomicBool::new(false),
            known: AtomicBool::new(false),
        }
    }

    /// From here on a name stands for itself, as one endpoint, and nobody is asked for its addresses.
    pub(super) fn go_offline(&self) {
        self.offline.store(true, Ordering::Relaxed);
    }

    /// How long until to look again; `None`: never, since nothing can change.
    pub(super) fn pause(&self) -> Option<Duration> {
        let names = (!self.listed.load().names.is_empty()).then_some(REFRESH);
        let discovery = self.discovery.as_ref().map(|discovery| match discovery {
            Discovery::Dns(dns) => dns.pause(),
            Discovery::File(list) => list.pause(),
        });
        names.into_iter().chain(discovery).min()
    }

    /// How its endpoints fare.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// When endpoints are left out for how their requests ended.
    pub(super) fn rules(&self) -> Option<&Arc<Rules>> {
        self.terms.judge.as_ref().map(|(rules, _)| rules)
    }

    pub(super) fn endpoint(&self, address: &SocketAddr) -> Option<Arc<Endpoint>> {
        self.table.load().get(address).cloned()
    }

    /// Keeps endpoints that were known already, builds the others, and forgets the rest.
    fn publish(&self, entries: Vec<Entry>) -> BTreeSet<Backend> {
        let known = self.table.load();
        let mut table = HashMap::with_capacity(entries.len());
        let mut backends = BTreeSet::new();
        for entry in entries {
            if table.contains_key(&entry.address) {
                continue;
            }
            let endpoint = match known.get(&entry.address) {
                Some(endpoint) if endpoint.host() == &*entry.host && endpoint.is_backup() == entry.backup => endpoint.clone(),
                _ => {
                    let vitals = self.roster.of(&entry.address);
                    let address = entry.address.clone();
                    match Endpoint::new(address, &entry.host, &self.link, &self.meter, vitals) {
                        Ok(endpoint) => {
                            let endpoint = endpoint.on(self.terms.clone());
                            Arc::new(if entry.backup { endpoint.into_backup() } else { endpoint })
                        }
                        Err(error) => {
                            // Left out rather than reached without knowing who it is.
                            log::error!("endpoint can't be used upstream={} error={error}", self.upstream);
                            continue;
                        }
                    }
                }
            };
            table.insert(entry.address.clone(), endpoint);
            backends.insert(Backend { addr: entry.address, weight: entry.weight as usize, ext: http::Extensions::new() });
        }
        self.meter.has_endpoints(table.len());
        self.table.store(Arc::new(table));
        drop(known);
        self.roster.sweep();
        backends
    }

    /// Looks at the list of a file, if there is one.
    fn read_list(&self) {
        let Some(Discovery::File(list)) = &self.discovery else { return };
        let Some(read) = list.look() else { return };
        let (upstream, path) = (&self.upstream, list.path().display());
        match read.and_then(|endpoints| Listed::within(&endpoints, &self.link)) {
            Ok(listed) => {
                log::info!(
                    "discovery has read its file upstream={upstream} file={path} endpoints={}",
                    listed.fixed.len() + listed.names.len()
                );
                self.listed.store(Arc::new(listed));
            }
            Err(reason) => {
                self.meter.discovery_failed();
                log::warn!(
                    "discovery can't use its file, the last endpoints are kept upstream={upstream} file={path} error={reason:?}"
                );
            }
        }
    }

    async fn resolve(&self, name: &Named) -> Vec<Entry> {
        let lookup = tokio::net::lookup_host((name.host.as_str(), name.port));
        let answer = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
            Ok(Ok(addresses)) => Ok(addresses.map(|address| name.entry(address)).collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {RESOLVE_TIMEOUT:?}")),
        };
        let answer = answer.and_then(|entries| if entries.is_empty() { Err("no addresses".to_owned()) } else { Ok(entries) });
        let mut last = name.last.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(entries) => {
                if last.failing {
                    log::info!("endpoint name resolves again upstream={} name={}", self.upstream, name.label);
                }
                *last = Last { entries, failing: false };
            }
            Err(error) => {
                if !last.failing {
                    let kept = last.entries.len();
                    log::warn!(
                        "endpoint name does not resolve upstream={} name={} error={error:?} addresses_kept={kept}",
                        self.upstream,
                        name.label
                    );
                }
                last.failing = true;
            }
        }
        last.entries.clone()
    }
}

fn terms(section: &config::Upstream, roster: &Roster) -> Terms {
    let rules = section.outlier_detection.as_ref().map(|settings| Arc::new(Rules::new(settings)));
    let capacity = capacity(&section.limits, section.protocol.value.requests());
    Terms {
        gate: capacity.map(|capacity| Arc::new(Gate::new(capacity, roster.queue().clone()))),
        judge: rules.map(|rules| (rules, roster.bell().clone())),
    }
}

impl Listed {
    fn of<'a>(endpoints: impl Iterator<Item = &'a config::Endpoint>) -> Result<Self, EndpointError> {
        let mut listed = Self::default();
        for endpoint in endpoints.filter(|endpoint| endpoint.weight > 0) {
            let label: Arc<str> = endpoint.address.to_string().into();
            let (weight, backup) = (endpoint.weight, endpoint.backup);
            match &endpoint.address {
                Address::Inet(address) => {
                    listed.fixed.push(Entry { address: SocketAddr::Inet(*address), weight, backup, host: label });
                }
                Address::Unix(path) => {
                    let address = std::os::unix::net::SocketAddr::from_pathname(path).map_err(|error| {
                        EndpointError::UnixPath { path: path.display().to_string(), reason: error.to_string() }
                    })?;
                    // A path is no authority: a request must still carry a `Host`.
                    listed.fixed.push(Entry { address: SocketAddr::Unix(address), weight, backup, host: "localhost".into() });
                }
                Address::Name { host, port } => {
                    let last = Mutex::default();
                    listed.names.push(Named { host: host.clone(), port: *port, weight, backup, label, last });
                }
            }
        }
        Ok(listed)
    }

    /// Of a file, all of whose endpoints can be reached as the upstream says.
    fn within(endpoints: &[config::Endpoint], link: &Link) -> Result<Self, String> {
        let unnamed = |endpoint: &&config::Endpoint| !matches!(endpoint.address, Address::Name { .. });
        match endpoints.iter().find(unnamed).filter(|_| link.tls.as_ref().is_some_and(|tls| tls.name().is_none())) {
            Some(endpoint) => Err(format!("`{}` has no name to prove: `tls` needs `sni`", endpoint.address)),
            None => Self::of(endpoints.iter()).map_err(|error| error.to_string()),
        }
    }
}

impl Listed {
    /// Takes over what names resolved to last.
    fn go_on_from(&mut self, before: &Self) {
        for name in &mut self.names {
            let Some(same) = before.names.iter().find(|same| (&same.host, same.port) == (&name.host, name.port)) else {
                continue;
            };
            let last = same.last.lock().unwrap_or_else(PoisonError::into_inner);
            let (weight, backup) = (name.weight, name.backup);
            let entries = last.entries.iter().map(|entry| Entry { weight, backup, ..entry.clone() }).collect();
            *name.last.get_mut().unwrap_or_else(PoisonError::into_inner) = Last { entries, failing: last.failing };
        }
    }
}

impl Named {
    fn entry(&self, address: std::net::SocketAddr) -> Entry {
        Entry { address: SocketAddr::Inet(address), weight: self.weight, backup: self.backup, host: self.label.clone() }
    }
}

/// In the place of addresses: one that nobody connects to, and that shows the name.
fn unresolved(label: &Arc<str>, weight: u32, backup: bool) -> Option<Entry> {
    let address = std::os::unix::net::SocketAddr::from_pathname(&**label).ok()?;
    Some(Entry { address: SocketAddr::Unix(address), weight, host: label.clone(), backup })
}

/// Lets Pingora's `Backends` and the table of endpoints share one directory.
pub(super) struct SharedDirectory(pub(super) Arc<Directory>);

#[async_trait]
impl ServiceDiscovery for SharedDirectory {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let offline = self.0.offline.load(Ordering::Relaxed);
        if self.0.known.swap(false, Ordering::Relaxed)
            && !offline
            && let Some(entries) = self.0.last_good()
        {
            return Ok((self.0.publish(entries), HashMap::new()));
        }
        if !offline {
            self.0.read_list();
        }
        let listed = self.0.listed.load_full();
        let mut entries = listed.fixed.clone();
        for name in &listed.names {
            if offline {
                entries.extend(unresolved(&name.label, name.weight, name.backup));
            } else {
                entries.extend(self.0.resolve(name).await);
            }
        }
        if let Some(Discovery::Dns(dns)) = &self.0.discovery {
            if offline {
                entries.extend(unresolved(&dns.label().into(), 1, false));
            } else {
                entries.extend(dns.look(&self.0.upstream, &self.0.meter).await);
            }
        }
        Ok((self.0.publish(entries), HashMap::new()))
    }
}
