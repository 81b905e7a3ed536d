//! Bodies of errors: for statuses that are errors, and of one kind each.

use super::Resolver;
use crate::config::errors::{ErrorPage, Errors};
use crate::config::file::NamedEntry;
use crate::config::report::Diagnostic;

impl Resolver<'_> {
    pub(super) fn errors(&mut self, entries: Vec<NamedEntry<ErrorPage>>) -> Vec<(Errors, ErrorPage)> {
        let mut pages = Vec::with_capacity(entries.len());
        for NamedEntry { name, decoded, .. } in entries {
            let errors: Option<Errors> = name.as_str().parse().ok();
            if errors.is_none() {
                let message = format!("`{}` is no error that Ravelin answers with", name.as_str());
                self.report.push(Diagnostic::error(name.span, message).hint("write a status from 400 to 599, `4xx` or `5xx`"));
            }
            let whole = decoded.whole;
            let Some(page) = decoded.value else { continue };
            match (&page.file, &page.body) {
                (None, None) if whole => {
                    let diagnostic = Diagnostic::error(name.span, format!("`{}` has no body", name.as_str()));
                    self.report.push(diagnostic.hint("give it `file` or `body`"));
                }
                (Some(file), Some(body)) => {
                    let diagnostic = Diagnostic::error(body.span, "`body` beside `file`: an answer has one body");
                    self.report.push(diagnostic.hint("keep one of them").related(file.span, "the file is here"));
                }
                (Some(file), None) if file.as_os_str().is_empty() => {
                    self.report.push(Diagnostic::error(file.span, "`file` is empty: write the path of the body"));
                }
                _ => {}
            }
            if let Some(body) = &page.body {
                self.foreign_names(body, body.span);
            }
            if let Some(kind) = page.content_type.as_ref().filter(|kind| !is_media_type(kind)) {
                let message = format!("`{}` is no type of content", self.report.shown(kind.span, kind));
                self.report.push(Diagnostic::error(kind.span, message).hint("write one such as text/html; charset=utf-8"));
            }
            pages.extend(errors.map(|errors| (errors, page)));
        }
        pages
    }
}

/// Whether a text can be the value of `Content-Type` (RFC 9110 §8.3.1), as far as its shape goes.
fn is_media_type(text: &str) -> bool {
    let kind = text.split(';').next().unwrap_or_default().trim_end();
    let token =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte));
    text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && kind.split_once('/').is_some_and(|(main, sub)| token(main) && token(sub))
}
