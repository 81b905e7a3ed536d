//! Which configuration keys have a case: the `covers:` lines of `tests/cases/**/*.case`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The directory of the case files.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Every case file, sorted.
pub(crate) fn files() -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(&directory(), &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "case") {
            found.push(path);
        }
    }
    Ok(())
}

/// A case's name in the output: its path below `tests/cases`, without the extension.
pub(crate) fn name(file: &Path) -> String {
    file.strip_prefix(directory()).unwrap_or(file).with_extension("").to_string_lossy().replace('\\', "/")
}

/// The keys on a `covers:` line.
pub(crate) fn keys(line: &str) -> impl Iterator<Item = &str> {
    line.strip_prefix("covers:").unwrap_or_default().split([',', ' ']).filter(|key| !key.is_empty())
}

/// Each covered key (the names of listeners, upstreams and routes left out: `upstreams.retry.retries`) with
/// the cases that cover it.
pub(crate) fn covered() -> io::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut covered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files()? {
        for line in fs::read_to_string(&file)?.lines() {
            for key in keys(line) {
                covered.entry(key.to_owned()).or_default().insert(name(&file));
            }
        }
    }
    Ok(covered)
}
