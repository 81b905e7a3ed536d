//! `tests`: names that exist, and something to expect.

use std::collections::HashMap;

use super::Resolver;
use crate::config::report::Diagnostic;
use crate::config::{Span, Test};

impl Resolver<'_> {
    pub(super) fn tests(&mut self, tests: &[Test]) {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for test in tests {
            let name = &test.name;
            if name.trim().is_empty() {
                self.report.push(Diagnostic::error(name.span, "a test needs a name: say what it is about"));
            }
            if let Some(first) = seen.insert(name.as_str(), name.span) {
                let diagnostic = Diagnostic::error(name.span, format!("there are two tests `{}`", name.as_str()));
                self.report.push(diagnostic.related(first, "the first is here"));
            }
            let expect = &test.expect;
            // One whose keys are broken was meant to expect something.
            let meant = self.report.text(expect.span).is_some_and(|text| text.contains(':'));
            if expect.is_empty() && !meant {
                let diagnostic = Diagnostic::error(expect.span, "the test expects nothing, and would always pass");
                self.report.push(diagnostic.hint("say what should happen, such as `expect: {route: NAME}` or `{status: 200}`"));
            }
            if let Some(listener) = &test.request.listener {
                self.listeners.check(listener, self.report);
            }
            if let Some(Some(route)) = &expect.route {
                self.routes.check(route, self.report);
            }
            if let Some(Some(upstream)) = &expect.upstream {
                self.upstreams.check(upstream, self.report);
            }
        }
    }
}
