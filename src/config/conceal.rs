//! Keeps secrets out of reports: a snippet shows lines of the file, and a token may stand in one.
//!
//! What is concealed is decided before anything else is said of a file, by keys alone: a token is a secret under a misspelt
//! key, twice in one map, of the wrong kind or in a file that is no YAML at all.

use crate::config::Span;
use crate::config::report::Report;
use crate::config::tree::{Kind, NodeId, Tree};

/// A key that holds one of these has a secret for its value, wherever it stands: keys of ours, and names of header fields.
const SECRETS: [&str; 6] = ["token", "authorization", "api-key", "apikey", "password", "secret"];

fn is_sticky(text: &str) -> bool {
    text.contains("sticky") && !text.contains("sticky_split")
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETS.iter().any(|word| key.contains(word))
}

/// Conceals the secrets of a file: those among the nodes that were added to the tree since it had `from` of them.
pub(crate) fn secrets(tree: &Tree, from: usize, root: NodeId, report: &mut Report) {
    for key in tree.ids_from(from).filter_map(|id| tree.node(id).key) {
        // `token:"x"` and `token x` are keys as a whole: no blank, or no colon.
        if let Some(end) = report.text(key).and_then(end_of_glued) {
            report.conceal(Span::new(key.file, key.start as usize + end, key.end as usize));
        }
    }
    let named = tree.ids_from(from).filter(|id| {
        let key = tree.node(*id).key.and_then(|key| report.text(key)).unwrap_or("");
        is_secret(key)
    });
    // A misspelt key is a secret's too.
    let admin = tree.at(root, &["admin"]).map_or(&[][..], |admin| tree.entries(admin));
    let misspelt = admin.iter().filter(|entry| entry.key != "address").map(|entry| entry.value);
    // `key` is a word of others too: what is secret is that of `sticky`, however it is spelled and wherever it has got to.
    let (mut sealing, mut strange) = (Vec::new(), Vec::new());
    for id in tree.ids_from(from) {
        let Kind::Map(map) = &tree.node(id).kind else { continue };
        let name = tree.node(id).key.and_then(|key| report.text(key)).unwrap_or("");
        let is_known = |key: &str| key == "cookie" || key == "ttl";
        if !is_sticky(name) && !map.entries.iter().any(|entry| is_known(&entry.key)) {
            continue;
        }
        for entry in map.entries.iter().filter(|entry| !is_known(&entry.key)) {
            sealing.push(entry.value);
            if !entry.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                strange.push(entry.key_span);
            }
        }
    }
    let mut todo: Vec<NodeId> = named.chain(misspelt).chain(sealing).collect();
    strange.into_iter().for_each(|span| report.conceal(span));
    while let Some(id) = todo.pop() {
        match &tree.node(id).kind {
            Kind::Null => {}
            Kind::Scalar(_) => conceal(tree.node(id).span, report),
            Kind::List(elements) => todo.extend(elements),
            Kind::Map(map) => {
                map.entries.iter().for_each(|entry| conceal(entry.key_span, report));
                todo.extend(map.entries.iter().map(|entry| entry.value));
            }
        }
    }
}

/// Where a key's name ends that has its value in it.
fn end_of_glued(key: &str) -> Option<usize> {
    let lower = key.to_ascii_lowercase();
    let end = SECRETS.iter().filter_map(|word| lower.find(word).map(|found| found + word.len())).min()?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'"' | b'\'');
    let rest = &key[end..];
    (rest.len() > 1 && !rest.bytes().all(is_name)).then_some(end)
}

/// Conceals the secrets of a file that is no YAML: each line from the first word that is a secret's key to its end, and what is
/// indented deeper below it.
pub(crate) fn secrets_of_text(file: u16, text: &str, report: &mut Report) {
    let mut at = 0;
    // The indentation of the line whose value goes on.
    let mut within: Option<usize> = None;
    // A key without its colon: the value is on the next line, however that is indented.
    let mut dangling = false;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let blank = line.trim().is_empty();
        let lower = line.to_ascii_lowercase();
        // The key of `sticky`, which may have got to another line.
        let sticky = if is_sticky(&lower) { Some("sticky") } else { Some("key:") };
        let key = SECRETS.iter().copied().chain(sticky).filter_map(|key| lower.find(key).map(|found| found + key.len())).min();
        match key {
            Some(end) => {
                let length = line.trim_end().len().max(end);
                let begin = if dangling { indent } else { end };
                report.conceal(Span::new(file, at + begin, at + length));
                within = Some(indent);
                let words = SECRETS.iter().copied().chain(sticky.map(|_| "key"));
                let last = words.filter_map(|key| lower.rfind(key).map(|found| found + key.len())).max().unwrap_or(end);
                dangling = !line[last..length].contains(':');
            }
            None if dangling && !blank => {
                report.conceal(Span::new(file, at + indent, at + line.trim_end().len()));
                dangling = false;
            }
            None if within.is_some_and(|above| indent > above) && !blank => {
                report.conceal(Span::new(file, at + indent, at + line.trim_end().len()));
            }
            None if !blank => within = None,
            None => {}
        }
        at += line.len();
    }
}

/// A variable by itself tells nothing; one with a default may hold the secret.
fn conceal(span: Span, report: &mut Report) {
    let text = report.text(span).unwrap_or("").trim_matches(['"', '\'']);
    let name =
        text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).map(|name| name.strip_suffix(":-").unwrap_or(name));
    let plain =
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'));
    if !plain {
        report.conceal(span);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{NoFilters, parse};

    fn report(admin: &str) -> String {
        let text = format!("listeners: {{a: {{address: 127.0.0.1:80}}}}\nroutes: {{all: {{respond: {{}}}}}}\n{admin}");
        let (_, report) =
            parse(&text, Path::new("a.yaml"), &NoFilters, &|name| (name == "HUNTER").then(|| "hunter 2".to_owned()));
        assert!(report.has_errors(), "{text}");
        report.to_string()
    }

    #[test]
    fn no_mistake_shows_a_token() {
        for admin in [
            "admin: {address: 127.0.0.1:1, token: hunter 2}",
            "admin: {address: 127.0.0.1:1, tokn: hunter2}",
            "admin: {adress: 127.0.0.1:1, token: hunter2}",
            "admin: {token: hunter2}",
            "admin: {address: 127.0.0.1:1, token: [hunter2]}",
            "admin: {address: 127.0.0.1:1, token: {hunter2: hunter2, a: hunter2}}",
            "admin: {address: 127.0.0.1:1, token: hunter1, token: hunter2}",
            "admin: {address: 127.0.0.1:1, explain_token: hunter 2}",
            "admin:\n  address: 127.0.0.1:1\n  token:\n    \"hunter 2\"\n",
            "admin:\n  address: 127.0.0.1:1\n  token: |\n    hunter2\n    hunter2\n",
            "admin:\n  address: 127.0.0.1:1\n  \"token\": 'hunter 2'\n",
            "admin: {address: 127.0.0.1:1, token: \"${HUNTER}\"}",
            "admin: {address: 127.0.0.1:1, token: \"${UNSET:-hunter 2}\"}",
            "admin: {address: 127.0.0.1:1, token: \"${lower:-hunter2}\"}",
            "admin: {address: 127.0.0.1:1, token: \"${UNSET:-hunter2\"}",
            "token: hunter2\n",
            "x: &t hunter 2\nadmin: {address: 127.0.0.1:1, token: *t}\n",
            "admin: {address: 127.0.0.1:1, token: \"hunter2, x: 1}\n",
            "admin: {address: 127.0.0.1:1, token: hunter2: 3}\n",
            "admin:\n  address: 127.0.0.1:1\n  token: \"hunter2\n   hunter2\n",
            "admin:\n  token: hunter2\n address: 127.0.0.1:1\n",
        ] {
            let shown = report(admin);
            assert!(!shown.contains("hunter"), "{admin}\n{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_still_shown() {
        let shown = report("admin: {address: \"127.0.0.1\", token: hunter2}");
        assert!(shown.contains("admin: {address: \"127.0.0.1\", token: ***}"), "{shown}");
        let shown = report("admin: {address: \"0.0.0.0:1\", explain_token: \"${NAME}\"}");
        assert!(shown.contains("explain_token: \"${NAME}\""), "{shown}");
    }
}
