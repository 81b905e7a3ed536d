//! Certificates that are obtained: for names, from somebody who can be asked, and with a way to prove that the names lead here.

use std::collections::HashMap;

use super::Resolver;
use crate::config::report::Diagnostic;
use crate::config::{Acme, AcmeChallenge, Listener, Named, Span, Spanned};

/// What authorities put on one certificate at most.
const MOST_DOMAINS: usize = 100;

impl Resolver<'_> {
    /// Looks at the section by itself.
    pub(super) fn acme(&mut self, acme: &Spanned<Acme>) {
        if acme.domains.is_empty() {
            let diagnostic = Diagnostic::error(acme.span, "`acme` names no domain: there is nothing to obtain");
            self.report.push(diagnostic.hint("name what the certificate is for: `domains: [www.example.com]`"));
        }
        if let Some(last) = acme.domains.get(MOST_DOMAINS) {
            let diagnostic = Diagnostic::error(last.span, format!("more than {MOST_DOMAINS} domains on one certificate"));
            self.report.push(diagnostic.hint("no authority issues it: give the others to a listener section of their own"));
        }
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for domain in &acme.domains {
            if let Some(first) = seen.insert(domain.as_str(), domain.span) {
                let shown = self.report.shown(domain.span, domain.as_str());
                let diagnostic = Diagnostic::error(domain.span, format!("the domain `{shown}` is given twice"));
                self.report.push(diagnostic.related(first, "first given here"));
            }
        }
        let directory = &acme.directory;
        let shown = self.report.shown(directory.span, &directory.to_string());
        if !directory.is_secure() && !directory.is_loopback() {
            let diagnostic = Diagnostic::error(directory.span, format!("the directory `{shown}` is not reached by https"));
            let hint =
                "whoever is on the way could take its place: write https://…; only on this machine's loopback it may be http";
            self.report.push(diagnostic.hint(hint));
        } else if directory.to_string().parse::<http::Uri>().is_err() {
            self.report.push(Diagnostic::error(directory.span, format!("`{shown}` is no URL that can be asked")));
        }
        for path in acme.ca.iter().chain([&acme.storage]).filter(|path| path.as_os_str().is_empty()) {
            self.report.push(Diagnostic::error(path.span, "the path is empty"));
        }
    }

    /// Looks at what the sections need of other listeners.
    pub(super) fn acme_challenges(&mut self, listeners: &[Named<Listener>]) {
        if listeners.iter().any(|listener| listener.value.tls.is_none()) {
            return;
        }
        for acme in listeners.iter().filter_map(|listener| listener.value.tls.as_ref()?.acme.as_ref()) {
            if acme.challenge == AcmeChallenge::Http01 {
                let message = "the challenge http_01 comes to port 80 in the clear, and no listener is without `tls`";
                let hint = "add one: `plain: {address: 0.0.0.0:80, redirect_to_https: true}`; or take the challenge tls_alpn_01";
                self.report.push(Diagnostic::warning(acme.span, message).hint(hint));
            }
        }
    }
}
