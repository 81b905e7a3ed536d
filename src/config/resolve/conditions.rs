//! Conditions that no request can meet, and listeners that no route serves.

use super::Resolver;
use crate::config::report::Diagnostic;
use crate::config::{Listener, Match, Named, PathMatch, Route, Spanned, ValueMatch};

impl Resolver<'_> {
    /// Reports what can never hold: a route that is never taken may be a guard that is not there.
    pub(super) fn possible(&mut self, matches: &Match) {
        for path in &matches.paths {
            let PathMatch::Regex(regex) = &path.value else { continue };
            let prefix = regex.prefix();
            if !prefix.is_empty() && !prefix.starts_with(['/', '*']) {
                let shown = self.report.shown(path.span, prefix);
                let diagnostic = Diagnostic::error(path.span, format!("no path begins with `{shown}`"));
                self.report.push(diagnostic.hint("every path begins with `/`: write ^/…"));
            }
        }
        for (name, value) in &matches.headers.0 {
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
        for listener in listeners.iter().filter(|_| !self.listeners.mistaken) {
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
