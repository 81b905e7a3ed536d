//! Listeners: two cannot share an address.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Resolver;
use crate::config::file::NamedEntry;
use crate::config::report::Diagnostic;
use crate::config::{Listener, Named, Span};
use crate::types::ListenAddress;

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, entries: Vec<NamedEntry<Listener>>) -> Vec<Named<Listener>> {
        let mut places: HashMap<ListenAddress, Span> = HashMap::new();
        let mut listeners = Vec::with_capacity(entries.len());
        for entry in entries {
            let whole = entry.decoded.whole;
            let Some(listener) = entry.decoded.value else { continue };
            let address = &listener.address;
            if let (ListenAddress::Tcp(_), Some(mode)) = (&address.value, &listener.mode) {
                let diagnostic = Diagnostic::error(mode.span, "`mode` is for unix sockets: a TCP address has no file");
                self.report.push(diagnostic.hint("remove it, or listen on unix:/path").related(address.span, "the address"));
            }
            if whole {
                self.tls(&listener);
            }
            // A broken network is reported, and was meant to be trusted.
            if whole {
                self.proxies(&listener);
            }
            // Each listener on port 0 gets a port of its own.
            let takes_any = matches!(address.value, ListenAddress::Tcp(address) if address.port() == 0);
            match places.get(&address.value).filter(|_| !takes_any) {
                Some(first) => {
                    let shown = self.report.shown(address.span, &address.to_string());
                    let diagnostic = Diagnostic::error(address.span, format!("another listener has the address `{shown}`"));
                    self.report.push(diagnostic.related(*first, "first given here"));
                }
                None => {
                    places.insert(address.value.clone(), address.span);
                }
            }
            listeners.push(Named { name: entry.name, value: listener });
        }
        self.covered(&listeners);
        self.leads_to_https(&listeners);
        listeners
    }

    /// An address of all interfaces takes the port from every other; that of IPv6 from IPv4's too.
    fn covered(&mut self, listeners: &[Named<Listener>]) {
        let tcp = |listener: &Named<Listener>| match listener.value.address.value {
            ListenAddress::Tcp(address) if address.port() != 0 => Some(address),
            _ => None,
        };
        let covers = |wide: SocketAddr, narrow: SocketAddr| {
            wide != narrow
                && wide.port() == narrow.port()
                && wide.ip().is_unspecified()
                && (wide.is_ipv6() || narrow.is_ipv4())
                && !(narrow.ip().is_unspecified() && narrow.is_ipv6())
        };
        for narrow in listeners {
            let Some(address) = tcp(narrow) else { continue };
            let Some(wide) = listeners.iter().find(|wide| tcp(wide).is_some_and(|wide| covers(wide, address))) else { continue };
            let message =
                format!("the listener `{}` takes this address already, as one of `{}`", *wide.name, *wide.value.address);
            let diagnostic = Diagnostic::error(narrow.value.address.span, message);
            let hint = "remove one of them: `[::]:PORT` takes IPv4 too";
            self.report.push(diagnostic.hint(hint).related(wide.value.address.span, "the other address"));
        }
    }

    /// Clients that are told to come by https must find somebody there.
    fn leads_to_https(&mut self, listeners: &[Named<Listener>]) {
        // What is mistaken may be just that listener.
        if self.report.has_errors() || listeners.iter().any(|listener| listener.value.tls.is_some()) {
            return;
        }
        for listener in listeners {
            let believes = listener.value.trust_forwarded.is_some();
            let Some(redirect) = listener.value.redirect_to_https.as_ref().filter(|redirect| redirect.value && !believes) else {
                continue;
            };
            let message =
                "no listener has `tls`, and nobody is believed who had https: clients are sent round in circles, or to nobody";
            let hint = "add a listener with `tls`; behind a proxy that takes TLS off, name it in `trust_forwarded`";
            self.report.push(Diagnostic::warning(redirect.span, message).hint(hint));
        }
    }

    /// Whether a listener can prove who it is.
    fn tls(&mut self, listener: &Listener) {
        if let Some(redirect) = listener.redirect_to_https.as_ref().filter(|redirect| redirect.value)
            && let Some(tls) = &listener.tls
        {
            let diagnostic = Diagnostic::error(redirect.span, "`redirect_to_https` is for listeners without `tls`");
            let hint = "what comes here is https already: remove it, or give it to the listener on port 80";
            self.report.push(diagnostic.hint(hint).related(tls.span, "the listener's `tls`"));
        }
        let Some(tls) = &listener.tls else { return };
        if let Some(acme) = &tls.acme {
            self.acme(acme);
        } else if tls.certificates.is_empty() {
            let diagnostic = Diagnostic::error(tls.span, "`tls` has no certificate: no client could connect");
            let hint = "add one: `certificates: [{cert: site.pem, key: site.key}]`, or `acme: {domains: [www.example.com]}`";
            self.report.push(diagnostic.hint(hint));
        }
        let files = tls.certificates.iter().flat_map(|files| [Some(&files.cert), Some(&files.key), files.ocsp.as_ref()]);
        let ca = tls.client_auth.as_ref().map(|auth| &auth.ca);
        for path in files.flatten().chain(ca).filter(|path| path.as_os_str().is_empty()) {
            self.report.push(Diagnostic::error(path.span, "the path is empty").hint("write the path of a PEM file"));
        }
    }

    /// Whom a listener trusts: over TCP somebody by address, on a unix socket whoever may open it.
    fn proxies(&mut self, listener: &Listener) {
        let unix = matches!(listener.address.value, ListenAddress::Unix(_));
        if let Some(section) = &listener.proxy_protocol {
            match section.trust.first() {
                None if !unix => {
                    let diagnostic = Diagnostic::error(section.span, "`proxy_protocol` trusts nobody: it would do nothing");
                    self.report.push(diagnostic.hint("name the networks that speak it, such as `{trust: [10.0.0.0/8]}`"));
                }
                Some(first) if unix => {
                    let diagnostic = Diagnostic::error(first.span, "a peer on a unix socket has no address to be trusted by");
                    let hint = "write `proxy_protocol: {}`: every peer must speak it then, and `mode` says who may connect";
                    self.report.push(diagnostic.hint(hint).related(listener.address.span, "the address"));
                }
                _ => {}
            }
        }
        if let Some(section) = listener.trust_forwarded.as_ref().filter(|section| section.from.is_empty() && !unix) {
            let diagnostic = Diagnostic::error(section.span, "`trust_forwarded` believes nobody: it would do nothing");
            self.report.push(diagnostic.hint("name the networks of your proxies, such as `{from: [10.0.0.0/8]}`"));
        }
        let trusted = listener.proxy_protocol.iter().flat_map(|section| &section.trust);
        let believed = listener.trust_forwarded.iter().flat_map(|section| &section.from);
        for anybody in trusted.chain(believed).filter(|network| network.prefix_len() == 0) {
            let message =
                "every client may say where it comes from: routes, limits and logs that rest on addresses can be forged";
            let diagnostic = Diagnostic::warning(anybody.span, message);
            self.report.push(diagnostic.hint("name the networks of your proxies, such as 10.0.0.0/8"));
        }
    }
}
