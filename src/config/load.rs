//! From a path to a [`Config`]: reads the file, and those that it includes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::config::de::{self, Scope};
use crate::config::env::{self, Environment};
use crate::config::file::{self, SHARED_SECTIONS, TESTS};
use crate::config::pingora::{self, Surroundings};
use crate::config::report::{Diagnostic, Report};
use crate::config::resolve::resolve;
use crate::config::tree::{Entry, Kind, NodeId, Tree};
use crate::config::{
    AccessLog, Catalog, Config, LogOutput, Span, Spanned, conceal, not_yet, sockets, suggest, tls, upstream, yaml,
};

/// More files than anybody writes.
const MAX_FILES: usize = 1000;

/// What `include` means by a pattern.
const GLOB: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The files that a pattern of [`Report::patterns`] finds now.
pub(crate) fn found_by(pattern: &str) -> Vec<PathBuf> {
    let found = glob::glob_with(pattern, GLOB).into_iter().flatten();
    found.filter_map(Result::ok).filter(|path| !path.is_dir()).collect()
}

/// Whether a pattern finds a file of this name, if there is one.
pub(crate) fn would_find(pattern: &str, path: &Path) -> bool {
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(path, GLOB))
}

/// Reads a configuration file. There is a `Config` if, and only if, the report has no errors; it may have warnings.
pub fn load(path: &Path, catalog: &dyn Catalog, environment: Environment<'_>) -> (Option<Config>, Report) {
    sound(load_partial(path, catalog, environment))
}

/// Reads the text of a configuration file as if it stood at `path`: that is its name in the report, and where what it includes is.
pub fn parse(text: &str, path: &Path, catalog: &dyn Catalog, environment: Environment<'_>) -> (Option<Config>, Report) {
    sound(parse_partial(text, path, catalog, environment))
}

/// As [`load`], but with what is left where there are errors: whoever goes on can find more of them.
pub(crate) fn load_partial(path: &Path, catalog: &dyn Catalog, environment: Environment<'_>) -> (Option<Config>, Report) {
    load_with_tests(path, &[], catalog, environment)
}

fn unreadable(path: &Path, reason: &str) -> Report {
    let mut report = Report::default();
    report.push(Diagnostic::error(Span::default(), format!("cannot read `{}`: {reason}", path.display())));
    report
}

/// As [`load_partial`], with the tests of further files.
pub(crate) fn load_with_tests(
    path: &Path,
    tests: &[PathBuf],
    catalog: &dyn Catalog,
    environment: Environment<'_>,
) -> (Option<Config>, Report) {
    match read(path) {
        Ok(text) => parse_with_tests(&text, path, tests, catalog, environment),
        Err(reason) => (None, unreadable(path, &reason)),
    }
}

/// As [`parse`], with what is left where there are errors.
fn parse_partial(text: &str, path: &Path, catalog: &dyn Catalog, environment: Environment<'_>) -> (Option<Config>, Report) {
    parse_with_tests(text, path, &[], catalog, environment)
}

fn parse_with_tests(
    text: &str,
    path: &Path,
    tests: &[PathBuf],
    catalog: &dyn Catalog,
    environment: Environment<'_>,
) -> (Option<Config>, Report) {
    let mut loader = Loader {
        tree: Tree::default(),
        report: Report::default(),
        environment,
        open: Vec::new(),
        seen: HashSet::new(),
        included: Vec::new(),
    };
    let Some(root) = loader.file(path, text) else { return (None, loader.report) };
    for file in tests {
        loader.tests(file);
    }
    let Loader { mut tree, mut report, included, .. } = loader;

    let root = merge(&mut tree, root, &included, &mut report);
    let (theirs, ours) = file::split(&mut tree, root);
    let surroundings = Surroundings::of(path);
    let pingora = pingora::decode(&mut tree, theirs, &surroundings, environment, &mut report);
    let file = de::decode(&tree, ours, Scope::Own, &mut report);
    let mut config = resolve(&tree, ours, file, pingora, catalog, &mut report);
    if let Some(AccessLog { output: LogOutput::File(file), .. }) = config.as_mut().and_then(|config| config.access_log.as_mut()) {
        if file.as_os_str().is_empty() {
            report.push(Diagnostic::error(file.span, "`file` is empty: write the path of the log"));
        }
        file.value = beside(path, &file.value);
    }
    for (_, page) in config.iter_mut().flat_map(|config| &mut config.errors) {
        if let Some(file) = &mut page.file {
            file.value = beside(path, &file.value);
        }
    }
    (config, report)
}

/// A path of a file is relative to that file. It is made absolute: a daemon goes to another directory.
pub(crate) fn beside(file: &Path, path: &Path) -> PathBuf {
    let path = file.parent().map_or_else(|| path.to_owned(), |directory| directory.join(path));
    std::path::absolute(&path).unwrap_or(path)
}

fn sound((config, report): (Option<Config>, Report)) -> (Option<Config>, Report) {
    (config.filter(|_| !report.has_errors()), report)
}

struct Loader<'a> {
    tree: Tree,
    report: Report,
    environment: Environment<'a>,
    /// The files that are being read, each included by the one before.
    open: Vec<PathBuf>,
    seen: HashSet<PathBuf>,
    /// The top levels of the included files.
    included: Vec<NodeId>,
}

impl Loader<'_> {
    /// The top level of a file, once all that it includes has been read.
    fn file(&mut self, path: &Path, text: &str) -> Option<NodeId> {
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.seen.insert(canonical.clone());
        self.open.push(canonical);
        let root = self.document(path, text);
        if let Some(list) = root.and_then(|root| self.tree.at(root, &["include"])) {
            let patterns: Vec<Spanned<String>> =
                de::decode(&self.tree, list, Scope::Own, &mut self.report).value.unwrap_or_default();
            for pattern in patterns {
                self.include(&pattern, path.parent().unwrap_or(Path::new("")));
            }
        }
        self.open.pop();
        root
    }

    fn document(&mut self, path: &Path, text: &str) -> Option<NodeId> {
        let file = self.report.add_source(path.display().to_string(), text);
        let from = self.tree.len();
        let Some(root) = yaml::parse(&mut self.tree, &mut self.report, file) else {
            conceal::secrets_of_text(file, text, &mut self.report);
            return None;
        };
        conceal::secrets(&self.tree, from, root, &mut self.report);
        env::expand(&mut self.tree, from, self.environment, &mut self.report);
        if !matches!(self.tree.node(root).kind, Kind::Map(_)) {
            let message = "a configuration file is a map of sections";
            self.report.push(Diagnostic::error(self.tree.place(root), message).hint("begin with `listeners:`"));
            return None;
        }
        sockets::make_absolute(&mut self.tree, root, path);
        tls::make_absolute(&mut self.tree, root, path);
        upstream::make_absolute(&mut self.tree, root, path);
        Some(root)
    }

    fn include(&mut self, pattern: &Spanned<String>, directory: &Path) {
        let is_glob = pattern.contains(['*', '?', '[']);
        let paths = if is_glob { self.matches(pattern, directory) } else { Some(vec![directory.join(&pattern.value)]) };
        for path in paths.unwrap_or_default() {
            self.include_file(&path, pattern);
        }
    }

    /// The files that a glob names, sorted; `None` if it is malformed.
    fn matches(&mut self, pattern: &Spanned<String>, directory: &Path) -> Option<Vec<PathBuf>> {
        // An absolute pattern takes the place of the directory.
        let escaped = Pattern::escape(&directory.to_string_lossy());
        let full = Path::new(&escaped).join(&pattern.value);
        let shown = self.report.shown(pattern.span, pattern);
        let full = full.to_string_lossy();
        let found = match glob::glob_with(&full, GLOB) {
            Ok(found) => {
                // Absolute, as the files of the report are. The directory may be empty.
                let absolute = std::path::absolute(Path::new(".").join(directory)).unwrap_or_else(|_| directory.to_owned());
                let escaped = Pattern::escape(&absolute.to_string_lossy());
                self.report.searched(Path::new(&escaped).join(&pattern.value).to_string_lossy().into_owned());
                found
            }
            Err(error) => {
                self.report.push(Diagnostic::error(pattern.span, format!("`{shown}` is no pattern: {}", error.msg)));
                return None;
            }
        };
        let mut paths = Vec::new();
        for path in found {
            match path {
                Ok(path) if path.is_dir() => {}
                Ok(path) => paths.push(path),
                Err(error) => {
                    let message = format!(
                        "cannot read `{}`: {}",
                        self.report.shown(pattern.span, &error.path().to_string_lossy()),
                        in_words(error.error())
                    );
                    self.report.push(Diagnostic::error(pattern.span, message));
                }
            }
        }
        if paths.is_empty() {
            self.report.push(Diagnostic::warning(pattern.span, format!("`{shown}` matches no file")));
        }
        Some(paths)
    }

    fn include_file(&mut self, path: &Path, pattern: &Spanned<String>) {
        if path.is_dir() {
            let shown = self.report.shown(pattern.span, pattern);
            let diagnostic = Diagnostic::error(pattern.span, format!("`{shown}` is a directory"));
            return self
                .report
                .push(diagnostic.hint(format!("for the files in it, write `{}/*.yaml`", shown.trim_end_matches('/'))));
        }
        let cannot_read = |reason: &str| {
            let hint = "the path is relative to the file that includes it";
            let diagnostic = Diagnostic::error(
                pattern.span,
                format!("cannot read `{}`: {reason}", self.report.shown(pattern.span, &path.to_string_lossy())),
            );
            if Path::new(&pattern.value).is_absolute() { diagnostic } else { diagnostic.hint(hint) }
        };
        let text = match read(path) {
            Ok(text) => text,
            Err(reason) => {
                let diagnostic = cannot_read(&reason);
                self.report.also_read(path.to_owned());
                return self.report.push(diagnostic);
            }
        };
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.open.contains(&canonical) {
            let own = self.open.last() == Some(&canonical);
            let what = if own { "itself" } else { "this file, and so itself" };
            let message = format!("`{}` includes {what}", path.display());
            return self.report.push(Diagnostic::error(pattern.span, message).hint("leave it out of this list"));
        }
        if self.seen.contains(&canonical) {
            return;
        }
        if self.report.sources() >= MAX_FILES {
            return self.report.push(Diagnostic::error(pattern.span, format!("more than {MAX_FILES} files are included")));
        }
        if let Some(root) = self.file(path, &text) {
            self.included.push(root);
        }
    }
}

impl Loader<'_> {
    /// A file of tests, which holds nothing else.
    fn tests(&mut self, path: &Path) {
        let text = match read(path) {
            Ok(text) => text,
            Err(reason) => {
                let message = format!("cannot read `{}`: {reason}", path.display());
                return self.report.push(Diagnostic::error(Span::default(), message));
            }
        };
        if path.canonicalize().is_ok_and(|canonical| self.seen.contains(&canonical)) {
            return;
        }
        let Some(root) = self.file(path, &text) else { return };
        for entry in self.tree.entries(root).iter().filter(|entry| entry.key != TESTS) {
            let message = format!("`{}` can't stand in a file of tests", entry.key);
            self.report.push(Diagnostic::error(entry.key_span, message).hint("it holds `tests` and nothing else"));
        }
        let tests: Vec<Entry> = self.tree.entry(root, TESTS).cloned().into_iter().collect();
        let span = self.tree.node(root).span;
        let only = self.tree.add_map(span, tests);
        self.included.push(only);
    }
}

/// Puts the sections of the included files into those of the main one.
fn merge(tree: &mut Tree, root: NodeId, included: &[NodeId], report: &mut Report) -> NodeId {
    for part in included {
        for entry in tree.entries(*part) {
            if entry.key != "include" && entry.key != TESTS && !SHARED_SECTIONS.contains(&entry.key.as_str()) {
                report.push(misplaced(entry));
            }
        }
    }
    let mut entries = tree.entries(root).to_vec();
    for section in SHARED_SECTIONS {
        let parts: Vec<Entry> =
            std::iter::once(&root).chain(included).filter_map(|part| tree.entry(*part, section).cloned()).collect();
        let Some(merged) = merge_section(tree, &parts, report) else { continue };
        entries.retain(|entry| entry.key != section);
        entries.push(merged);
    }
    let parts: Vec<Entry> = std::iter::once(&root).chain(included).filter_map(|part| tree.entry(*part, TESTS).cloned()).collect();
    if let Some(merged) = merge_tests(tree, parts, report) {
        entries.retain(|entry| entry.key != TESTS);
        entries.push(merged);
    }
    let span = tree.node(root).span;
    tree.add_map(span, entries)
}

/// One list of the lists of all files.
fn merge_tests(tree: &mut Tree, parts: Vec<Entry>, report: &mut Report) -> Option<Entry> {
    let first = parts.first()?.clone();
    let mut elements = Vec::new();
    for part in parts {
        match &tree.node(part.value).kind {
            Kind::List(list) => elements.extend(list.iter().copied()),
            Kind::Null => {}
            Kind::Scalar(_) | Kind::Map(_) => {
                let diagnostic = Diagnostic::error(tree.place(part.value), "`tests` takes a list");
                report.push(diagnostic.hint("begin each test with `- name:`"));
            }
        }
    }
    let value = tree.add_list(tree.node(first.value).span, elements);
    tree.node_mut(value).key = Some(first.key_span);
    Some(Entry { value, ..first })
}

/// Why a key cannot stand in an included file.
fn misplaced(entry: &Entry) -> Diagnostic {
    let (key, span) = (entry.key.as_str(), entry.key_span);
    if not_yet::key("IncludedFile", key) {
        return not_yet::unsupported(span, key);
    }
    if pingora::keys().contains(&key) || ["access_log", "admin", "defaults", "reload"].contains(&key) || not_yet::key("File", key)
    {
        let sections: Vec<&str> = SHARED_SECTIONS.into_iter().chain([TESTS]).collect();
        let hint = format!("an included file holds {}", suggest::listed(&sections));
        return Diagnostic::error(span, format!("`{key}` can only stand in the main file")).hint(hint);
    }
    suggest::unknown_key(key, SHARED_SECTIONS.into_iter().chain(["include", TESTS]), span)
}

/// One section of all files; `None` if no file has it.
fn merge_section(tree: &mut Tree, parts: &[Entry], report: &mut Report) -> Option<Entry> {
    let first = parts.first()?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: HashMap<String, Span> = HashMap::new();
    let mut broken = false;
    for part in parts {
        match tree.node(part.value).kind {
            Kind::Map(_) => {}
            // Nothing, or nothing but comments: an empty section.
            Kind::Null => continue,
            Kind::Scalar(_) | Kind::List(_) => {
                let message = format!("`{}` takes a map of names, and under each name its settings", part.key);
                report.push(Diagnostic::error(tree.place(part.value), message));
                broken = true;
                continue;
            }
        }
        for entry in tree.entries(part.value) {
            match places.get(&entry.key) {
                Some(first) => report.push(
                    Diagnostic::error(entry.key_span, format!("`{}` is given twice", entry.key))
                        .related(*first, "first given here"),
                ),
                None => {
                    places.insert(entry.key.clone(), entry.key_span);
                    entries.push(entry.clone());
                }
            }
        }
    }
    let value = tree.add_map(tree.node(first.value).span, entries);
    tree.node_mut(value).key = Some(first.key_span);
    tree.node_mut(value).broken = broken;
    Some(Entry { value, ..first.clone() })
}

fn read(path: &Path) -> Result<String, String> {
    let too_large = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > yaml::MAX_FILE as u64);
    if too_large {
        return Err(format!("it is larger than {} MiB", yaml::MAX_FILE >> 20));
    }
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not UTF-8".to_owned(),
        _ => in_words(&error),
    })
}

/// The system's words, without the number.
pub(crate) fn in_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
