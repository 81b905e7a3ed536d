//! [`App`]: the program, with a user's filters in it.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::{check, demo, explain, foresight, run, schema, test};
use crate::config::Report;
use crate::filter::{DuplicateFilter, Filter, Registry};
use crate::filters;
use crate::proxy::offline::Offline;
use crate::runtime::{Compiled, Snapshot, compile, compile_offline};
use crate::server::verdict;
use crate::tls::install_provider;

/// Ravelin, with the filters that it comes with and those that are added.
pub struct App {
    registry: Result<Registry, DuplicateFilter>,
}

/// A hardened, programmable edge proxy.
#[derive(Parser)]
#[command(name = "ravelin", version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(run::Args),
    /// Report every mistake of a configuration; exit 1 if there is an error.
    Check(check::Args),
    /// Say where a request would go, and why; exit 1 if no route takes it.
    Explain(explain::Args),
    /// Run the `tests` of a configuration, offline; exit 1 if one fails.
    Test(test::Args),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
    /// Serve three small services of its own: something to try with nothing to set up.
    Demo(demo::Args),
}

/// The files that are read unless another is named: the first that there is.
const DEFAULTS: [&str; 2] = ["conf/ravelin.yaml", "/etc/ravelin/ravelin.yaml"];

// Which configuration. (What stands in `///` here would become that of the command.)
#[derive(clap::Args, Clone)]
pub(super) struct Conf {
    /// The configuration [default: conf/ravelin.yaml, else /etc/ravelin/ravelin.yaml].
    #[arg(short = 'c', long = "conf", value_name = "FILE")]
    conf: Option<PathBuf>,
}

// Which configuration, with `-c` or without.
#[derive(clap::Args)]
pub(super) struct ConfOrFile {
    #[command(flatten)]
    conf: Conf,
    /// The configuration, as with `-c`.
    #[arg(value_name = "FILE", conflicts_with = "conf")]
    file: Option<PathBuf>,
}

impl Conf {
    pub(super) fn named(&self) -> Option<&PathBuf> {
        self.conf.as_ref()
    }
}

impl ConfOrFile {
    pub(super) fn named(&self) -> Option<&PathBuf> {
        self.file.as_ref().or(self.conf.named())
    }
}

impl App {
    /// Ravelin with its built-in filters.
    #[must_use]
    pub fn new() -> Self {
        install_provider();
        let mut registry = Registry::default();
        let registered = filters::register(&mut registry);
        Self { registry: registered.map(|()| registry) }
    }

    /// Adds a filter. Two of one name are an error when the program runs.
    #[must_use]
    pub fn filter<F: Filter>(self) -> Self {
        let registry = self.registry.and_then(|mut registry| registry.register::<F>().map(|()| registry));
        Self { registry }
    }

    /// A configuration to be asked in place of served: what `ravelin explain` asks.
    ///
    /// # Errors
    /// What is wrong with it, as `ravelin check` shows it.
    pub fn offline(self, path: impl AsRef<Path>) -> Result<Offline, String> {
        let registry = self.registry.map_err(|error| error.to_string())?;
        let (compiled, report) = load_offline(path.as_ref(), &[], &registry);
        let compiled = compiled.ok_or_else(|| report.to_string())?;
        Offline::new(compiled, report, verdict).map_err(|error| error.to_string())
    }

    /// Runs the command line of this process.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.run_from(std::env::args_os())
    }

    /// Runs a command line: the program's name, then its arguments.
    #[must_use]
    pub fn run_from(self, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let cli = match Cli::try_parse_from(arguments) {
            Ok(cli) => cli,
            // Help and mistakes alike: clap knows which stream and which exit status.
            Err(error) => error.exit(),
        };
        let registry = match self.registry {
            Ok(registry) => registry,
            Err(error) => return fail(&error.to_string()),
        };
        match cli.command {
            Command::Run(args) => run::run(&args, registry),
            Command::Check(args) => check::check(&args, &registry),
            Command::Explain(args) => explain::explain(args, &registry),
            Command::Test(args) => test::test(&args, &registry),
            Command::Schema => schema::print(&registry),
            Command::Demo(args) => demo::demo(&args, registry),
        }
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

/// Parses and compiles a file that is asked and not served, with the tests of further files.
pub(super) fn load_offline(path: &Path, tests: &[PathBuf], registry: &Registry) -> (Option<Compiled>, Report) {
    let (config, mut report) = crate::config::load_with_tests(path, tests, registry, &|name| std::env::var(name).ok());
    (config.and_then(|config| compile_offline(config, registry, &mut report)), report)
}

/// Says what could not be read, though nothing depends on it now.
#[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
pub(super) fn note(report: &Report) {
    if report.soft() > 0 {
        eprintln!("note: not all keys and certificates can be read, which changes nothing here; `ravelin check` says which");
    }
}

/// Parses and compiles a file to be checked: it is said, too, what is missing on this machine to serve it. How many warnings there are
/// without that comes back as well: another machine may have it.
pub(super) fn load_to_check(path: &Path, registry: &Registry) -> (Option<Compiled>, Report, usize) {
    let (config, mut report) = crate::config::load_partial(path, registry, &|name| std::env::var(name).ok());
    let mut missing = Vec::new();
    let compiled = config.and_then(|config| {
        missing = foresight::missing(&config);
        compile(config, registry, None, &mut report)
    });
    let warnings = report.warnings();
    missing.into_iter().for_each(|diagnostic| report.push(diagnostic));
    (compiled, report, warnings)
}

/// Parses and compiles a file, as `check`, boot and reload all do.
pub(super) fn load(path: &Path, registry: &Registry, daemon: bool, previous: Option<&Snapshot>) -> (Option<Compiled>, Report) {
    let (config, mut report) = crate::config::load_partial(path, registry, &|name| std::env::var(name).ok());
    let compiled = config.and_then(|mut config| {
        config.pingora.daemon |= daemon;
        compile(config, registry, previous, &mut report)
    });
    (compiled, report)
}

/// The file to read.
pub(super) fn config_path(named: Option<&PathBuf>) -> PathBuf {
    let [first, ..] = DEFAULTS;
    let default = || DEFAULTS.into_iter().find(|path| Path::new(path).exists()).unwrap_or(first);
    named.cloned().unwrap_or_else(|| PathBuf::from(default()))
}

/// Shows what `check` and `run` found, on standard error.
#[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
pub(super) fn show(report: &Report, named: Option<&PathBuf>) {
    if report.has_errors() || report.warnings() > 0 {
        eprint!("{}", report.render(std::io::stderr().is_terminal()));
    }
    if named.is_none() && !DEFAULTS.into_iter().any(|path| Path::new(path).exists()) {
        let [_, second] = DEFAULTS;
        eprintln!(
            "  = hint: name a configuration with `-c FILE`, or have it in {second}; `ravelin demo --config` prints one to begin with"
        );
    }
}

/// Says it on standard output. Whoever reads may stop early: that is no failure of ours.
pub(super) fn say(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(&format!("can't write to standard output: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

/// Says why on standard error; exit status 1.
#[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
pub(super) fn fail(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
