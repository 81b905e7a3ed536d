//! Routes: each has exactly one action, and no two stand in each other's way.

use super::Resolver;
use super::overlap::{self, Candidate};
use crate::config::file::NamedEntry;
use crate::config::report::Diagnostic;
use crate::config::tree::NodeId;
use crate::config::{Action, Named, PathMatch, Route, Span, Spanned, route, suggest};
use crate::types::{Name, Percent};

/// The keys of which a route has exactly one.
const ACTIONS: [&str; 4] = ["upstream", "split", "redirect", "respond"];

impl Resolver<'_> {
    pub(super) fn routes(&mut self, entries: Vec<NamedEntry<route::Route>>) -> Vec<Named<Route>> {
        let mut routes = Vec::with_capacity(entries.len());
        // A route without some of its conditions would match what it was never meant to.
        let mut complete = Vec::with_capacity(entries.len());
        for entry in entries {
            let NamedEntry { name, node, decoded } = entry;
            let may_lack_action = decoded.may_have_lost(&ACTIONS);
            let whole = decoded.whole;
            let Some(typed) = decoded.value else { continue };
            let filters = self.steps(&typed.filters);
            let action = self.action(&name, node, &typed, may_lack_action);
            self.split(&typed, whole);
            self.mirror(&typed);
            for listener in &typed.listeners {
                self.listeners.check(listener, self.report);
            }
            self.possible(&typed);
            let route::Route { mut matches, listeners, path, skip_defaults, timeout, priority, mirror, .. } = typed;
            let mirror = mirror.map(Spanned::into_inner);
            let merge_slashes = path.merge_slashes;
            let over = |path: Spanned<PathMatch>| Spanned::new(path.value.over(merge_slashes), path.span);
            matches.paths = matches.paths.into_iter().map(over).collect();
            if whole {
                let (name, matches, listeners) = (name.clone(), matches.clone(), listeners.clone());
                complete.push(Candidate { name, matches, listeners, merge_slashes });
            }
            if let Some(action) = action {
                let value =
                    Route { matches, listeners, merge_slashes, skip_defaults, filters, timeout, priority, action, mirror };
                routes.push(Named { name, value });
            }
        }
        overlap::report(&complete, self.report);
        routes
    }

    fn action(&mut self, name: &Spanned<Name>, node: NodeId, typed: &route::Route, may_lack_one: bool) -> Option<Action> {
        let given: Vec<(&str, Span)> = ACTIONS
            .into_iter()
            .filter(|key| match *key {
                "upstream" => typed.upstream.is_some(),
                "split" => typed.split.is_some(),
                "redirect" => typed.redirect.is_some(),
                _ => typed.respond.is_some(),
            })
            .filter_map(|key| self.tree.entry(node, key).map(|entry| (key, entry.key_span)))
            .collect();
        self.one_action(name, given, may_lack_one);

        if let Some(upstream) = &typed.upstream {
            self.upstreams.check(upstream, self.report);
            self.used_upstreams.insert(upstream.as_str().to_owned());
        }
        if let Some(redirect) = &typed.redirect {
            self.redirect(redirect, &typed.matches);
        }
        if let Some(respond) = &typed.respond {
            self.respond(respond, self.tree.at(node, &["respond", "headers"]));
        }
        let upstream = typed.upstream.clone().map(Action::Upstream);
        let redirect = || typed.redirect.clone().map(|redirect| Action::Redirect(redirect.into_inner()));
        let respond = || typed.respond.clone().map(|respond| Action::Respond(respond.into_inner()));
        let sticky = typed.sticky_split.clone().map(Spanned::into_inner);
        let split = || typed.split.clone().map(|split| Action::Split(split.into_inner(), sticky));
        upstream.or_else(split).or_else(redirect).or_else(respond)
    }

    /// Only what is forwarded can be copied, and a copy that goes where its request goes is a request more.
    fn mirror(&mut self, typed: &route::Route) {
        let Some(mirror) = &typed.mirror else { return };
        self.upstreams.check(&mirror.upstream, self.report);
        self.used_upstreams.insert(mirror.upstream.as_str().to_owned());
        if typed.redirect.is_some() || typed.respond.is_some() {
            let message = "`mirror` copies what is forwarded: this route forwards nothing";
            self.report.push(Diagnostic::error(mirror.span, message).hint("remove it, or give the route an `upstream`"));
        }
        let sides = typed.split.iter().flat_map(|split| split.iter().map(|side| &side.upstream));
        for upstream in typed.upstream.iter().chain(sides).filter(|upstream| upstream.value == mirror.upstream.value) {
            let message = format!("copies go to `{}` like the requests: it would have them twice", upstream.as_str());
            self.report.push(Diagnostic::warning(mirror.upstream.span, message).related(upstream.span, "the requests go here"));
        }
        if mirror.ratio == Percent::default() {
            self.report.push(Diagnostic::warning(mirror.span, "0% of the requests are copied: none"));
        }
    }

    /// `whole`: nothing of the route is broken, and so missing from its sides.
    fn split(&mut self, typed: &route::Route, whole: bool) {
        let Some(split) = &typed.split else {
            if let Some(sticky) = &typed.sticky_split {
                let diagnostic = Diagnostic::error(sticky.span, "`sticky_split` without `split`: there are no sides to stay on");
                self.report.push(diagnostic.hint("remove it, or give the route a `split`"));
            }
            return;
        };
        let mut seen: Vec<&Spanned<Name>> = Vec::new();
        for side in split.iter() {
            self.upstreams.check(&side.upstream, self.report);
            self.used_upstreams.insert(side.upstream.as_str().to_owned());
            if let Some(first) = seen.iter().find(|first| first.value == side.upstream.value) {
                let message = format!("`{}` is on two sides of the split", side.upstream.as_str());
                let diagnostic = Diagnostic::error(side.upstream.span, message).hint("add up their weights");
                self.report.push(diagnostic.related(first.span, "first given here"));
            }
            seen.push(&side.upstream);
        }
        if whole && split.iter().all(|side| side.weight.value == 0) {
            let message =
                if split.is_empty() { "the split has no sides" } else { "all weights are zero: no side would get a request" };
            self.report.push(Diagnostic::error(split.span, message));
        }
    }

    fn one_action(&mut self, name: &Spanned<Name>, mut given: Vec<(&str, Span)>, may_lack_one: bool) {
        given.sort_by_key(|(_, span)| *span);
        match given.as_slice() {
            [] if may_lack_one => {}
            [] => {
                let diagnostic = Diagnostic::error(name.span, format!("the route `{}` leads nowhere", name.as_str()));
                self.report.push(diagnostic.hint(format!("give it one of {}", suggest::listed(&ACTIONS))));
            }
            [_] => {}
            [(first, first_span), rest @ ..] => {
                for (second, span) in rest {
                    let message = format!("`{second}` beside `{first}`: a route does one thing");
                    let diagnostic = Diagnostic::error(*span, message).hint("keep one of them");
                    self.report.push(diagnostic.related(*first_span, "the first is here"));
                }
            }
        }
    }
}
