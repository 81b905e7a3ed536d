//! Pingora's own keys, verbatim at the top level of the file, with Ravelin's defaults.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pingora_core::server::configuration::ServerConf;
use serde_json::{Value, json};

use crate::config::Span;
use crate::config::de::{self, Scope};
use crate::config::env::Environment;
use crate::config::load::{beside, in_words};
use crate::config::report::{Diagnostic, Report};
use crate::config::tree::{Form, Kind, NodeId, Tree, parse_int};

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Bool,
    Text,
    Texts,
    Number,
    /// A number, and what 0 would do.
    Positive(&'static str),
    HistogramScale,
    HistogramBuckets,
}

use Takes::{Bool, HistogramBuckets, HistogramScale, Number, Positive, Text, Texts};

/// Pingora's own bound.
const MAX_BUCKETS: i128 = 1024;

/// Every key of Pingora 0.9.1's `ServerConf`, which ignores keys that it does not know: this list makes a typo an error.
const KEYS: &[(&str, Takes, &str)] = &[
    ("version", Number, "Version of Pingora's configuration: 1."),
    ("daemon", Bool, "Run in the background."),
    ("error_log", Text, "In the background: the file for the log. Default: standard error."),
    ("pid_file", Text, "The file for the process id. Default: in a private directory that is named after this file's path."),
    ("upgrade_sock", Text, "The socket over which an upgrade hands on the listeners. Default: beside the default pid_file."),
    ("user", Text, "The user to become once the listeners are bound."),
    ("group", Text, "The group to become once the listeners are bound."),
    ("working_directory", Text, "In the background: the working directory."),
    ("threads", Positive("nothing would run"), "Threads of each service. Default: the number of CPUs."),
    ("listener_tasks_per_fd", Positive("nothing would be accepted"), "No effect: each listener accepts in one task."),
    ("work_stealing", Bool, "Whether threads of a service take work from each other."),
    ("runtime_enable_alt_timer", Bool, "Tokio's alternative timer; needs a build with --cfg tokio_unstable."),
    ("ca_file", Text, "Certificates that are trusted in upstreams. Default: the system's."),
    ("grace_period_seconds", Number, "On shutdown: seconds in which new connections are still accepted. Default: 0."),
    ("graceful_shutdown_timeout_seconds", Number, "On shutdown: seconds that requests have to finish. Default: 30."),
    ("client_bind_to_ipv4", Texts, "IPv4 addresses to connect to upstreams from."),
    ("client_bind_to_ipv6", Texts, "IPv6 addresses to connect to upstreams from."),
    ("upstream_keepalive_pool_size", Number, "Idle connections to upstreams that are kept. Default: 1024."),
    ("upstream_connect_offload_threadpools", Number, "Thread pools for connecting to upstreams."),
    ("upstream_connect_offload_thread_per_pool", Number, "Threads in each of them."),
    ("downstream_tls_offload_threadpools", Number, "Thread pools for TLS handshakes with clients."),
    ("downstream_tls_offload_thread_per_pool", Number, "Threads in each of them."),
    ("upstream_debug_ssl_keylog", Bool, "Write TLS keys of upstream connections to the file in SSLKEYLOG: for debugging."),
    (
        "max_retries",
        Positive("no request would ever be tried"),
        "The most tries of one request, the first included. Default: 16.",
    ),
    ("upgrade_sock_connect_accept_max_retries", Number, "Seconds that each side of an upgrade waits for the other. Default: 5."),
    ("max_blocking_threads", Positive("blocking work would never run"), "Threads for blocking work. Default: 512."),
    ("blocking_threads_ttl_seconds", Number, "Seconds that idle ones of them live. Default: 10."),
    ("fast_timeout_to_tokio_threshold_seconds", Number, "Longer timeouts use Tokio's timer. Default: 900; null: none do."),
    ("runtime_metrics_poll_time_histogram", Bool, "Tokio's poll-time histogram; needs a build with --cfg tokio_unstable."),
    ("runtime_metrics_poll_time_histogram_scale", HistogramScale, "The scale of its buckets."),
    (
        "runtime_metrics_poll_time_histogram_resolution_micros",
        Positive("its first bucket would be empty"),
        "The width of its first bucket, in microseconds.",
    ),
    ("runtime_metrics_poll_time_histogram_buckets", HistogramBuckets, "The number of its buckets: at most 1024."),
    ("daemon_wait_for_ready", Bool, "In the background: whoever starts the process waits until it serves. Default: true."),
    ("daemon_ready_timeout_seconds", Positive("the child could never be ready"), "Seconds that it waits. Default: 600."),
    ("daemon_notify_timeout_seconds", Positive("the parent could never be told"), "No effect: it is told over a pipe, at once."),
];

/// The names of the keys.
pub(crate) fn keys() -> Vec<&'static str> {
    KEYS.iter().map(|(key, _, _)| *key).collect()
}

/// The keys as properties of a JSON Schema.
pub(crate) fn properties() -> serde_json::Map<String, Value> {
    KEYS.iter().map(|(key, takes, about)| ((*key).to_owned(), property(*takes, about))).collect()
}

fn property(takes: Takes, about: &str) -> Value {
    match takes {
        Bool => json!({ "description": about, "type": "boolean" }),
        Text => json!({ "description": about, "type": ["string", "null"] }),
        Texts => json!({ "description": about, "type": "array", "items": { "type": "string" } }),
        Number => json!({ "description": about, "type": ["integer", "null"], "minimum": 0 }),
        Positive(_) => json!({ "description": about, "type": ["integer", "null"], "minimum": 1 }),
        HistogramBuckets => json!({ "description": about, "type": ["integer", "null"], "minimum": 1, "maximum": 1024 }),
        HistogramScale => json!({ "description": about, "enum": ["linear", "log", null] }),
    }
}

/// Where the process runs, as far as defaults depend on it.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The configuration file, absolute.
    pub(crate) config: PathBuf,
    /// Of the user that started this.
    pub(crate) uid: u32,
    pub(crate) threads: usize,
}

/// User and processors as they were when the first file was read. A process that has dropped its privileges since, or was given
/// other processors, must find the same when it reads its file again: else every reload would want a new process.
static AT_START: LazyLock<(u32, usize)> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (rustix::process::geteuid().as_raw(), threads)
});

impl Surroundings {
    pub(crate) fn of(config: &Path) -> Self {
        // Links are not followed: a new version of the file may be put in place by moving one.
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        let (uid, threads) = *AT_START;
        Self { config, uid, threads }
    }
}

/// Keys whose defaults may fail without harm, while what the file asks for may not; and who is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Where a `pid_file` is named.
    pub pid_file: Option<Span>,
    /// Where an `upgrade_sock` is named.
    pub upgrade_sock: Option<Span>,
    /// Where a `user` is named.
    pub user: Option<Span>,
    /// Where a `group` is named.
    pub group: Option<Span>,
}

/// Decodes the map of Pingora's keys. `None` if that is impossible; what else is wrong is in the report.
pub(crate) fn decode(
    tree: &mut Tree,
    node: NodeId,
    surroundings: &Surroundings,
    environment: Environment<'_>,
    report: &mut Report,
) -> Option<(ServerConf, Given)> {
    refuse_out_of_bounds(tree, node, report);
    let tree = &*tree;
    warn_of_no_effect(tree, node, report);
    let mut conf: ServerConf = de::decode(tree, node, Scope::Own, report).value?;
    let given = |key: &str| tree.entry(node, key);
    let place = |key: &str| given(key).map(|entry| tree.place(entry.value));
    let explicit =
        Given { pid_file: place("pid_file"), upgrade_sock: place("upgrade_sock"), user: place("user"), group: place("group") };
    match given("version") {
        Some(entry) if conf.version != 1 && !tree.node(entry.value).broken => {
            let message = format!("version {} does not exist", report.shown(tree.place(entry.value), &conf.version.to_string()));
            report.push(Diagnostic::error(tree.place(entry.value), message).hint("write 1"));
        }
        _ => conf.version = 1,
    }
    // Like all paths of the file, from wherever it was started: a daemon goes to another directory.
    for path in [&mut conf.pid_file, &mut conf.upgrade_sock].into_iter().chain(&mut conf.error_log).chain(&mut conf.ca_file) {
        if !path.is_empty() {
            *path = beside(&surroundings.config, Path::new(path)).display().to_string();
        }
    }
    refuse_what_pingora_would_panic_on(tree, node, &conf, report);
    if given("threads").is_none() {
        conf.threads = surroundings.threads;
    }
    if given("upstream_keepalive_pool_size").is_none() {
        conf.upstream_keepalive_pool_size = 1024;
    }
    if given("daemon_wait_for_ready").is_none() {
        conf.daemon_wait_for_ready = true;
    }
    conf.grace_period_seconds.get_or_insert(0);
    conf.graceful_shutdown_timeout_seconds.get_or_insert(30);
    let private = private_directory(surroundings, environment);
    let default_path = |file: &str| private.join(file).display().to_string();
    if given("pid_file").is_none() {
        conf.pid_file = default_path("ravelin.pid");
    }
    if given("upgrade_sock").is_none() {
        conf.upgrade_sock = default_path("upgrade.sock");
    }
    match conf.validate() {
        Ok(conf) => Some((conf, explicit)),
        Err(error) => {
            // Everything that this version of Pingora refuses has been found above, in better words.
            report.push(Diagnostic::error(tree.place(node), format!("Pingora refuses these settings: {error}")));
            None
        }
    }
}

/// Keys of Pingora's that mean nothing here, and why.
const NO_EFFECT: &[(&str, &str)] = &[
    ("listener_tasks_per_fd", "each listener of Ravelin's accepts in one task"),
    ("daemon_notify_timeout_seconds", "the process in the background tells the other one over a pipe, which takes no time"),
    ("downstream_tls_offload_threadpools", "handshakes are done where connections are served"),
    ("downstream_tls_offload_thread_per_pool", "handshakes are done where connections are served"),
    ("runtime_enable_alt_timer", "it needs a build with --cfg tokio_unstable"),
    ("runtime_metrics_poll_time_histogram", "it needs a build with --cfg tokio_unstable"),
];

fn warn_of_no_effect(tree: &Tree, node: NodeId, report: &mut Report) {
    for (key, why) in NO_EFFECT {
        if let Some(entry) = tree.entry(node, key) {
            report.push(Diagnostic::warning(entry.key_span, format!("`{key}` has no effect: {why}")));
        }
    }
}

/// Values that Pingora looks at only when it starts, and then without mercy.
fn refuse_what_pingora_would_panic_on(tree: &Tree, node: NodeId, conf: &ServerConf, report: &mut Report) {
    let mut refuse = |key: &str, message: String| {
        if let Some(entry) = tree.entry(node, key) {
            report.push(Diagnostic::error(tree.place(entry.value), message));
        }
    };
    if conf.client_bind_to_ipv4.iter().any(|address| address.parse::<std::net::Ipv4Addr>().is_err()) {
        refuse("client_bind_to_ipv4", "these must be IPv4 addresses, without a port".to_owned());
    }
    if conf.client_bind_to_ipv6.iter().any(|address| address.parse::<std::net::Ipv6Addr>().is_err()) {
        refuse("client_bind_to_ipv6", "these must be IPv6 addresses, without a port".to_owned());
    }
    if let Some(Err(error)) = conf.ca_file.as_ref().map(std::fs::File::open) {
        refuse("ca_file", format!("the file can't be read: {}", in_words(&error)));
    }
}

/// A directory of this configuration's own, the same for both sides of an upgrade: it depends on who runs it and on the path of
/// the configuration, and root's does not depend on the environment, which differs between a service and a shell.
/// It need not exist; whoever creates it must see to it that it is private.
pub(crate) fn private_directory(surroundings: &Surroundings, environment: Environment<'_>) -> PathBuf {
    let hash = fnv1a(surroundings.config.as_os_str().as_encoded_bytes());
    let absolute = |dir: String| Some(PathBuf::from(dir)).filter(|dir| dir.is_absolute());
    let base = |name| environment(name).and_then(absolute).map(|dir| dir.join(format!("ravelin-{hash:016x}")));
    base("RAVELIN_RUNTIME_DIR").unwrap_or_else(|| match (surroundings.uid, base("XDG_RUNTIME_DIR")) {
        (0, _) => PathBuf::from(format!("/run/ravelin-{hash:016x}")),
        (_, Some(dir)) => dir,
        (uid, None) => PathBuf::from(format!("/tmp/ravelin-{uid}-{hash:016x}")),
    })
}

/// FNV-1a: the standard library's hashers may change with the compiler, and two releases must agree on this.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Says what a number out of bounds would do, and leaves it out of what serde sees.
fn refuse_out_of_bounds(tree: &mut Tree, node: NodeId, report: &mut Report) {
    for (key, takes, _) in KEYS {
        let Some(value) = tree.at(node, &[key]) else { continue };
        let number = match &tree.node(value).kind {
            Kind::Scalar(scalar) if scalar.form != Form::Text => parse_int(&scalar.text),
            _ => None,
        };
        let (message, hint) = match (takes, number) {
            (Positive(why), Some(0)) => (format!("with `{key}: 0`, {why}"), "write 1 or more".to_owned()),
            (HistogramBuckets, Some(number)) if !(1..=MAX_BUCKETS).contains(&number) => {
                let shown = report.shown(tree.place(value), &number.to_string());
                (format!("a histogram cannot have {shown} buckets"), format!("write 1 to {MAX_BUCKETS}"))
            }
            _ => continue,
        };
        report.push(Diagnostic::error(tree.place(value), message).hint(hint));
        tree.node_mut(value).broken = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::{self as serde_de, Deserialize, Deserializer, Visitor};
    use serde::forward_to_deserialize_any;

    use super::*;

    fn surroundings(uid: u32) -> Surroundings {
        Surroundings { config: "/etc/ravelin/ravelin.yaml".into(), uid, threads: 3 }
    }

    fn decoded(text: &str) -> Result<ServerConf, String> {
        let (mut tree, mut report) = (Tree::default(), Report::default());
        let file = report.add_source("a.yaml", text);
        let root = crate::config::yaml::parse(&mut tree, &mut report, file).unwrap();
        match decode(&mut tree, root, &surroundings(0), &|_| None, &mut report) {
            Some((conf, _)) if !report.has_errors() => Ok(conf),
            _ => Err(report.to_string()),
        }
    }

    /// Tells the fields that a struct asks for.
    struct Fields<'a>(&'a mut BTreeSet<&'static str>);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = serde_de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde_de::Error::custom("a struct is expected"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.extend(fields);
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    #[test]
    fn the_list_is_pingoras() {
        let ours: BTreeSet<&str> = keys().into_iter().collect();
        assert_eq!(ours.len(), KEYS.len(), "a key is listed twice");

        let mut asked_for = BTreeSet::new();
        let _ = ServerConf::deserialize(Fields(&mut asked_for));
        assert_eq!(ours, asked_for);

        let Value::Object(written) = serde_json::to_value(ServerConf::default()).unwrap() else { panic!("no map") };
        assert_eq!(ours, written.keys().map(String::as_str).collect());
    }

    #[test]
    fn the_lists_types_are_pingoras() {
        for (key, takes, _) in KEYS {
            let good = match takes {
                Bool => "true",
                Text if *key == "ca_file" => "/dev/null",
                Text => "/tmp/x",
                Texts if *key == "client_bind_to_ipv6" => "['::1']",
                Texts => "[10.0.0.1]",
                Number | Positive(_) | HistogramBuckets => "1",
                HistogramScale => "linear",
            };
            decoded(&format!("{key}: {good}\n")).unwrap();
            let bad = if *takes == Texts { "x" } else { "[]" };
            decoded(&format!("{key}: {bad}\n")).unwrap_err();
        }
    }

    #[test]
    fn ravelins_defaults() {
        let conf = decoded("{}").unwrap();
        assert_eq!((conf.version, conf.threads, conf.upstream_keepalive_pool_size, conf.max_retries), (1, 3, 1024, 16));
        assert_eq!((conf.grace_period_seconds, conf.graceful_shutdown_timeout_seconds), (Some(0), Some(30)));
        assert!(conf.pid_file.starts_with("/run/ravelin-") && conf.pid_file.ends_with("/ravelin.pid"));
        assert!(conf.upgrade_sock.ends_with("/upgrade.sock"));
    }

    #[test]
    fn what_is_given_stays() {
        let conf = decoded("threads: 2\nuser: www\npid_file: /run/x.pid\ngrace_period_seconds: 5\nmax_retries: 3\n").unwrap();
        assert_eq!((conf.threads, conf.user.as_deref(), conf.pid_file.as_str()), (2, Some("www"), "/run/x.pid"));
        let relative = decoded("pid_file: a/x.pid\nupgrade_sock: up.sock\nerror_log: error.log\n").unwrap();
        assert_eq!(
            (relative.pid_file.as_str(), relative.upgrade_sock.as_str()),
            ("/etc/ravelin/a/x.pid", "/etc/ravelin/up.sock")
        );
        assert_eq!(relative.error_log.as_deref(), Some("/etc/ravelin/error.log"));
        assert_eq!((conf.grace_period_seconds, conf.max_retries), (Some(5), 3));
    }

    #[test]
    fn everything_that_pingora_refuses_is_refused_in_our_words() {
        for (key, takes, _) in KEYS {
            if let Positive(why) = takes {
                let error = decoded(&format!("{key}: 0\n")).unwrap_err();
                assert!(error.contains(why) && error.contains("\n1 error"), "{error}");
            }
        }
        for buckets in [0, 1025] {
            let error = decoded(&format!("runtime_metrics_poll_time_histogram_buckets: {buckets}\n")).unwrap_err();
            assert!(error.contains("write 1 to 1024") && error.contains("\n1 error"), "{error}");
        }
        assert!(decoded("version: 2\n").unwrap_err().contains("version 2 does not exist"));
    }

    #[test]
    fn the_private_directory_depends_on_user_and_path_alone() {
        let runtime = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7".to_owned());
        let root = private_directory(&surroundings(0), &runtime);
        assert_eq!(root, private_directory(&surroundings(0), &|_| None));
        assert!(root.starts_with("/run") && !root.starts_with("/run/user"));
        assert!(private_directory(&surroundings(7), &runtime).starts_with("/run/user/7"));
        assert!(private_directory(&surroundings(7), &|_| None).to_string_lossy().starts_with("/tmp/ravelin-7-"));
        let other = Surroundings { config: "/etc/other.yaml".into(), ..surroundings(0) };
        assert_ne!(root, private_directory(&other, &|_| None));
        assert_eq!(root.to_string_lossy(), format!("/run/ravelin-{:016x}", fnv1a(b"/etc/ravelin/ravelin.yaml")));
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
