//! The bodies of errors that Ravelin answers with itself, read and ready.

use std::fs;
use std::path::Path;

use crate::config::{self, Diagnostic, ErrorPage, Errors, Report};
use crate::filter::{InvalidField, Reply};
use crate::types::{Template, Values, Variable};

/// A body this large is hardly an error's.
const MAX: u64 = 1 << 20;
const TEXT: &str = "text/plain; charset=utf-8";

/// The bodies that the configuration gives.
#[derive(Debug, Default)]
pub(crate) struct ErrorPages(Vec<(Errors, Page)>);

/// One body.
#[derive(Debug)]
pub(crate) struct Page {
    body: Template,
    content_type: Box<str>,
    escape: Escape,
}

/// How values are written, so that none that a client sent is more than text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    Html,
    Json,
    None,
}

impl ErrorPages {
    /// Reads the files. What is wrong goes to the report.
    pub(super) fn read(sections: Vec<(Errors, ErrorPage)>, report: &mut Report) -> Self {
        Self(sections.into_iter().filter_map(|(errors, section)| Some((errors, Page::read(section, report)?))).collect())
    }

    /// The body for a status: its own rather than its class's.
    pub(crate) fn find(&self, status: u16) -> Option<&Page> {
        let of = |wanted: Errors| self.0.iter().find(|(errors, _)| *errors == wanted).map(|(_, page)| page);
        of(Errors::Status(status)).or_else(|| of(Errors::Class(status / 100)))
    }
}

impl Page {
    fn read(section: ErrorPage, report: &mut Report) -> Option<Self> {
        let ErrorPage { file, body, content_type } = section;
        let (body, by_name) = match (file, body) {
            (Some(file), _) => {
                report.also_read(file.value.clone());
                let read = text_of(&file).and_then(|text| text.parse::<Template>().map_err(|error| error.to_string()));
                match read {
                    Ok(body) => (body, by_extension(&file)),
                    Err(reason) => {
                        report.push(Diagnostic::error(file.span, format!("{}: {reason}", file.display())));
                        return None;
                    }
                }
            }
            (None, body) => (body?.value, TEXT),
        };
        let content_type = content_type.map_or_else(|| by_name.into(), |given| given.value.into_boxed_str());
        Some(Self { body, escape: Escape::of(&content_type), content_type })
    }

    /// The answer with this body. The request's id is in its head, unless the body holds it.
    ///
    /// # Errors
    /// Never: the type of its content was looked at when it was read.
    pub(crate) fn reply(&self, status: u16, values: &dyn Values) -> Result<Reply, InvalidField> {
        let mut body = String::new();
        self.body.render(&Escaped { values, status, escape: self.escape }, &mut body);
        let reply = Reply::new(status).with_header("content-type", &self.content_type)?.with_body(body);
        if self.body.variables().any(|variable| variable == Variable::RequestId) {
            return Ok(reply);
        }
        let mut id = String::new();
        values.write(Variable::RequestId, &mut id);
        reply.with_header("x-request-id", &id)
    }
}

fn text_of(file: &Path) -> Result<String, String> {
    let metadata = fs::metadata(file).map_err(|error| config::in_words(&error))?;
    if !metadata.is_file() {
        return Err("this is no file".to_owned());
    }
    if metadata.len() > MAX {
        return Err("the body of an error can be 1 MiB at most".to_owned());
    }
    let bytes = fs::read(file).map_err(|error| config::in_words(&error))?;
    String::from_utf8(bytes).map_err(|_| "this is no text in UTF-8".to_owned())
}

fn by_extension(file: &Path) -> &'static str {
    match file.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).as_deref() {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("xhtml") => "application/xhtml+xml",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("svg") => "image/svg+xml",
        Some("md") => "text/markdown; charset=utf-8",
        _ => TEXT,
    }
}

impl Escape {
    fn of(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/html" | "application/xml" | "text/xml" => Self::Html,
            "application/json" => Self::Json,
            kind if kind.ends_with("+xml") => Self::Html,
            kind if kind.ends_with("+json") => Self::Json,
            _ => Self::None,
        }
    }

    fn write(self, text: &str, out: &mut String) {
        use std::fmt::Write as _;
        for c in text.chars() {
            match (self, c) {
                (Self::Html, '&') => out.push_str("&amp;"),
                (Self::Html, '<') => out.push_str("&lt;"),
                (Self::Html, '>') => out.push_str("&gt;"),
                (Self::Html, '"') => out.push_str("&quot;"),
                (Self::Html, '\'') => out.push_str("&#39;"),
                (Self::Json, '"') => out.push_str("\\\""),
                (Self::Json, '\\') => out.push_str("\\\\"),
                (Self::Json, c) if c.is_control() => {
                    // Writing to a String can't fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                (_, c) => out.push(c),
            }
        }
    }
}

/// Values as they may stand in a body of its type.
struct Escaped<'a> {
    values: &'a dyn Values,
    status: u16,
    escape: Escape,
}

impl Values for Escaped<'_> {
    fn write(&self, variable: Variable, out: &mut String) {
        let mut value = String::new();
        match variable {
            // The answer is about to be given: nobody else knows its status yet.
            Variable::ResponseStatus => value = self.status.to_string(),
            variable => self.values.write(variable, &mut value),
        }
        self.escape.write(&value, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;
    use crate::filter::{Body, Fields};

    struct Hostile;
    impl Values for Hostile {
        fn write(&self, variable: Variable, out: &mut String) {
            out.push_str(if variable == Variable::RequestId { "4f" } else { "<a href=\"'\">&\\\n" });
        }
    }

    fn pages(list: &[(&str, &str)]) -> ErrorPages {
        let sections = list.iter().map(|(errors, page)| (errors.parse().unwrap(), decoded(page).unwrap())).collect();
        let mut report = Report::default();
        let pages = ErrorPages::read(sections, &mut report);
        assert!(!report.has_errors());
        pages
    }

    fn body(pages: &ErrorPages, status: u16) -> String {
        match pages.find(status).unwrap().reply(status, &Hostile).unwrap().body {
            Body::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Body::Stream(_) => unreachable!(),
        }
    }

    #[test]
    fn a_status_beats_its_class() {
        let pages = pages(&[("4xx", "{body: class}"), ("404", "{body: exact}"), ("503", "{body: five}")]);
        assert_eq!((body(&pages, 404), body(&pages, 400)), ("exact".to_owned(), "class".to_owned()));
        assert!(pages.find(500).is_none() && pages.find(503).is_some());
    }

    #[test]
    fn the_id_is_in_the_body_or_in_the_head() {
        let pages = pages(&[("404", "{body: 'id {{ request.id }}'}"), ("4xx", "{body: no}")]);
        let field =
            |status| pages.find(status).unwrap().reply(status, &Hostile).unwrap().head.get("x-request-id").map(<[u8]>::to_vec);
        assert_eq!((field(404), field(400)), (None, Some(b"4f".to_vec())));
        assert_eq!(body(&pages, 404), "id 4f");
    }

    #[test]
    fn values_are_text_in_whatever_they_stand() {
        let page = |kind: &str| {
            let pages =
                pages(&[("4xx", &format!("{{body: '{{{{ request.path }}}}{{{{ response.status }}}}', content_type: {kind}}}"))]);
            body(&pages, 418)
        };
        assert_eq!(page("text/html; charset=utf-8"), "&lt;a href=&quot;&#39;&quot;&gt;&amp;\\\n418");
        assert_eq!(page("image/svg+xml"), page("text/html"));
        assert_eq!(page("application/problem+json"), "<a href=\\\"'\\\">&\\\\\\u000a418");
        assert_eq!(page("text/plain"), "<a href=\"'\">&\\\n418");
    }
}
