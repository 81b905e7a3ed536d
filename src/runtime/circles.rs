//! Redirects that lead in circles over several routes: found by going where a client would go, by the routes that would serve it.
//!
//! One that leads back to its own route is found where routes are read (`config/resolve/answers.rs`).

use std::collections::HashSet;

use http::{HeaderMap, Method};

use crate::config::{Diagnostic, Report, Span};
use crate::router::{Question, Router};
use crate::runtime::Action;
use crate::runtime::snapshot::Route;
use crate::types::{HostPattern, Template, Values, Variable, normalise_host, path};

/// A client gives up before.
const HOPS: usize = 20;
/// A host that only a route without hosts takes.
const SOME_HOST: &str = "some-host.invalid";

/// A route that redirects.
pub(super) struct Lead {
    /// In the order of the file.
    pub(super) route: usize,
    pub(super) hosts: Vec<HostPattern>,
    /// The names of its listeners; none: all.
    pub(super) listeners: Vec<String>,
    /// Where `to` stands.
    pub(super) span: Span,
}

/// A listener, as far as it decides where a redirect leads.
pub(super) struct Door {
    pub(super) name: String,
    pub(super) secure: bool,
}

/// Where a client is.
#[derive(Clone, PartialEq, Eq)]
struct Stop {
    host: String,
    path: String,
    query: Option<String>,
}

/// Warns of every circle once.
pub(super) fn report(leads: &[Lead], doors: &[Option<Door>], router: &Router, routes: &[Route], report: &mut Report) {
    let mut reported: HashSet<Vec<usize>> = HashSet::new();
    for lead in leads {
        let taken = |door: &Door| lead.listeners.is_empty() || lead.listeners.contains(&door.name);
        for (listener, door) in doors.iter().enumerate() {
            let Some(door) = door.as_ref().filter(|door| taken(door)) else { continue };
            for host in hosts(lead) {
                let Some(circle) = circle(lead, &host, (listener, door), router, routes) else { continue };
                let mut members = circle.clone();
                members.sort_unstable();
                if reported.insert(members) {
                    warn(&circle, leads, routes, report);
                }
            }
        }
    }
}

fn hosts(lead: &Lead) -> Vec<String> {
    let sample = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("some-host.{suffix}"),
        HostPattern::Any => SOME_HOST.to_owned(),
    };
    if lead.hosts.is_empty() { vec![SOME_HOST.to_owned()] } else { lead.hosts.iter().map(sample).collect() }
}

/// The routes that a client goes round over, this one first; `None`: it gets out, or is never here again.
fn circle(lead: &Lead, host: &str, (listener, door): (usize, &Door), router: &Router, routes: &[Route]) -> Option<Vec<usize>> {
    let leads_to = |route: usize, at: &Stop, knows_path: bool| match &routes.get(route)?.action {
        Action::Redirect(redirect) => follow(&redirect.to, at, door.secure, knows_path),
        _ => None,
    };
    let start = Stop { host: host.to_owned(), path: String::new(), query: None };
    let mut at = leads_to(lead.route, &start, false)?;
    let mut way = vec![lead.route];
    let nothing = HeaderMap::new();
    while way.len() < HOPS {
        let unmerged = at.path.contains("//").then(|| path::normalise_unmerged(&at.path)).transpose().ok()?;
        let normal = path::normalise(&at.path).ok()?;
        let next = router.find(&Question {
            host: &at.host,
            path: &normal,
            unmerged: unmerged.as_deref(),
            method: &Method::GET,
            query: at.query.as_deref(),
            client: None,
            listener: Some(listener),
            headers: &nothing,
        })?;
        if next.route == lead.route {
            return (way.len() > 1).then_some(way);
        }
        if way.contains(&next.route) {
            return None;
        }
        way.push(next.route);
        at = leads_to(next.route, &at, true)?;
    }
    None
}

/// Where a redirect leads from there; `None`: elsewhere, or nobody knows yet.
fn follow(to: &Template, at: &Stop, secure: bool, knows_path: bool) -> Option<Stop> {
    let known = |variable| match variable {
        Variable::RequestHost | Variable::RequestScheme | Variable::RequestMethod => true,
        Variable::RequestPath | Variable::RequestQuery | Variable::RequestTarget => knows_path,
        _ => false,
    };
    if !to.variables().all(known) {
        return None;
    }
    let mut url = String::new();
    to.render(&Known { at, secure }, &mut url);
    let own = if secure { "https:" } else { "http:" };
    let (host, target) = match url.strip_prefix(own).unwrap_or(&url).strip_prefix("//") {
        Some(rest) => {
            let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            // Another port is another listener.
            let host = normalise_host(authority).ok().filter(|_| !authority.contains(':'))?;
            (host.into_owned(), target)
        }
        None => (at.host.clone(), url.as_str()),
    };
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() { "/" } else { path };
    path.starts_with('/').then(|| Stop { host, path: path.to_owned(), query: query.map(str::to_owned) })
}

struct Known<'a> {
    at: &'a Stop,
    secure: bool,
}

impl Values for Known<'_> {
    fn write(&self, variable: Variable, out: &mut String) {
        let query = self.at.query.as_deref();
        match variable {
            Variable::RequestHost => out.push_str(&self.at.host),
            Variable::RequestScheme => out.push_str(if self.secure { "https" } else { "http" }),
            Variable::RequestMethod => out.push_str("GET"),
            Variable::RequestPath => out.push_str(&self.at.path),
            Variable::RequestQuery => out.push_str(query.unwrap_or_default()),
            Variable::RequestTarget => {
                out.push_str(&self.at.path);
                if let Some(query) = query {
                    out.push('?');
                    out.push_str(query);
                }
            }
            _ => {}
        }
    }
}

fn warn(circle: &[usize], leads: &[Lead], routes: &[Route], report: &mut Report) {
    let of = |route: &usize| leads.iter().find(|lead| lead.route == *route);
    let name = |route: &usize| routes.get(*route).map(|route| route.name.to_string()).unwrap_or_default();
    let [first, rest @ ..] = circle else { return };
    let Some(lead) = of(first) else { return };
    let through: Vec<String> = rest.iter().map(|route| format!("`{}`", name(route))).collect();
    let message = format!("this leads back here over {}: a client would go round in circles", through.join(", then "));
    let mut diagnostic = Diagnostic::warning(lead.span, message).hint("lead one of them to another host or path");
    for route in rest {
        if let Some(lead) = of(route) {
            diagnostic = diagnostic.related(lead.span, format!("the redirect of `{}`", name(route)));
        }
    }
    report.push(diagnostic);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{self, Report};
    use crate::filter::Registry;
    use crate::runtime::compile;

    fn checked(routes: &str) -> Report {
        let registry = Registry::default();
        let yaml = format!("listeners: {{a: {{address: 127.0.0.1:1}}, b: {{address: 127.0.0.1:2}}}}\nroutes:\n{routes}");
        let (config, mut report) = config::parse(&yaml, Path::new("a.yaml"), &registry, &|_| None);
        compile(config.unwrap(), &registry, None, &mut report).unwrap();
        report
    }

    #[test]
    fn circles_over_several_routes_are_found_once() {
        let two =
            "  x: {match: {paths: [/a]}, redirect: {to: /b}}\n  y: {match: {paths: [/b, /c]}, redirect: {to: \"/a?x=1\"}}\n";
        let report = checked(two);
        assert_eq!(report.warnings(), 1, "{report}");
        assert!(report.to_string().contains("over `y`"), "{report}");
        let hosts = "  x: {match: {hosts: [a.test]}, redirect: {to: \"http://b.test/\"}}\n  \
                     y: {match: {hosts: [b.test]}, redirect: {to: \"//c.test{{ request.target }}\"}}\n  \
                     z: {match: {hosts: [c.test]}, redirect: {to: \"http://a.test{{ request.path }}\"}}\n";
        let report = checked(hosts);
        assert_eq!(report.warnings(), 1, "{report}");
        assert!(report.to_string().contains("over `y`, then `z`"), "{report}");
    }

    #[test]
    fn what_leads_out_is_no_circle() {
        for routes in [
            "  x: {match: {paths: [/a]}, redirect: {to: /b}}\n  y: {match: {paths: [/b]}, respond: {}}\n",
            "  x: {match: {paths: [/a]}, redirect: {to: /b}}\n  y: {match: {paths: [/b]}, redirect: {to: \"https://a.test/a\"}}\n",
            "  x: {match: {paths: [/a]}, redirect: {to: /b}}\n  y: {match: {paths: [/b]}, redirect: {to: \"http://a.test:8080/a\"}}\n",
            "  x: {match: {paths: [/a]}, redirect: {to: /b}}\n  y: {match: {paths: [/b], query: {q: z}}, redirect: {to: /a}}\n",
            // Served by different listeners: nobody comes from the one to the other.
            "  x: {listeners: [a], match: {paths: [/a]}, redirect: {to: /b}}\n  y: {listeners: [b], match: {paths: [/b]}, redirect: {to: /a}}\n",
        ] {
            let report = checked(routes);
            assert_eq!(report.warnings(), 0, "{routes}\n{report}");
        }
    }
}
