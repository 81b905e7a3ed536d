//! Answers that the proxy makes itself: redirects and fixed responses.

use super::Resolver;
use crate::config::report::Diagnostic;
use crate::config::tree::NodeId;
use crate::config::{Match, Redirect, Respond, Span, Spanned};
use crate::types::{HostPattern, Phase, Piece, Template, Variable, path};

const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
/// Statuses whose responses have no body (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
const BODILESS: [u16; 3] = [204, 205, 304];
/// Fields of the connection and of framing: only the server itself knows them (RFC 9110 §7.6.1, RFC 9112 §6).
const OWN_FIELDS: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

impl Resolver<'_> {
    pub(super) fn redirect(&mut self, redirect: &Redirect, matches: &Match) {
        if let Some(status) = redirect.status.as_ref().filter(|status| !REDIRECTS.contains(&status.get())) {
            let message = format!("{} is no redirect", self.report.shown(status.span, &status.to_string()));
            self.report.push(Diagnostic::error(status.span, message).hint("write 301, 302, 303, 307 or 308"));
        }
        let to = &redirect.to;
        self.known_at_request(to);
        if to.pieces().is_empty() {
            self.report.push(Diagnostic::error(to.span, "`to` is empty: where should the client go?"));
        }
        if texts(to).any(|text| !text.chars().all(|c| c.is_ascii_graphic())) {
            let diagnostic = Diagnostic::error(to.span, "a URL cannot hold spaces, line breaks or characters beyond ASCII");
            self.report.push(diagnostic.hint("encode them, such as %20 for a space"));
        }
        if leads_back(to, matches) {
            let diagnostic =
                Diagnostic::warning(to.span, "this route matches where it leads to: a client would go round in circles");
            self.report.push(diagnostic.hint("lead to another host or path"));
        }
    }

    /// `headers`: where they stand.
    pub(super) fn respond(&mut self, respond: &Respond, headers: Option<NodeId>) {
        let status = respond.status.as_ref();
        if let Some(status) = status.filter(|status| status.get() < 200) {
            let message = format!("{} cannot end a request", self.report.shown(status.span, &status.to_string()));
            self.report.push(Diagnostic::error(status.span, message).hint("write a status from 200 to 599"));
        }
        if let Some(body) = &respond.body {
            self.known_at_request(body);
            if let Some(status) = status.filter(|status| BODILESS.contains(&status.get()) && !body.pieces().is_empty()) {
                let message =
                    format!("a response with status {} has no body", self.report.shown(status.span, &status.to_string()));
                self.report.push(
                    Diagnostic::error(body.span, message)
                        .hint("remove the body, or answer with 200")
                        .related(status.span, "the status"),
                );
            }
        }
        for value in respond.headers.values() {
            self.known_at_request(value);
            if texts(value).any(|text| text.chars().any(|c| c.is_control() && c != '\t')) {
                let diagnostic = Diagnostic::error(
                    value.span,
                    "the value of a header field cannot hold a line break or another control character",
                );
                self.report.push(
                    diagnostic.hint("write it on one line; a text after `|` or `>` ends in a line break, after `>-` it does not"),
                );
            }
        }
        if let Some(headers) = headers {
            self.header_names(headers);
        }
    }

    fn header_names(&mut self, headers: NodeId) {
        let entries = self.tree.entries(headers);
        for (index, entry) in entries.iter().enumerate() {
            let name = entry.key.to_ascii_lowercase();
            if OWN_FIELDS.contains(&name.as_str()) {
                let diagnostic = Diagnostic::error(entry.key_span, format!("`{name}` cannot be set: the server computes it"));
                self.report.push(diagnostic.hint("remove it"));
            }
            let before = entries.iter().take(index).find(|other| other.key.eq_ignore_ascii_case(&name));
            if let Some(first) = before {
                let diagnostic =
                    Diagnostic::error(entry.key_span, format!("`{name}` is given twice: names of header fields ignore case"));
                self.report.push(diagnostic.related(first.key_span, "first given here"));
            }
        }
    }

    /// Warns of names that another server would put a value in the place of. A text of several lines is no value of a name, but may be a
    /// script with names of its own.
    pub(super) fn foreign_names(&mut self, template: &Template, span: Span) {
        if template.to_string().trim_end().contains('\n') {
            return;
        }
        for foreign in template.foreign() {
            let span = self.report.within(span, foreign.written);
            self.report.push(Diagnostic::warning(span, foreign.to_string()));
        }
    }

    /// Reports names that have no value before a response has come: these answers are made without one.
    fn known_at_request(&mut self, template: &Spanned<Template>) {
        self.foreign_names(template, template.span);
        for variable in template.variables().filter(|variable| variable.needs() > Phase::Request) {
            let name = variable.as_str();
            let known: Vec<&str> =
                Variable::ALL.into_iter().filter(|variable| variable.needs() == Phase::Request).map(Variable::as_str).collect();
            let span = self.report.within(template.span, name);
            let diagnostic =
                Diagnostic::error(span, format!("`{name}` has no value here: this answer is made without an upstream"));
            self.report.push(diagnostic.hint(format!("there are {}", known.join(", "))));
        }
    }
}

/// What stands in a template as it is.
fn texts(template: &Template) -> impl Iterator<Item = &str> {
    template.pieces().iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(&**text),
        Piece::Variable(_) => None,
    })
}

/// Whether a redirect plainly leads to a request that the same route matches.
fn leads_back(to: &Template, matches: &Match) -> bool {
    // What is asked of values may be otherwise when the client comes back.
    if !(matches.headers.0.is_empty() && matches.query.0.is_empty() && matches.cookies.0.is_empty()) {
        return false;
    }
    let same_host = |host: &str| matches.hosts.iter().any(|pattern| pattern.value == HostPattern::Exact(host.to_owned()));
    let pieces = match to.pieces() {
        // Every listener speaks plain HTTP, so `https:` leads elsewhere.
        [Piece::Text(scheme), Piece::Variable(Variable::RequestHost), path @ ..] if **scheme == *"http://" => path.to_vec(),
        [Piece::Variable(Variable::RequestScheme), Piece::Text(slashes), Piece::Variable(Variable::RequestHost), path @ ..]
            if **slashes == *"://" =>
        {
            path.to_vec()
        }
        [Piece::Text(text), path @ ..] => match text.strip_prefix("http://") {
            Some(rest) => {
                let (host, start) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
                if !same_host(host) {
                    return false;
                }
                let start = (!start.is_empty()).then(|| Piece::Text(start.into()));
                start.into_iter().chain(path.iter().cloned()).collect()
            }
            None => to.pieces().to_vec(),
        },
        pieces => pieces.to_vec(),
    };
    match pieces.as_slice() {
        [Piece::Variable(Variable::RequestPath | Variable::RequestTarget)] => true,
        [Piece::Variable(Variable::RequestPath), Piece::Text(question), ..] => question.starts_with('?'),
        [] => reaches("/", matches),
        [Piece::Text(text)] => reaches(text, matches),
        _ => false,
    }
}

fn reaches(target: &str, matches: &Match) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or(target);
    // `//host/path` names another host.
    let Some(path) = (!path.starts_with("//")).then(|| path::normalise(path).ok()).flatten() else { return false };
    path.starts_with('/') && (matches.paths.is_empty() || matches.paths.iter().any(|pattern| pattern.matches(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    fn circles(to: &str, matches: &str) -> bool {
        leads_back(&to.parse().unwrap(), &decoded(matches).unwrap())
    }

    #[test]
    fn a_redirect_in_circles() {
        assert!(circles("/a", "{}"));
        assert!(circles("/x/../a", "{paths: [/a]}"));
        assert!(circles("http://a.com", "{hosts: [a.com]}"));
        assert!(circles("{{ request.path }}?x=1", "{paths: [/a/*]}"));
        assert!(circles("{{ request.target }}", "{}"));
        assert!(circles("{{ request.scheme }}://{{ request.host }}{{ request.target }}", "{}"));
    }

    #[test]
    fn a_redirect_that_leads_elsewhere() {
        assert!(!circles("/b", "{paths: [/a]}"));
        assert!(!circles("https://{{ request.host }}{{ request.path }}", "{}"));
        assert!(!circles("http://b.com/a", "{hosts: [a.com]}"));
        assert!(!circles("http://b.com/a", "{}"));
        assert!(!circles("//b.com/a", "{}"));
        assert!(!circles("{{ request.path }}/", "{}"));
        assert!(!circles("https://{{ request.host }}{{ request.target }}", "{}"));
        assert!(!circles("/a?seen=1", "{query: {seen: {present: false}}}"));
    }
}
