//! `ravelin explain`: why would this request go there.

mod text;

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use bytes::Bytes;

pub(super) use self::text::Text;
use crate::cli::app::{Conf, config_path, fail, load_offline, note, show};
use crate::filter::Registry;
use crate::proxy::offline::{Offline, Question};
use crate::server::verdict;
use crate::types::{Method, Url};

/// How many routes whose host or path does not match are told of by default, where no others are.
const FAR: usize = 5;

const USAGE: &str = "ravelin explain [OPTIONS] [METHOD] <URL>";

#[derive(clap::Args)]
#[command(override_usage = USAGE)]
pub(super) struct Args {
    /// The request: its method (default: GET) and its URL.
    #[arg(value_names = ["METHOD", "URL"], num_args = 1..=2)]
    request: Vec<String>,
    #[command(flatten)]
    conf: Conf,
    /// A header field of the request; may be given again.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<(String, String)>,
    /// Who is connected.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// The listener that it comes through [default: the one with the URL's port, else the first for its scheme].
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Tell of every route, also of those whose host or path does not match.
    #[arg(long)]
    all: bool,
    /// Print JSON, for machines.
    #[arg(long)]
    json: bool,
}

/// Exit status 0: a route takes the request.
pub(super) fn explain(args: Args, registry: &Registry) -> ExitCode {
    // Clap, which takes the first of two for the one that there must be, would ask for a method.
    if args.request.is_empty() {
        fail(&format!("there is no URL to explain\n\nUsage: {USAGE}\n\nFor more information, try '--help'."));
        return ExitCode::from(2);
    }
    let far = if args.all { usize::MAX } else { FAR };
    let (conf, json) = (args.conf.clone(), args.json);
    let question = match question(args) {
        Ok(question) => question,
        Err(error) => return fail(&error),
    };
    let (compiled, report) = load_offline(&config_path(conf.named()), &[], registry);
    let Some(compiled) = compiled else {
        show(&report, conf.named());
        return ExitCode::FAILURE;
    };
    note(&report);
    let traced = match Offline::new(compiled, report, verdict) {
        Ok(offline) => offline.explain(&question, far).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let trace = match traced {
        Ok(trace) => trace,
        Err(error) => return fail(&error),
    };
    if json {
        write(&format!("{}\n", serde_json::to_string_pretty(&trace).unwrap_or_default()));
    } else {
        write(&Text { trace: &trace, colours: colours() }.to_string());
    }
    if trace.route.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Colours are for people: on a terminal, unless they want none (<https://no-color.org>).
pub(super) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Standard output may be a pipe that nobody reads to its end.
fn write(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn question(args: Args) -> Result<Question, String> {
    let (method, url) = match args.request.as_slice() {
        [url] => ("GET", url),
        [method, url, ..] => (method.as_str(), url),
        [] => return Err("name a URL".to_owned()),
    };
    Ok(Question {
        method: method.parse::<Method>().map_err(|error| error.to_string())?,
        url: url.parse::<Url>().map_err(|error| error.to_string())?,
        headers: args.header,
        body: Bytes::new(),
        client: Some(args.client),
        listener: args.listener,
    })
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write `name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
