//! The compiled routes of a configuration, to be asked without a socket: by benches, and by whoever embeds the proxy.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::config;
use crate::filter::Registry;
use crate::router::{Question, Verdict};
use crate::runtime::snapshot::Route;
use crate::runtime::{Snapshot, compile};
use crate::types::{normalise_host, path};

/// The routes of a configuration that uses built-in filters only.
pub struct Routes {
    snapshot: Arc<Snapshot>,
    listeners: Vec<Arc<str>>,
}

/// A request, as far as routing looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The request's method.
    pub method: &'a http::Method,
    /// As it stands in `Host`.
    pub host: &'a str,
    /// As it was sent, without the query.
    pub path: &'a str,
    /// As it was sent, without the `?`.
    pub query: Option<&'a str>,
    /// Header fields.
    pub headers: &'a http::HeaderMap,
    /// `None`: over a unix socket.
    pub client: Option<IpAddr>,
    /// The name of the listener; `None`: the first.
    pub listener: Option<&'a str>,
}

impl Routes {
    /// Compiles the text of a configuration file.
    ///
    /// # Errors
    /// What is wrong with it, as `ravelin check` shows it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut registry = Registry::default();
        crate::filters::register(&mut registry).map_err(|error| error.to_string())?;
        let (config, mut report) = config::parse(text, Path::new("ravelin.yaml"), &registry, &|name| std::env::var(name).ok());
        let compiled =
            config.and_then(|config| compile(config, &registry, None, &mut report)).ok_or_else(|| report.to_string())?;
        let listeners = compiled.boot.listeners.iter().map(|listener| listener.name.clone()).collect();
        Ok(Self { snapshot: Arc::new(compiled.snapshot), listeners })
    }

    /// Which route of the file a request takes; `None` also where it would be refused before.
    #[must_use]
    pub fn find(&self, asked: &Asked<'_>) -> Option<usize> {
        self.ask(asked, |question| self.snapshot.find(question))?
    }

    /// Each route's name and what becomes of it, the most specific first; nothing where the request would be refused before.
    #[must_use]
    pub fn explain(&self, asked: &Asked<'_>) -> Vec<(Arc<str>, String)> {
        let said = |(route, verdict): (&Route, Verdict)| (route.name.clone(), verdict.to_string());
        self.ask(asked, |question| self.snapshot.explain(question).map(said).collect()).unwrap_or_default()
    }

    fn ask<T>(&self, asked: &Asked<'_>, ask: impl FnOnce(&Question<'_>) -> T) -> Option<T> {
        let host = normalise_host(asked.host).ok()?;
        let path = path::normalise(asked.path).ok()?;
        let unmerged = asked.path.contains("//").then(|| path::normalise_unmerged(asked.path)).transpose().ok()?;
        let listener = match asked.listener {
            None => Some(0),
            Some(name) => self.listeners.iter().position(|listener| **listener == *name),
        };
        Some(ask(&Question {
            host: &host,
            path: &path,
            unmerged: unmerged.as_deref(),
            method: asked.method,
            query: asked.query,
            client: asked.client,
            listener,
            headers: asked.headers,
        }))
    }
}
