//! [`App`]: the program, with a user's filters in it.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::{check, demo, explain, run, schema, test};
use crate::config::Report;
use crate::filter::{DuplicateFilter, Filter, Registry};
use crate::filters;
use crate::proxy::offline::Offline;
use crate::runtime::{Compiled, Snapshot, compile};
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

/// The file that is read unless another is named.
pub(super) const DEFAULT_CONFIG: &str = "conf/ravelin.yaml";

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
        let (compiled, report) = load(path.as_ref(), &registry, false, None);
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

/// As [`load`], with the tests of further files.
pub(super) fn load_with_tests(path: &Path, tests: &[PathBuf], registry: &Registry) -> (Option<Compiled>, Report) {
    let (config, mut report) = crate::config::load_with_tests(path, tests, registry, &|name| std::env::var(name).ok());
    (config.and_then(|config| compile(config, registry, None, &mut report)), report)
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
    named.cloned().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG))
}

/// Shows what `check` and `run` found, on standard error.
#[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
pub(super) fn show(report: &Report, named: Option<&PathBuf>) {
    if report.has_errors() || report.warnings() > 0 {
        eprint!("{}", report.render(std::io::stderr().is_terminal()));
    }
    if named.is_none() && !Path::new(DEFAULT_CONFIG).exists() {
        eprintln!("  = hint: name a configuration with `-c FILE`; `ravelin demo --config` prints one to begin with");
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
