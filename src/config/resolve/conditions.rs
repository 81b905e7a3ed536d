//! Conditions that no request can meet, and listeners that no route serves.

use std::collections::HashSet;

use super::Resolver;
use crate::config::report::Diagnostic;
use crate::config::{Listener, Named, PathMatch, Route, Span, Spanned, Underscores, ValueMatch, route};
use crate::types::{Name, unmet};

/// Methods that are refused before routes are looked at.
const REFUSED: [&str; 2] = ["CONNECT", "TRACE"];
/// The field by which a request asks for its own trace: it is taken away before that.
const ASKS_WHY: &str = "x-ravelin-explain";

impl Resolver<'_> {
    /// Reports what can never hold: a route that is never taken may be a guard that is not there.
    pub(super) fn possible(&mut self, route: &route::Route) {
        let matches = &route.matches;
        for path in &matches.paths {
            let PathMatch::Regex(regex) = &path.value else { continue };
            let prefix = regex.prefix();
            if !prefix.is_empty() && !prefix.starts_with(['/', '*']) {
                let shown = self.report.shown(path.span, prefix);
                let diagnostic = Diagnostic::error(path.span, format!("no path begins with `{shown}`"));
                self.report.push(diagnostic.hint("every path begins with `/`: write ^/…"));
            } else if let Some(reason) = unmet(regex, route.path.merge_slashes) {
                let span = self.report.within(path.span, regex.as_str());
                let diagnostic = Diagnostic::warning(span, "this expression is found in no path in normal form");
                self.report.push(diagnostic.hint(reason.to_string()));
            }
        }
        for method in matches.methods.iter().filter(|method| REFUSED.contains(&method.as_str())) {
            let message = format!("no request with the method `{}` comes as far as a route", method.as_str());
            self.report.push(Diagnostic::warning(method.span, message).hint("it is always refused with 405: remove it here"));
        }
        for (name, value) in &matches.headers.0 {
            self.arrives(name.as_str(), name.span, &route.listeners);
            if name.as_str() == "host" {
                let diagnostic = Diagnostic::error(name.span, "the host is no header here: HTTP/2 has it elsewhere");
                self.report.push(diagnostic.hint("match it by `hosts`"));
            }
            self.possible_value(value, "header field", &[]);
        }
        for (_, value) in &matches.cookies.0 {
            self.possible_value(value, "cookie", &[';']);
        }
    }

    /// Warns of header fields that are taken away before routes are looked at.
    fn arrives(&mut self, name: &str, span: Span, listeners: &[Spanned<Name>]) {
        let passes = |name: &str| self.passing.contains(name);
        let passed =
            if listeners.is_empty() { !self.passing.is_empty() } else { listeners.iter().any(|name| passes(name.as_str())) };
        let hint = if name.replace('_', "-") == ASKS_WHY {
            "by it a request asks for its own trace (`admin.explain_token`), and it is taken away"
        } else if name.contains('_') && !passed {
            "names with `_` are dropped or refused, unless the listener says `underscores: pass`: match the name with `-`"
        } else {
            return;
        };
        self.report
            .push(Diagnostic::warning(span, format!("no request comes to a route with the header field `{name}`")).hint(hint));
    }

    /// Which listeners let names of header fields pass that hold a `_`.
    pub(super) fn passing(listeners: &[Named<Listener>]) -> HashSet<String> {
        let passes = |listener: &&Named<Listener>| listener.value.underscores == Underscores::Pass;
        listeners.iter().filter(passes).map(|listener| listener.name.as_str().to_owned()).collect()
    }

    fn possible_value(&mut self, value: &Spanned<ValueMatch>, of: &str, barred: &[char]) {
        let ValueMatch::Exact(text) = &value.value else { return };
        let control = |c: char| (c.is_control() && c != '\t') || barred.contains(&c);
        if text.trim_matches([' ', '\t']) != text || text.contains(control) {
            let diagnostic = Diagnostic::error(value.span, format!("no {of} can have this value"));
            self.report.push(diagnostic.hint("leave out line breaks, and spaces at its ends"));
        }
    }

    /// Warns of listeners whose every request is answered with 404.
    pub(super) fn served(&mut self, listeners: &[Named<Listener>], routes: &[Named<Route>]) {
        // What is mistaken may be just the route that is for it.
        if self.report.has_errors() {
            return;
        }
        for listener in listeners {
            let name = &listener.name;
            let serves = |route: &Named<Route>| route.value.listeners.is_empty() || route.value.listeners.contains(name);
            if !routes.is_empty() && !routes.iter().any(serves) {
                let message =
                    format!("no route is for the listener `{}`: every request there would be answered with 404", name.as_str());
                self.report.push(Diagnostic::warning(name.span, message).hint("add it to the `listeners` of a route"));
            }
        }
    }
}
