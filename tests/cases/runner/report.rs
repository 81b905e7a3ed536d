//! How a failure reads.

use std::fmt::Write as _;

use super::stage::Stage;
use super::verify::Problem;
use crate::support::visible;

const LOG_LINES: usize = 60;

/// The first bytes on one line.
pub(crate) fn brief(bytes: &[u8]) -> String {
    const MOST: usize = 300;
    let shown = visible(&bytes[..bytes.len().min(MOST)]).replace('\n', "");
    if bytes.len() <= MOST { shown } else { format!("{shown} … ({} bytes)", bytes.len()) }
}

/// Everything that one may want to know about a failed case.
pub(crate) fn render(stage: &Stage<'_>, problems: &[Problem]) -> String {
    let mut out = format!("{}\n\n", stage.case.title);
    for problem in problems {
        let _ = writeln!(out, "{}:{}:", stage.case.file, problem.line);
        let _ = writeln!(out, "  expected  {}", indented(&problem.expected));
        let _ = writeln!(out, "      came  {}\n", indented(&problem.came));
    }
    for client in &stage.clients {
        section(&mut out, &client.label, &client.transcript().render());
    }
    for origin in &stage.origins {
        let mut text = String::new();
        for (index, request) in origin.requests().iter().enumerate() {
            let cut = if request.complete { "" } else { " (not complete)" };
            let _ = writeln!(text, "· request {} on connection {}{cut}", index + 1, request.connection);
            let _ = writeln!(text, "{}", crate::support::shortened(&request.raw));
        }
        for (connection, bytes) in origin.strays() {
            let _ = writeln!(text, "· bytes on connection {connection} that are no request");
            let _ = writeln!(text, "{}", crate::support::shortened(&bytes));
        }
        let title = format!("origin {} ({}, {} connections) received", origin.name(), origin.address(), origin.connections());
        section(&mut out, &title, if text.is_empty() { "nothing" } else { &text });
    }
    if let Some(ravelin) = &stage.ravelin {
        let stdout = ravelin.stdout().text();
        if !stdout.is_empty() {
            section(&mut out, "ravelin's stdout", &tail(&stdout));
        }
        section(&mut out, "ravelin's stderr", &tail(&ravelin.log().text()));
        section(&mut out, "ravelin.yaml", &stage.config);
    }
    out
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n            ")
}

fn section(out: &mut String, title: &str, text: &str) {
    let _ = writeln!(out, "── {title} ──\n{}", text.trim_end());
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let hidden = lines.len().saturating_sub(LOG_LINES);
    let shown = lines[hidden..].join("\n");
    if hidden == 0 { shown } else { format!("… {hidden} lines more\n{shown}") }
}
