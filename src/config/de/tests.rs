use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::testing::decoded;
use crate::config::{Span, Spanned};

#[derive(Debug, PartialEq, Deserialize)]
struct Server {
    name: String,
    port: u16,
    #[serde(default)]
    fast: bool,
    share: Option<f64>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    inner: Option<Inner>,
    #[serde(default)]
    mode: Mode,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Inner {
    depth: i8,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Plain,
    Deep(Inner),
    Pair(u8, u8),
    Named {
        word: String,
    },
}

/// The messages with their places, one a line.
fn mistakes<T: serde::de::DeserializeOwned + std::fmt::Debug>(text: &str) -> Vec<String> {
    let report = decoded::<T>(text).unwrap_err();
    report.lines().filter_map(|line| line.strip_prefix("a.yaml:")).map(str::to_owned).collect()
}

#[test]
fn values_of_every_kind() {
    let server: Server =
        decoded("{name: 1.10, port: 0x50, fast: true, share: 1, tags: [a, 2, yes, '', true], mode: {deep: {depth: -1}}}")
            .unwrap();
    assert_eq!(
        server,
        Server {
            name: "1.10".to_owned(),
            port: 80,
            fast: true,
            share: Some(1.0),
            tags: ["a", "2", "yes", "", "true"].map(str::to_owned).to_vec(),
            inner: None,
            mode: Mode::Deep(Inner { depth: -1 }),
        }
    );
}

#[test]
fn enums_are_words_or_maps() {
    assert_eq!(decoded("plain"), Ok(Mode::Plain));
    assert_eq!(decoded("{plain: }"), Ok(Mode::Plain));
    assert_eq!(decoded("{pair: [1, 2]}"), Ok(Mode::Pair(1, 2)));
    assert_eq!(decoded("{named: {word: x}}"), Ok(Mode::Named { word: "x".to_owned() }));
    assert_eq!(mistakes::<Mode>("deep"), ["1:1: error: `deep` needs settings: write it as {deep: …}"]);
    assert_eq!(mistakes::<Mode>("{plain: {}}"), ["1:2: error: `plain` takes no settings: write the word alone"]);
    assert_eq!(mistakes::<Mode>("plane"), ["1:1: error: `plane` is not known here"]);
    assert_eq!(mistakes::<Mode>("{plane: 1}"), ["1:2: error: `plane` is not known here"]);
    assert_eq!(
        mistakes::<Mode>("{plain: , deep: }"),
        ["1:1: error: found a map, where this is expected: one of `plain`, `deep`, `pair` and `named`"]
    );
    assert_eq!(mistakes::<Mode>("{named: {word: x, wort: y}}"), ["1:19: error: unknown key `wort`"]);
}

#[test]
fn an_expanded_variable_is_typed_by_its_key() {
    assert_eq!(decoded("${HOME_PORT}"), Ok(8080_u16));
    assert_eq!(decoded("'${HOME_PORT}'"), Ok(8080_u16));
    assert_eq!(decoded("${HOME_PORT}"), Ok("8080".to_owned()));
    assert_eq!(decoded("${UNSET:-true}"), Ok(true));
    assert_eq!(decoded("'${UNSET:-}'"), Ok(Some(String::new())));
    assert!(decoded::<u16>("'8080'").is_err());
}

#[test]
fn every_mistake_is_found_where_it_is() {
    let text = "\
port: 99999
fast: 'yes'
tags: [ok, [no], {}]
inner: {depth: 200, dept: 1}
colour: red
mode: {named: {word: []}}
";
    assert_eq!(
        mistakes::<Server>(text),
        [
            "1:1: error: `name` is missing here",
            "1:7: error: the number is too large: at most 65535",
            "2:7: error: expected `true` or `false`, found a string",
            "3:12: error: expected a string, found a list",
            "3:18: error: expected a string, found a map",
            "4:16: error: the number is too large: at most 127",
            "4:21: error: unknown key `dept`",
            "5:1: error: unknown key `colour`",
            "6:22: error: expected a string, found a list",
        ]
    );
}

#[test]
fn what_follows_from_a_mistake_is_not_reported() {
    assert_eq!(mistakes::<Inner>("{depth: x}").len(), 1);
    assert_eq!(mistakes::<Inner>("{dept: 1}"), ["1:2: error: unknown key `dept`"]);
    assert_eq!(mistakes::<Inner>("{depth: '${UNSET}'}"), ["1:10: error: the environment variable `UNSET` is not set"]);
    assert_eq!(mistakes::<Vec<Inner>>("[{depth: 1}, {depth: x}]").len(), 1);
    assert_eq!(mistakes::<(u8, u8)>("[1, x]").len(), 1);
    assert_eq!(mistakes::<Inner>("{other: 1}").len(), 2);
}

#[test]
fn maps_take_keys_of_any_type() {
    assert_eq!(decoded("{404: a, 500: b}"), Ok(BTreeMap::from([(404_u16, "a".to_owned()), (500, "b".to_owned())])));
    assert_eq!(mistakes::<BTreeMap<u16, u8>>("{404: 1, x: 2}"), ["1:10: error: `x` is no key here: expected a whole number"]);
    let spanned: BTreeMap<Spanned<String>, Spanned<u8>> = decoded("{a: 1}").unwrap();
    let (key, value) = spanned.first_key_value().unwrap();
    assert_eq!((key.span, value.span), (Span::new(0, 1, 2), Span::new(0, 4, 5)));
}

#[test]
fn shapes_are_not_mistaken() {
    assert_eq!(mistakes::<Server>("[a, 80]"), ["1:1: error: expected a map, found a list"]);
    assert_eq!(mistakes::<Server>("a"), ["1:1: error: expected a map, found a string"]);
    assert_eq!(mistakes::<Vec<u8>>("5"), ["1:1: error: expected a list, found a number"]);
    assert_eq!(mistakes::<String>("[]"), ["1:1: error: expected a string, found a list"]);
    assert_eq!(mistakes::<u8>("-1"), ["1:1: error: -1 is too small: at least 0"]);
    assert_eq!(mistakes::<u8>("1.5"), ["1:1: error: expected a whole number, found a number"]);
    assert_eq!(mistakes::<std::num::NonZeroU8>("0"), ["1:1: error: expected a whole number above 0, found 0"]);
    assert_eq!(mistakes::<Vec<u8>>("{}"), ["1:1: error: expected a list, found a map"]);
    assert_eq!(decoded("{a: }"), Ok(BTreeMap::from([("a".to_owned(), None::<u8>)])));
}

#[test]
fn any_text_decodes_or_reports() {
    use proptest::prelude::*;
    proptest!(|(text in "[nptfasimd:\\-\\[\\]{},'\" \n0-9x$&*]{0,50}")| {
        let _ = decoded::<Server>(&text);
        let _ = decoded::<Vec<Mode>>(&text);
    });
}

#[test]
fn the_secret_in_a_variable_is_not_shown() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only decoded")]
    struct Times {
        every: crate::types::Duration,
    }
    let report = decoded::<Times>("{every: '${HOME_PORT}'}").unwrap_err();
    assert!(report.contains("`${HOME_PORT}` has no unit") && !report.contains("8080"), "{report}");
}
