//! One certificate: what is served for its names, and the task that sees to it that it is good.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::config::{Acme, AcmeChallenge, Diagnostic, Report, Spanned};
use crate::observe::{AcmeMeter, metrics};
use crate::tls::acme::challenge::{Tokens, self_signed};
use crate::tls::acme::failure::{Cost, Failure, NO_ACCOUNT, Party};
use crate::tls::acme::order::{Asked, DAMAGED, Session};
use crate::tls::acme::schedule::{self, Attempts};
use crate::tls::acme::storage::{Found, Lock, Storage, StorageError, name_of};
use crate::tls::issued::Issued;
use crate::tls::{Certificate, files};
use crate::types::{Domain, Email, Secret, Url};

/// For an order as a whole: each of its steps has a shorter limit of its own.
const ORDER: Duration = Duration::from_secs(600);
/// How often a process that waits for another looks whether it is done.
const LOOK: Duration = Duration::from_secs(1);
/// The longest sleep: the clock may be set meanwhile, or the machine suspended.
const SLEEP: Duration = Duration::from_secs(300);

/// A section, and all that it depends on: who has the same is the same.
#[derive(PartialEq, Eq)]
struct Spec {
    /// In alphabetical order.
    domains: Vec<Domain>,
    email: Option<Email>,
    directory: Url,
    ca: Option<Vec<CertificateDer<'static>>>,
    challenge: AcmeChallenge,
    storage: Storage,
}

/// Sees to the certificate of a section.
pub(crate) struct Client {
    spec: Spec,
    /// What the certificate is called in the storage.
    name: String,
    tokens: Arc<Tokens>,
    meter: Arc<AcmeMeter>,
    state: Mutex<State>,
    places: Mutex<Places>,
}

struct State {
    /// The certificate for exactly these names, with the chance by which its renewal is drawn.
    kept: Option<(Arc<Certificate>, f64)>,
    attempts: Attempts,
}

/// Each name, and what is served for it.
type Served = Vec<(Box<str>, Arc<Certificate>)>;

#[derive(Default)]
struct Places {
    served: Served,
    /// The listeners of the section.
    own: Vec<Arc<Issued>>,
    /// All listeners with TLS: an authority comes to one of them.
    all: Vec<Arc<Issued>>,
    /// It has been said what is served.
    told: bool,
}

/// What became of an order that was due.
enum Outcome {
    Obtained {
        took: Duration,
    },
    /// Another process has obtained it.
    Found,
    /// Another process has tried, in vain, a moment ago.
    Tried,
}

impl Client {
    /// The client of a section: one of `known` if it says the same, else a new one, with what is kept of it. What is wrong goes to the
    /// report; `None`: nothing can be obtained. It reads files and writes none.
    pub(crate) fn of<'a>(
        section: &Spanned<Acme>,
        known: impl Iterator<Item = &'a Arc<Self>>,
        tokens: &Arc<Tokens>,
        report: &mut Report,
    ) -> Option<Arc<Self>> {
        let mut domains: Vec<Domain> = section.domains.iter().map(|domain| domain.value.clone()).collect();
        domains.sort_unstable();
        let ca = match &section.ca {
            Some(path) => Some(issuers(path, report)?),
            None => None,
        };
        let spec = Spec {
            domains,
            email: section.email.as_ref().map(|email| email.value.clone()),
            directory: section.directory.value.clone(),
            ca,
            challenge: section.challenge,
            storage: Storage::of(&section.storage, &section.directory),
        };
        if let Some(same) = known.into_iter().find(|client| client.spec == spec) {
            return Some(same.clone());
        }
        let place = if section.storage.span.is_nowhere() { section.span } else { section.storage.span };
        let found = spec.storage.is_usable().and_then(|()| spec.storage.certificates());
        let found = found.map_err(|error| {
            let diagnostic = Diagnostic::error(place, format!("certificates can't be kept in `storage`: {error}"));
            report.push(diagnostic.hint("name a folder that this user can write to, such as `storage: /var/lib/ravelin/acme`"));
        });
        let mut found = found.ok()?;
        if let Some(mode) = spec.storage.exposed() {
            found
                .worries
                .push(format!("others can look into the folder of the keys: its mode is {mode:04o}, and 0700 is enough"));
        }
        for worry in found.worries.drain(..) {
            report.push(Diagnostic::warning(place, worry));
        }
        match Self::new(spec, found, tokens, SystemTime::now()) {
            Ok(client) => Some(Arc::new(client)),
            Err(failure) => {
                report.push(Diagnostic::error(section.span, format!("no certificate can be made: {}", failure.detail)));
                None
            }
        }
    }

    fn new(spec: Spec, found: Found, tokens: &Arc<Tokens>, now: SystemTime) -> Result<Self, Failure> {
        let name = name_of(&spec.domains);
        let attempts = spec.storage.attempts(&name).at_start(now);
        let file = spec.storage.file(&name);
        let mut kept = None;
        let mut others = Vec::new();
        for found in found.certificates {
            let certificate = Arc::new(found.certificate);
            if found.file == file && covers(&certificate, &spec.domains) && certificate.not_after() > now {
                kept = Some((certificate, fastrand::f64()));
            } else if certificate.not_after() > now {
                others.push(certificate);
            }
        }
        let served = match &kept {
            Some((certificate, _)) => all_by(&spec.domains, certificate),
            None => stand_ins(&spec.domains, &others)?,
        };
        let meter = metrics().acme(spec.domains.first().map_or("", Domain::as_str));
        let places = Mutex::new(Places { served, ..Places::default() });
        Ok(Self { name, tokens: tokens.clone(), meter, state: Mutex::new(State { kept, attempts }), places, spec })
    }

    /// The folder that is written to while the process runs.
    pub(crate) fn folder(&self) -> &Path {
        self.spec.storage.root()
    }

    /// Makes the folders, for whom this process will become.
    pub(crate) fn make_folders(&self, owner: Option<u32>) {
        if let Err(error) = self.spec.storage.make(owner) {
            log::error!(
                "folder of certificates can't be made party=operator names={:?} reason={error:?}",
                self.names(),
                error = error.to_string()
            );
        }
    }

    /// Serves its names on a listener that is about to have this section.
    pub(crate) fn lend(&self, issued: &Issued) {
        issued.add(&self.places().served);
    }

    /// The listeners of the section, which serve nothing else from now on, and all that have TLS.
    pub(crate) fn serve_on(&self, own: Vec<Arc<Issued>>, all: Vec<Arc<Issued>>) {
        let mut places = self.places();
        own.iter().for_each(|issued| issued.serve(&places.served));
        (places.own, places.all) = (own, all);
        if !std::mem::replace(&mut places.told, true) {
            match &self.state().kept {
                Some((certificate, _)) => log::info!(
                    "certificate is kept names={:?} expires={} authority={}",
                    self.names(),
                    shown(certificate.not_after()),
                    self.spec.directory
                ),
                None => log::warn!(
                    "no certificate yet: a self-signed one, which no client trusts, stands in for names without one names={:?} authority={}",
                    self.names(),
                    self.spec.directory
                ),
            }
        }
    }

    /// Serves nothing any more, even if an order is about to be filled.
    pub(crate) fn retire(&self) {
        self.places().own.clear();
    }

    /// Until when the certificate is valid, if there is one, and its first name.
    pub(crate) fn expiry(&self) -> Option<(&str, SystemTime)> {
        let kept = self.state().kept.as_ref().map(|(certificate, _)| certificate.not_after());
        Some((self.spec.domains.first()?.as_str(), kept?))
    }

    /// Orders whenever an order is due, for as long as the section is in force. `settled` turns true once no process before this one
    /// accepts connections: an authority would ask that one too.
    pub(crate) async fn run(self: Arc<Self>, mut settled: watch::Receiver<bool>) {
        // A sender that is gone will say nothing else.
        let _ = settled.wait_for(|settled| *settled).await;
        loop {
            let due = self.due(SystemTime::now());
            self.meter.next(due);
            until(due).await;
            match self.attempt().await {
                Ok(Outcome::Obtained { took }) => {
                    self.meter.obtained();
                    self.tell("certificate obtained", Some(took));
                }
                Ok(Outcome::Found) => self.tell("certificate obtained by another process", None),
                Ok(Outcome::Tried) => {}
                Err(failure) => self.failed(&failure).await,
            }
        }
    }

    fn due(&self, now: SystemTime) -> SystemTime {
        let state = self.state();
        state.attempts.due(state.kept.as_ref().map(renewal), now)
    }

    /// Makes an order, unless another process has been faster.
    async fn attempt(&self) -> Result<Outcome, Failure> {
        let started = Instant::now();
        self.storage(|storage, _| storage.make(None)).await?;
        let _lock = self.lock(self.name.clone()).await?;
        let (kept, attempts) = self.storage(|storage, name| Ok((storage.certificate(name), storage.attempts(name)))).await?;
        let now = SystemTime::now();
        match kept {
            Ok(Some(kept)) if covers(&kept.certificate, &self.spec.domains) => {
                let found = (Arc::new(kept.certificate), fastrand::f64());
                if renewal(&found) > now && !self.has(&found.0) {
                    self.take(found);
                    return Ok(Outcome::Found);
                }
            }
            Ok(_) => {}
            Err(error) => log::warn!("a certificate that is kept can't be used party=operator reason={:?}", error.to_string()),
        }
        {
            let mut state = self.state();
            if attempts.last > state.attempts.last && attempts.next.is_some_and(|next| next > now) {
                state.attempts = attempts;
                return Ok(Outcome::Tried);
            }
        }
        // Counted beforehand: an end of the process in the middle of an order is no way to make more of them. And what can't be written
        // now could not be kept when it is there.
        let foreseen = self.state().attempts.after(&Failure::internal("it was not ended"), now, fastrand::f64());
        self.storage(move |storage, name| storage.keep_attempts(name, &foreseen)).await?;
        let ordered = tokio::time::timeout(ORDER, self.order()).await;
        let timeout = || Failure::new("timeout", Party::Authority, Cost::Order, "the order was not worked on in time");
        let (certificate, pem) = ordered.map_err(|_| timeout())??;
        self.take((Arc::new(certificate), fastrand::f64()));
        // It is served, whatever becomes of it on disk.
        let kept = self.storage(move |storage, name| {
            storage.keep_certificate(name, &pem)?;
            storage.keep_attempts(name, &Attempts::default())
        });
        if let Err(failure) = kept.await {
            log::error!(
                "certificate can't be kept, and is lost with this process party=operator names={:?} reason={:?}",
                self.names(),
                failure.detail
            );
        }
        Ok(Outcome::Obtained { took: started.elapsed() })
    }

    async fn order(&self) -> Result<(Certificate, Secret), Failure> {
        let session = self.session().await?;
        match session.order(self.asked()).await {
            Err(failure) if failure.reason == NO_ACCOUNT => {
                self.put_account_aside(&failure).await?;
                self.session().await?.order(self.asked()).await
            }
            ordered => ordered,
        }
    }

    fn asked(&self) -> Asked<'_> {
        let listeners = self.places().all.clone();
        Asked { domains: &self.spec.domains, challenge: self.spec.challenge, tokens: &self.tokens, listeners }
    }

    /// Goes to the authority, with the account that all certificates of this storage have in common.
    async fn session(&self) -> Result<Session, Failure> {
        let _lock = self.lock("account".to_owned()).await?;
        let kept = self.storage(|storage, _| storage.account()).await?;
        let begin = async |kept: Option<&Secret>| {
            let Spec { directory, ca, email, .. } = &self.spec;
            Session::begin(directory, ca.as_deref(), email.as_ref(), kept).await
        };
        let (session, account) = match begin(kept.as_ref()).await {
            Err(failure) if kept.is_some() && [NO_ACCOUNT, DAMAGED].contains(&failure.reason) => {
                self.put_account_aside(&failure).await?;
                begin(None).await?
            }
            begun => begun?,
        };
        if let Some(account) = account {
            self.storage(move |storage, _| storage.keep_account(&account)).await?;
            log::info!(
                "account is kept authority={} email={}",
                self.spec.directory,
                self.spec.email.as_ref().map_or("-", Email::as_str)
            );
        }
        Ok(session)
    }

    async fn put_account_aside(&self, failure: &Failure) -> Result<(), Failure> {
        let aside = self.storage(|storage, _| storage.put_account_aside()).await?;
        log::warn!(
            "account is of no use, another is made party={} reason={} authority={} detail={:?} aside={}",
            failure.party,
            failure.reason,
            self.spec.directory,
            failure.detail,
            aside.display()
        );
        Ok(())
    }

    /// Waits until no other process has this lock, nor another part of this one.
    async fn lock(&self, name: String) -> Result<Lock, Failure> {
        loop {
            let name = name.clone();
            if let Some(lock) = self.storage(move |storage, _| storage.lock(&name)).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reads or writes what is kept, on a thread that may wait.
    async fn storage<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Storage, &str) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Failure> {
        let (storage, name) = (self.spec.storage.clone(), self.name.clone());
        match tokio::task::spawn_blocking(move || work(&storage, &name)).await {
            Ok(done) => Ok(done?),
            Err(error) => Err(Failure::internal(error.to_string())),
        }
    }

    /// Whether this is the certificate that is served.
    fn has(&self, certificate: &Certificate) -> bool {
        self.state().kept.as_ref().is_some_and(|(kept, _)| kept.key().cert == certificate.key().cert)
    }

    /// Serves a certificate from now on.
    fn take(&self, (certificate, chance): (Arc<Certificate>, f64)) {
        {
            let mut places = self.places();
            places.served = all_by(&self.spec.domains, &certificate);
            places.own.iter().for_each(|issued| issued.serve(&places.served));
        }
        *self.state() = State { kept: Some((certificate, chance)), attempts: Attempts::default() };
    }

    async fn failed(&self, failure: &Failure) {
        let now = SystemTime::now();
        let attempts = {
            let mut state = self.state();
            state.attempts = state.attempts.after(failure, now, fastrand::f64());
            state.attempts
        };
        self.meter.failed(failure.party.word(), failure.reason);
        let next = shown(self.due(now));
        let expires = self.state().kept.as_ref().map(|(certificate, _)| certificate.not_after());
        let left = expires.map_or_else(|| "none".to_owned(), shown);
        let level = if expires.is_some_and(|expires| expires > now) { log::Level::Warn } else { log::Level::Error };
        log::log!(
            level,
            "certificate can't be obtained party={} reason={} names={:?} authority={} failures={} next={next} expires={left} detail={:?}",
            failure.party,
            failure.reason,
            self.names(),
            self.spec.directory,
            attempts.failures,
            failure.detail
        );
        // What can't be written has been said, if it is that.
        let _ = self.storage(move |storage, name| storage.keep_attempts(name, &attempts)).await;
    }

    fn tell(&self, what: &str, took: Option<Duration>) {
        let state = self.state();
        let Some(kept) = &state.kept else { return };
        let took = took.map_or_else(String::new, |took| format!(" took={took:?}"));
        log::info!(
            "{what} names={:?} authority={} expires={} renewal={}{took}",
            self.names(),
            self.spec.directory,
            shown(kept.0.not_after()),
            shown(renewal(kept))
        );
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.spec.domains.iter().map(Domain::as_str).collect();
        names.join(" ")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a time of day.
async fn until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.clamp(Duration::from_millis(1), SLEEP)).await;
    }
}

fn renewal((certificate, chance): &(Arc<Certificate>, f64)) -> SystemTime {
    schedule::renewal(certificate.not_before(), certificate.not_after(), *chance)
}

/// Whether a certificate is for exactly these names.
fn covers(certificate: &Certificate, domains: &[Domain]) -> bool {
    let names = certificate.names();
    names.len() == domains.len() && domains.iter().all(|domain| names.iter().any(|name| **name == *domain.as_str()))
}

fn all_by(domains: &[Domain], certificate: &Arc<Certificate>) -> Served {
    domains.iter().map(|domain| (domain.as_str().into(), certificate.clone())).collect()
}

/// Until there is a certificate for all names: of others that are kept, say from before the section was changed, the one that is valid
/// longest, and for names that have none one by nobody.
fn stand_ins(domains: &[Domain], others: &[Arc<Certificate>]) -> Result<Served, Failure> {
    let of = |domain: &Domain| {
        let fits = |certificate: &&Arc<Certificate>| certificate.names().iter().any(|name| **name == *domain.as_str());
        others.iter().filter(fits).max_by_key(|certificate| certificate.not_after()).cloned()
    };
    let found: Vec<(&Domain, Option<Arc<Certificate>>)> = domains.iter().map(|domain| (domain, of(domain))).collect();
    let without: Vec<&str> = found.iter().filter(|(_, found)| found.is_none()).map(|(domain, _)| domain.as_str()).collect();
    let placeholder = if without.is_empty() { None } else { Some(Arc::new(self_signed(&without, None)?)) };
    let serve = |(domain, found): (&Domain, Option<Arc<Certificate>>)| {
        Some((domain.as_str().into(), found.or_else(|| placeholder.clone())?))
    };
    Ok(found.into_iter().filter_map(serve).collect())
}

/// The certificates by which an authority is trusted.
fn issuers(path: &Spanned<std::path::PathBuf>, report: &mut Report) -> Option<Vec<CertificateDer<'static>>> {
    report.follows(path.value.clone());
    match files::read(path).and_then(|text| crate::tls::certificate::chain(&text)) {
        Ok(chain) => Some(chain),
        Err(error) => {
            let shown = report.shown(path.span, &path.display().to_string());
            report.push(Diagnostic::error(path.span, format!("{shown}: {error}")));
            None
        }
    }
}

fn shown(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "?".to_owned(), |time| time.to_string())
}
