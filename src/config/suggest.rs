//! "Did you mean …?"

use crate::config::Span;
use crate::config::report::Diagnostic;

/// The candidate that a word was most likely meant to be, if any is close.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(word.len().min(candidate.len())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters may be wrong in a word of this length.
fn tolerance(length: usize) -> usize {
    match length {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    }
}

/// What to write instead of an unknown word: the closest candidate, or all of them if they are few.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(meant) = closest(word, candidates.iter().copied()) {
        return Some(format!("did you mean `{meant}`?"));
    }
    match candidates.as_slice() {
        [] => None,
        [only] => Some(format!("there is only `{only}`")),
        few if few.len() <= 24 => Some(format!("one of {}", listed(few))),
        _ => None,
    }
}

/// Says that a map has no such key, and what may have been meant.
pub(crate) fn unknown_key<'a>(given: &str, known: impl IntoIterator<Item = &'a str>, span: Span) -> Diagnostic {
    let diagnostic = Diagnostic::error(span, format!("unknown key `{given}`"));
    match hint(given, known) {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

/// `a`, `b` and `c`.
pub(crate) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_only() {
        let keys = ["address", "mode", "http2"];
        assert_eq!(closest("adress", keys), Some("address"));
        assert_eq!(closest("Address", keys), Some("address"));
        assert_eq!(closest("http", keys), Some("http2"));
        assert_eq!(closest("tls", keys), None);
        assert_eq!(closest("health-check", ["health_check"]), Some("health_check"));
    }

    #[test]
    fn hints() {
        assert_eq!(hint("adress", ["address", "mode"]).as_deref(), Some("did you mean `address`?"));
        assert_eq!(hint("x", ["address", "mode", "http2"]).as_deref(), Some("one of `address`, `mode` and `http2`"));
        assert_eq!(hint("x", ["address"]).as_deref(), Some("there is only `address`"));
        assert_eq!(hint("x", []), None);
    }
}
