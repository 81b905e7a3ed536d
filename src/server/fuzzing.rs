//! What `fuzz/` feeds with bytes, and what must hold whatever they are. For fuzzing and tests only: a door to parsers that are nobody
//! else's business, without any promise.
//!
//! To add one: a function here, its line in [`TARGETS`], a file in `fuzz/fuzz_targets/` with its name in `fuzz/Cargo.toml`, and a few
//! inputs in `fuzz/corpus/NAME/`, which the tests below replay on every toolchain.

#![expect(clippy::unwrap_used, reason = "a check may fail loudly")]

mod lanes;

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::config::{Limits, ListenerLimits, parse};
use crate::filter::Registry;
use crate::proxy::{Chunks, Rows, express_fuzzing, found_alike};
use crate::server::agreement::{agrees_on_body, agrees_on_head, block_on};
use crate::server::frames::Frames;
use crate::server::head::{self, Scan};
use crate::server::proxy_protocol::{self, Preamble};
use crate::types::{self, LogTemplate, Template, forwarded, normalise_host, path};

/// The name of a target, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Each target by the name of its file and its corpus.
pub const TARGETS: &[Target] = &[
    ("chunks", chunks),
    ("classify", classify),
    ("config", config),
    ("cookie", cookie),
    ("express_head", express_head),
    ("express_response", express_response),
    ("forwarded_for", forwarded_for),
    ("h2_answers", h2_answers),
    ("h2_frames", h2_frames),
    ("head", head),
    ("host", host),
    ("lanes", lanes),
    ("path", path_and_pattern),
    ("proxy_header", proxy_header),
    ("template", template),
    ("words", words),
];

fn scan(bytes: &[u8], seen: usize, limits: &ListenerLimits) -> Scan {
    head::scan(bytes, seen, limits, &mut Rows::default())
}

/// A request's head: what our scan lets pass Pingora reads in the same way, and more bytes never make a refused head good. The last byte
/// says where the head is cut in two.
pub fn head(data: &[u8]) {
    let Some((cut, bytes)) = data.split_last() else { return };
    block_on(agrees_on_head(bytes));
    let limits = Limits::default().or(&Limits::default());
    let whole = scan(bytes, 0, &limits);
    let cut = usize::from(*cut).min(bytes.len());
    match scan(&bytes[..cut], 0, &limits) {
        Scan::Partial => assert_eq!(scan(bytes, cut, &limits), whole),
        Scan::Refused(..) => assert!(matches!(whole, Scan::Refused(..)), "{whole:?}"),
        early => assert_eq!(early, whole),
    }
    if let Scan::Head { length, .. } = whole {
        let (head, rest) = bytes.split_at(length);
        assert!(head.ends_with(b"\r\n\r\n"));
        assert_eq!(scan(head, 0, &limits), scan(bytes, 0, &limits), "{} changes it", rest.escape_ascii());
    }
}

/// A request's head in the express lane: its parts are where the strict reader says, and edits keep it one head.
pub fn express_head(data: &[u8]) {
    let mut rows = Rows::default();
    if let Scan::Head { length, .. } = head::scan(data, 0, &Limits::default().or(&Limits::default()), &mut rows) {
        express_fuzzing::request(&data[..length], rows);
    }
}

/// What an endpoint sends, in the express lane. The last byte says where it is cut in two.
pub fn express_response(data: &[u8]) {
    let Some((cut, bytes)) = data.split_last() else { return };
    express_fuzzing::response(usize::from(*cut), bytes);
}

/// A head before the classifier of the express lane: what it admits is the same request on the general way.
pub fn classify(data: &[u8]) {
    let _ = lanes::classify(data);
}

/// A request and, after a line of `%%`, a response, through both lanes: they do the same.
pub fn lanes(data: &[u8]) {
    let _ = lanes::feed(data);
}

/// A chunked body: read alike in one piece and byte by byte, and by Pingora.
pub fn chunks(data: &[u8]) {
    let (mut whole, mut bytewise) = (Chunks::new(), Chunks::new());
    let taken = whole.take(data);
    let mut passed = 0;
    for byte in data {
        if bytewise.is_done() || bytewise.is_broken() {
            break;
        }
        passed += bytewise.take(std::slice::from_ref(byte));
    }
    assert_eq!(whole, bytewise);
    assert!(whole.is_broken() || taken == passed);
    let half = data.len() / 2;
    block_on(agrees_on_body(&[data[..half].to_vec(), data[half..].to_vec()]));
}

/// The frames of an endpoint on HTTP/2, header blocks included: found alike however they are cut.
pub fn h2_answers(data: &[u8]) {
    found_alike(data);
}

/// The frames of an HTTP/2 client: found alike however they are cut.
pub fn h2_frames(data: &[u8]) {
    let now = Instant::now();
    let mut whole = Frames::new();
    let stop = whole.take(data, || now);
    let mut bytewise = Frames::new();
    let early = data.iter().position(|byte| bytewise.take(std::slice::from_ref(byte), || now).is_some());
    assert_eq!(stop, early.map(|at| at + 1));
    assert_eq!(whole.rest(), bytewise.rest());
}

/// A PROXY header: bytes behind it never change it, and one that is refused stays so.
pub fn proxy_header(data: &[u8]) {
    let whole = proxy_protocol::read(data);
    for end in 0..data.len().min(300) {
        match proxy_protocol::read(&data[..end]) {
            Preamble::Partial => {}
            Preamble::Refused(_) => assert!(matches!(whole, Preamble::Refused(_)), "{whole:?}"),
            early @ Preamble::Header { .. } => assert_eq!(early, whole),
        }
    }
    if let Preamble::Header { length, .. } = whole {
        assert!(length <= data.len());
    }
}

/// A configuration: read or refused with a report that can be shown.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Other files are no part of it.
    if text.contains("include") {
        return;
    }
    let mut filters = Registry::default();
    crate::filters::register(&mut filters).unwrap();
    let environment = |name: &str| (name == "SET").then(|| "a: [b".to_owned());
    let (config, report) = parse(text, Path::new("ravelin.yaml"), &filters, &environment);
    assert!(config.is_some() || report.has_errors(), "neither a configuration nor an error");
    assert!(!report.has_errors() || !report.to_string().is_empty());
}

/// A host: its normal form is its own.
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(normal) = normalise_host(text) {
        assert_eq!(normalise_host(&normal).as_deref(), Ok(&*normal));
        assert!(!normal.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || b"/\\@?#,".contains(&byte)), "{normal}");
    }
    again::<types::HostPattern>(text);
    again::<types::Authority>(text);
}

/// A path: its normal form is its own, hides nothing, and is what patterns are matched with.
pub fn path_and_pattern(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for merged in [true, false] {
        let normalise =
            |text: &str| if merged { path::normalise(text) } else { path::normalise_unmerged(text) }.map(Cow::into_owned);
        let Ok(normal) = normalise(text) else { continue };
        assert_eq!(normalise(&normal).as_deref(), Ok(&*normal));
        // Of the server as a whole.
        if normal == "*" {
            continue;
        }
        assert!(normal.starts_with('/'), "{normal}");
        assert!(!merged || !normal.contains("//"), "{normal}");
        assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{normal}");
        assert!(!normal.bytes().any(|byte| byte <= b' ' || byte >= 0x7f || byte == b'\\'), "{normal}");
        if merged && !normal.contains('*') {
            assert!(normal.parse::<types::PathPattern>().unwrap().matches(&normal), "{normal}");
        }
    }
    again::<types::PathPattern>(text);
}

/// Cookies: values are parts of the field, and end where others read their end.
pub fn cookie(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for field in data.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(field) else { return };
        headers.append(COOKIE, value);
    }
    for value in crate::proxy::cookies(&headers, "a") {
        assert!(!value.contains(';'), "{value}");
        assert!(headers.get_all(COOKIE).iter().any(|field| field.to_str().is_ok_and(|field| field.contains(value))));
    }
}

/// What proxies say of clients: no element is lost on the way from the right, and each is an address or none.
pub fn forwarded_for(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for element in forwarded::elements_from_right(text) {
        assert!(text.contains(element));
        let _ = forwarded::Hop::read(element);
    }
    if let Some(node) = forwarded::Node::read(text) {
        assert_eq!(node.ip, node.ip.to_canonical());
    }
    let _ = forwarded::secure(text);
}

/// Templates: what was read prints as something that reads the same.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    again::<Template>(text);
    again::<LogTemplate>(text);
    if let Ok(template) = text.parse::<Template>() {
        struct Hostile;
        impl types::Values for Hostile {
            fn write(&self, _: types::Variable, out: &mut String) {
                out.push_str("{{ request.path }}\r\n");
            }
        }
        let mut out = String::new();
        template.render(&Hostile, &mut out);
        assert!(template.as_literal().is_none_or(|literal| literal == out));
    }
}

/// Every other word of the configuration.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    again::<types::Address>(text);
    again::<types::ByteRate>(text);
    again::<types::ByteSize>(text);
    again::<types::Cidr>(text);
    again::<types::Count>(text);
    again::<types::Duration>(text);
    again::<types::FileMode>(text);
    again::<types::HeaderName>(text);
    again::<types::ListenAddress>(text);
    again::<types::Method>(text);
    again::<types::Name>(text);
    again::<types::Percent>(text);
    again::<types::Status>(text);
    again::<types::Token>(text);
    again::<types::Url>(text);
}

/// A word that is read prints as a word that reads the same; one that is not has a reason that can be shown.
fn again<T: FromStr<Err: Display> + Display + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(word) => {
            let printed = word.to_string();
            match printed.parse::<T>() {
                Ok(second) => assert_eq!(format!("{word:?}"), format!("{second:?}"), "{text:?} prints as {printed:?}"),
                Err(error) => panic!("{text:?} prints as {printed:?}: {error}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    /// The inputs that fuzzing found worth keeping.
    #[test]
    fn the_corpora_hold() {
        for (name, run) in TARGETS {
            let corpus = folder("corpus").join(name);
            let inputs: Vec<_> = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{name}: {error}")).collect();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                let path = input.unwrap().path();
                // Shown by a panic that follows.
                println!("{}", path.display());
                run(&fs::read(&path).unwrap());
            }
        }
    }

    /// Inputs for each target: on every toolchain, though less cleverly than a fuzzer.
    const FEW: u64 = 300;
    const MANY: u64 = 50_000;

    /// An input joined with another, and damaged in a few places.
    fn damaged(rng: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = rng.choice(corpus).cloned().unwrap_or_default();
        if rng.u8(..4) == 0 {
            let other = rng.choice(corpus).map_or(&[][..], Vec::as_slice);
            input.truncate(rng.usize(..=input.len()));
            input.extend_from_slice(&other[rng.usize(..=other.len())..]);
        }
        for _ in 0..rng.usize(1..5) {
            let at = rng.usize(..=input.len());
            let end = input.len().min(at + rng.usize(..9));
            match rng.u8(..4) {
                0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
                1 if at < input.len() => input[at] = *rng.choice(&[0, b' ', b'\r', b'\n', b':', 0x7f, 0xff]).unwrap(),
                2 => drop(input.drain(at..end)),
                _ => {
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
            }
        }
        input
    }

    /// The seed is shown by what fails. Both lanes have a test of their own.
    #[test]
    fn the_corpora_hold_when_they_are_damaged() {
        let seeds = if std::env::var_os("RAVELIN_TEST_ALL").is_some() { MANY } else { FEW };
        for (name, run) in TARGETS.iter().filter(|(name, _)| !["lanes", "classify"].contains(name)) {
            let mut paths: Vec<_> =
                fs::read_dir(folder("corpus").join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
            for seed in 0..seeds {
                println!("{name} seed {seed}");
                run(&damaged(&mut fastrand::Rng::with_seed(seed), &corpus));
            }
        }
    }

    #[test]
    fn every_target_has_its_file() {
        let files: BTreeSet<String> =
            fs::read_dir(folder("fuzz_targets")).unwrap().map(|entry| stem(&entry.unwrap().path())).collect();
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, names);
        let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        }
    }

    fn stem(path: &Path) -> String {
        path.file_stem().unwrap().to_string_lossy().into_owned()
    }
}
