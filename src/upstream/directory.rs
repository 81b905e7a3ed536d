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

use crate::config;
use crate::observe::UpstreamMeter;
use crate::types::Address;
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
    fixed: Vec<Entry>,
    names: Vec<Named>,
    table: ArcSwap<HashMap<SocketAddr, Arc<Endpoint>>>,
    /// Nothing is resolved: a name stands for itself.
    offline: AtomicBool,
}

/// An address of an endpoint, its weight, and what it is called.
#[derive(Clone)]
struct Entry {
    address: SocketAddr,
    weight: u32,
    backup: bool,
    host: Arc<str>,
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
    /// `roster`: how endpoints fared so far.
    pub(super) fn new(
        upstream: &str,
        section: &config::Upstream,
        link: Arc<Link>,
        meter: Arc<UpstreamMeter>,
        roster: Arc<Roster>,
    ) -> Result<Self, EndpointError> {
        let mut fixed = Vec::new();
        let mut names = Vec::new();
        for endpoint in section.endpoints.value.iter().map(|endpoint| &endpoint.value).filter(|endpoint| endpoint.weight > 0) {
            let label: Arc<str> = endpoint.address.to_string().into();
            match &endpoint.address {
                Address::Inet(address) => {
                    fixed.push(Entry {
                        address: SocketAddr::Inet(*address),
                        weight: endpoint.weight,
                        backup: endpoint.backup,
                        host: label,
                    });
                }
                Address::Unix(path) => {
                    let address = std::os::unix::net::SocketAddr::from_pathname(path).map_err(|error| {
                        EndpointError::UnixPath { path: path.display().to_string(), reason: error.to_string() }
                    })?;
                    // A path is no authority: a request must still carry a `Host`.
                    fixed.push(Entry {
                        address: SocketAddr::Unix(address),
                        weight: endpoint.weight,
                        backup: endpoint.backup,
                        host: "localhost".into(),
                    });
                }
                Address::Name { host, port } => names.push(Named {
                    host: host.clone(),
                    port: *port,
                    weight: endpoint.weight,
                    backup: endpoint.backup,
                    label,
                    last: Mutex::default(),
                }),
            }
        }
        let terms = terms(section, &roster);
        let directory = Self { roster, terms, fixed, names, ..Self::empty(upstream, link, meter) };
        directory.publish(directory.fixed.clone());
        Ok(directory)
    }

    /// The directory of an upstream that has no endpoints.
    pub(super) fn empty(upstream: &str, link: Arc<Link>, meter: Arc<UpstreamMeter>) -> Self {
        Self {
            upstream: upstream.into(),
            link,
            meter,
            roster: Arc::default(),
            terms: Terms::default(),
            fixed: Vec::new(),
            names: Vec::new(),
            table: ArcSwap::default(),
            offline: AtomicBool::new(false),
        }
    }

    /// From here on a name stands for itself, as one endpoint, and nobody is asked for its addresses.
    pub(super) fn go_offline(&self) {
        self.offline.store(true, Ordering::Relaxed);
    }

    /// How often to look again; `None`: never, since nothing can change.
    pub(super) fn refresh(&self) -> Option<Duration> {
        if self.names.is_empty() { None } else { Some(REFRESH) }
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
        self.table.store(Arc::new(table));
        drop(known);
        self.roster.sweep();
        backends
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
    // A connection carries one request at a time.
    let capacity = capacity(&section.limits, 1);
    Terms {
        gate: capacity.map(|capacity| Arc::new(Gate::new(capacity, roster.queue().clone()))),
        judge: rules.map(|rules| (rules, roster.bell().clone())),
    }
}

impl Named {
    fn entry(&self, address: std::net::SocketAddr) -> Entry {
        Entry { address: SocketAddr::Inet(address), weight: self.weight, backup: self.backup, host: self.label.clone() }
    }

    /// In the place of addresses: one that nobody connects to, and that shows the name.
    fn unresolved(&self) -> Option<Entry> {
        let address = std::os::unix::net::SocketAddr::from_pathname(&*self.label).ok()?;
        Some(Entry { address: SocketAddr::Unix(address), weight: self.weight, host: self.label.clone(), backup: self.backup })
    }
}

/// Lets Pingora's `Backends` and the table of endpoints share one directory.
pub(super) struct SharedDirectory(pub(super) Arc<Directory>);

#[async_trait]
impl ServiceDiscovery for SharedDirectory {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut entries = self.0.fixed.clone();
        for name in &self.0.names {
            if self.0.offline.load(Ordering::Relaxed) {
                entries.extend(name.unresolved());
            } else {
                entries.extend(self.0.resolve(name).await);
            }
        }
        Ok((self.0.publish(entries), HashMap::new()))
    }
}
