//! Results as JUnit's XML, which CI systems read.

use std::fmt::Write as _;
use std::time::Duration;

use super::Ran;

/// `suite`: the name of the file.
pub(super) fn xml(suite: &str, ran: &[Ran], took: Duration) -> String {
    let failed = ran.iter().filter(|ran| !ran.mismatches.is_empty()).count();
    let (suite, seconds) = (escaped(suite), took.as_secs_f64());
    let counts = format!("tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\" time=\"{seconds:.6}\"", ran.len());
    let mut out =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite name=\"{suite}\" {counts}>\n");
    for ran in ran {
        let (name, seconds) = (escaped(&ran.name), ran.took.as_secs_f64());
        // Writing to a String can't fail.
        let _ = write!(out, "    <testcase name=\"{name}\" classname=\"{suite}\" time=\"{seconds:.6}\"");
        match ran.mismatches.first() {
            None => out.push_str("/>\n"),
            Some(first) => {
                let message = escaped(&format!("{}: expected {}, got {}", first.what, first.expected, first.got));
                let text = escaped(&format!("{}\n{}", ran.place, ran.diff()));
                let _ = write!(
                    out,
                    ">\n      <failure message=\"{message}\" type=\"expectation\">{text}</failure>\n    </testcase>\n"
                );
            }
        }
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// Text as it may stand in an element and in an attribute. XML 1.0 has no way at all to write most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::test::Mismatch;

    #[test]
    fn nothing_in_a_name_or_a_value_is_markup() {
        let failed = Ran {
            name: "a<b> & \"c\"".to_owned(),
            place: "edge.yaml:1:2".to_owned(),
            took: Duration::from_millis(1),
            mismatches: vec![Mismatch::of("body", "']]>", "\u{1}\u{ffff}\u{1b}[2J")],
            trace: "GET http://x/\n".to_owned(),
        };
        let passed = Ran { name: "fine".to_owned(), mismatches: Vec::new(), trace: String::new(), ..failed_like(&failed) };
        insta::assert_snapshot!(xml("edge.yaml", &[failed, passed], Duration::from_millis(2)));
    }

    fn failed_like(other: &Ran) -> Ran {
        Ran { name: String::new(), place: other.place.clone(), took: other.took, mismatches: Vec::new(), trace: String::new() }
    }
}
