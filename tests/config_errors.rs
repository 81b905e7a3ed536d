//! Every error and warning that a configuration file can give, one small file each, as it is shown.
//!
//! The texts are a feature: read a changed snapshot as somebody who has never seen this program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]
#![expect(clippy::expect_used, reason = "a test that cannot be set up fails")]

use std::any::Any;
use std::path::Path;

use ravelin::config::{Body, Catalog, Config, Report, load, parse};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

/// Two filters, of which the configuration knows nothing but this.
struct Filters;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoded")]
struct Stamp {
    name: String,
    #[serde(default)]
    times: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoded")]
struct Divert {
    to: String,
}

impl Catalog for Filters {
    fn names(&self) -> Vec<&'static str> {
        vec!["divert", "stamp"]
    }

    fn decode(&self, name: &str, body: Body<'_, '_>) -> Option<Box<dyn Any + Send>> {
        match name {
            "divert" => body.decode::<Divert>().map(|settings| Box::new(settings) as Box<dyn Any + Send>),
            "stamp" => body.decode::<Stamp>().map(|settings| Box::new(settings) as Box<dyn Any + Send>),
            _ => None,
        }
    }

    fn schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        match name {
            "divert" => Some(generator.subschema_for::<Divert>()),
            "stamp" => Some(generator.subschema_for::<Stamp>()),
            _ => None,
        }
    }
}

fn environment(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".to_owned()),
        "SECRET" => Some("hunter2".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> (Option<Config>, Report) {
    let (config, report) = parse(text, Path::new("ravelin.yaml"), &Filters, &environment);
    assert_eq!(config.is_none(), report.has_errors(), "a configuration that comes back has no errors:\n{report}");
    (config, report)
}

/// What stands in front of a case that is about something else.
const LISTENERS: &str = "listeners: {http: {address: 127.0.0.1:8080}}\n";
const ROUTES: &str = "routes: {all: {respond: {}}}\n";

/// A file, and what is wrong with it.
fn shown(text: &str) -> String {
    let (_, report) = read(text);
    format!("{text}\n────────\n{report}")
}

macro_rules! cases {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            let text = &$text;
            insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(shown(text)) });
        }
    )*};
}

/// A file whose routes are these.
fn routes(text: &str) -> String {
    let upstreams = if text.contains("upstream: api") { "upstreams: {api: {endpoints: [10.0.0.1:80]}}\n" } else { "" };
    format!("{LISTENERS}{upstreams}routes:\n{text}")
}

/// A file whose one upstream has these settings.
fn upstream(text: &str) -> String {
    format!("{LISTENERS}routes: {{all: {{upstream: api}}}}\nupstreams:\n  api:\n{text}")
}

/// A file whose one route has these filters.
fn filters(text: &str) -> String {
    format!("{LISTENERS}routes:\n  all:\n    respond: {{}}\n    filters:\n{text}")
}

/// A file with this and what every file needs.
fn with(text: &str) -> String {
    format!("{text}{LISTENERS}{ROUTES}")
}

cases! {
    // The text itself.
    yaml_colon_in_a_value: with("user: a: b\n");
    yaml_tab: "listeners:\n\thttp:\n\t\taddress: 127.0.0.1:80\n";
    yaml_unclosed_quote: with("user: 'a\n");
    yaml_unclosed_bracket: "listeners: {http: {address: 127.0.0.1:80}\n";
    yaml_unquoted_star: routes("  a:\n    match: {hosts: [*.example.com]}\n    respond: {}\n");
    yaml_unquoted_template: routes("  a: {redirect: {to: {{ request.path }}}}\n");
    yaml_unquoted_variable_in_braces: routes("  a: {timeout: ${T}}\n");
    yaml_bad_indentation: "listeners:\n  http:\n    address: 127.0.0.1:80\n routes: {}\n";
    yaml_at_sign: with("user: @me\n");
    yaml_two_documents: with("threads: 1\n---\n");
    yaml_tag: with("user: !secret me\n");
    yaml_list_as_key: with("[a, b]: c\n");
    yaml_duplicate_key: with("threads: 1\nuser: me\nthreads: 2\n");
    yaml_alias_to_itself: with("user: &a [*a]\n");
    yaml_merge_of_no_map: with("user: {<<: 5}\n");
    yaml_too_deep: "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[";
    yaml_is_a_list: "- listeners\n- routes\n";
    yaml_is_a_word: "listeners\n";

    // Variables.
    variable_unset: with("user: ${USER_NAME}\n");
    variable_unset_among_others: with("user: \"x-${SECRET}-${NOBODY}-y\"\n");
    variable_unclosed: with("user: \"${SECRET\"\n");
    variable_in_lower_case: with("user: ${secret}\n");
    variable_with_a_bad_name: with("user: \"${A-B}\"\n");
    variable_in_a_default: with("user: \"${A:-${SECRET}}\"\n");
    variable_is_not_shown: routes("  a: {upstream: \"${SECRET}\", timeout: \"${SECRET}\"}\n");
    variable_of_the_wrong_kind: with("threads: ${SECRET}\n");

    // The top level.
    file_empty: "";
    file_without_routes: LISTENERS;
    file_with_empty_sections: "listeners:\n  # none yet\nroutes:\n";
    file_unknown_key: with("listener: {}\nfrobnicate: 1\n");
    pingora_would_panic: with("client_bind_to_ipv4: [nonsense]\nclient_bind_to_ipv6: [127.0.0.1]\nca_file: /nonexistent/ca.pem\n");
    file_not_yet: with("reload: watch\ntracing: {}\ndefaults: {limits: {}}\n");
    access_log_mistakes: with("access_log: {format: jsn, output: {file: \"\"}, fields: []}\n");
    access_log_template: with("access_log:\n  format: {template: \"{{ dration }} {{ tls.sni }}\"}\n");
    access_log_template_on_two_lines: with("access_log:\n  format: {template: \"a\\nb\"}\n");
    access_log_template_of_nothing: with("access_log: {format: {template: \"\"}, output: file}\n");
    access_log_not_yet: with("access_log: {when: response.status >= 400}\n");
    template_too_late: routes("  a: {respond: {body: \"{{ duration }}\"}}\n  b: {match: {paths: [/b]}, redirect: {to: \"/{{ request.user_agent }}\"}}\n");
    file_sections_of_the_wrong_kind: "listeners: [a]\nroutes: 5\nupstreams: x\nchains: {}\ninclude: a.yaml\ndefaults: []\n";
    file_bad_names: "listeners: {\"a b\": {address: 127.0.0.1:80}}\nroutes: {-x: {respond: {}}}\n";

    // Pingora's keys.
    pingora_version: with("version: 2\n");
    pingora_zero_threads: with("threads: 0\n");
    pingora_zero_retries: with("max_retries: 0\n");
    // covers: max_retries
    pingora_fewer_tries_than_retries: with("max_retries: 2\nupstreams: {u: {endpoints: [127.0.0.1:1], retry: {retries: 2}}}\n");
    pingora_zero_blocking_threads: with("max_blocking_threads: 0\n");
    pingora_zero_ready_timeout: with("daemon_ready_timeout_seconds: 0\n");
    pingora_too_many_buckets: with("runtime_metrics_poll_time_histogram_buckets: 5000\n");
    pingora_typo: with("thread: 4\n");
    pingora_types: with("threads: \"4\"\ndaemon: yes\nuser: [me]\nwork_stealing: 1\ngrace_period_seconds: 5s\nclient_bind_to_ipv4: 10.0.0.1\n");

    // Listeners.
    listener_without_address: "listeners: {http: {}}\n".to_owned() + ROUTES;
    listener_bad_addresses: "listeners:\n  a: {address: 80}\n  b: {address: \"*:80\"}\n  c: {address: example.com:80}\n  d: {address: 127.0.0.1}\n  e: {address: \"unix:\"}\n".to_owned() + ROUTES;
    listener_same_address: "listeners:\n  a: {address: 127.0.0.1:80}\n  b: {address: localhost:80}\n  c: {address: 127.0.0.1:0}\n  d: {address: 127.0.0.1:0}\n".to_owned() + ROUTES;
    listener_addresses_that_cover_others: "listeners:\n  a: {address: 0.0.0.0:80}\n  b: {address: \"[::]:80\"}\n  c: {address: 127.0.0.1:81}\n  d: {address: 0.0.0.0:81}\n  e: {address: \"[::1]:82\"}\n  f: {address: 0.0.0.0:82}\n".to_owned() + ROUTES;
    listener_leads_to_no_https: "listeners: {http: {address: 127.0.0.1:80, redirect_to_https: true}}\n".to_owned() + ROUTES;
    listener_believes_everybody: "listeners:\n  http:\n    address: 127.0.0.1:80\n    proxy_protocol: {trust: [0.0.0.0/0]}\n    trust_forwarded: {from: [\"::/0\", 10.0.0.0/8]}\n".to_owned() + ROUTES;
    listener_mode_without_a_socket: "listeners: {http: {address: 127.0.0.1:80, mode: \"0660\"}}\n".to_owned() + ROUTES;
    listener_bad_mode: "listeners: {http: {address: unix:/run/a.sock, mode: rw}}\n".to_owned() + ROUTES;
    listener_http2_is_a_word: "listeners: {http: {address: 127.0.0.1:80, http2: yes}}\n".to_owned() + ROUTES;
    admin_without_address: with("admin: {}\n");
    admin_without_token: with("admin: {address: 0.0.0.0:9901}\n");
    admin_without_token_on_ipv6: with("admin: {address: \"[::]:9901\"}\n");
    admin_token_of_nothing: with("admin:\n  address: 127.0.0.1:9901\n  token:\n");
    admin_token_empty: with("admin: {address: 127.0.0.1:9901, token: \"${NOTHING:-}\"}\n");
    admin_token_with_spaces: with("admin: {address: 127.0.0.1:9901, token: hunter 2}\n");
    admin_address_of_a_listener: with("admin: {address: 127.0.0.1:8080}\n");
    admin_explain_token_with_spaces: with("admin: {address: 127.0.0.1:9901, explain_token: hunter 2}\n");
    admin_unknown_key: with("admin: {address: 127.0.0.1:9901, tokn: hunter2}\n");
    overload_mistakes: with("overload: {requests: 0, adaptative: true}\nhardening: {landlock: 1, apparmor: true}\n");
    route_priority: routes("  all: {respond: {}, priority: high}\n");
    limits_mistakes: with("defaults:\n  limits:\n    body_size: 0B\n    body_timeout: 0s\n    min_body_rate: 256B\n    concurrent_streams: none\n    tls_handshake_timeout: 1s\n");
    listener_not_yet: "listeners:\n  http:\n    address: 127.0.0.1:80\n    http3: true\n    limits: {}\n".to_owned() + ROUTES;
    listener_acme: "listeners:\n  tls:\n    address: 127.0.0.1:443\n    tls:\n      acme:\n        domains: [\"*.example.com\", 10.0.0.1, a_b.example.com, a.example.com, A.example.com.]\n        email: mailto:ops@example.com\n        directory: http://ca.example.com/dir\n        challenge: dns_01\n        storge: x\n".to_owned() + ROUTES;
    listener_acme_for_nothing: "listeners:\n  tls:\n    address: 127.0.0.1:443\n    tls:\n      acme: {domains: [], directory: http://ca.example.com/dir, storage: \"\"}\n  other:\n    address: 127.0.0.1:444\n    tls: {acme: {domains: [a.example.com, a.example.com], challenge: http_01}}\n".to_owned() + ROUTES;
    listener_tls: "listeners:\n  a:\n    address: 127.0.0.1:80\n    tls: {}\n  b:\n    address: 127.0.0.1:81\n    redirect_to_https: true\n    tls:\n      certificates: [{cert: \"\", key: a.key}, {cert: a.pem}]\n      min_version: \"1.1\"\n      client_auth: {ca: a.pem, mode: optional}\n  c:\n    address: 127.0.0.1:82\n    redirect_to_https: true\n    tls: {certificates: [{cert: \"\", key: a.key, chain: b.pem}]}\n".to_owned() + ROUTES;
    listener_tls_has_nothing_to_show: "listeners:\n  a:\n    address: 127.0.0.1:80\n    tls: {session_tickets: false}\n  b:\n    address: 127.0.0.1:82\n    redirect_to_https: true\n    tls: {certificates: [{cert: \"\", key: a.key}]}\n".to_owned() + ROUTES;
    listener_underscores_unknown: "listeners:\n  http:\n    address: 127.0.0.1:80\n    underscores: replace\n".to_owned() + ROUTES;
    listener_proxies_that_are_nobody: "listeners:\n  http:\n    address: 127.0.0.1:80\n    proxy_protocol: {}\n    trust_forwarded: {header: forwarded}\n".to_owned() + ROUTES;
    listener_proxies_by_bad_addresses: "listeners:\n  http:\n    address: 127.0.0.1:80\n    proxy_protocol: {trust: [10.0.0.1/8, lb.example.com, \"::ffff:10.0.0.0/104\"]}\n    trust_forwarded: {from: [10.0.0.0/33], header: x_real_ip}\n".to_owned() + ROUTES;
    listener_proxies_on_a_unix_socket: "listeners:\n  http:\n    address: unix:/run/a.sock\n    proxy_protocol: {trust: [10.0.0.0/8]}\n    trust_forwarded: {}\n".to_owned() + ROUTES;
    split_mistakes: format!("{LISTENERS}upstreams: {{api: {{endpoints: [10.0.0.1:80]}}, web: {{endpoints: [10.0.0.2:80]}}}}\nroutes:\n  zero:\n    match: {{paths: [/a]}}\n    split: [{{upstream: api, weight: 0}}, {{upstream: web, weight: 0}}]\n  unknown:\n    match: {{paths: [/b]}}\n    split: [{{upstream: api, weight: 1}}, {{upstream: wbe, weight: 1}}]\n  both:\n    match: {{paths: [/c]}}\n    upstream: api\n    split: [{{upstream: web, weight: 1}}]\n  twice:\n    match: {{paths: [/d]}}\n    split: [{{upstream: web, weight: 1}}, {{upstream: web, weight: 2}}]\n  empty:\n    match: {{paths: [/e]}}\n    split: []\n  shapes:\n    match: {{paths: [/f]}}\n    split: [{{upstream: web}}, {{upstream: api, weight: -1}}, {{upstream: api, weight: 5%}}]\n");
    split_sticky_mistakes: routes("  a:\n    match: {paths: [/a]}\n    upstream: api\n    sticky_split: {cookie: group}\n  b:\n    match: {paths: [/b]}\n    split: [{upstream: api, weight: 1}]\n    sticky_split: {cookie: \"a b\"}\n  c:\n    match: {paths: [/c]}\n    split: [{upstream: api, weight: 1}]\n    sticky_split: {}\n");
    errors_mistakes: with("errors:\n  200: {body: a}\n  6xx: {body: a}\n  404: {}\n  405: {file: a.html, body: b}\n  500: {file: \"\"}\n  4xx: {body: a, content_type: html}\n  5xx: {body: \"{{ respons.status }}\"}\n  503: text\n");
    redirect_target_onto_itself: routes("  a: {redirect: {to: \"{{ request.scheme }}://{{ request.host }}{{ request.target }}\"}}\n");
    listener_is_a_word: "listeners: {http: 127.0.0.1:80}\n".to_owned() + ROUTES;
    listener_typo_of_a_required_key: "listeners: {http: {adress: 127.0.0.1:80}}\n".to_owned() + ROUTES;

    // Upstreams.
    upstream_without_endpoints: upstream("    balance: random\n");
    upstream_with_no_endpoint: upstream("    endpoints: []\n");
    upstream_bad_endpoints: upstream("    endpoints: [10.0.0.1, \"http://a:80\", \"a:0\", \"a b:80\", {weight: 1}, {address: a:80, wait: 1}, {address: b:80, weight: -1}, [c]]\n");
    upstream_same_endpoint: upstream("    endpoints:\n      - 10.0.0.1:80\n      - {address: 10.0.0.1:80, weight: 2}\n");
    upstream_weights_all_zero: upstream("    endpoints: [{address: a:80, weight: 0}, {address: b:80, weight: 0}]\n");
    upstream_backups_only: upstream("    endpoints: [{address: a:80, backup: true}, {address: b:80, weight: 0}]\n");
    upstream_unhealthy_unknown: upstream("    endpoints: [a:80, {address: b:80, backup: true}]\n    health_check: none\n    panic_threshold: 30%\n");
    upstream_panic_threshold: upstream("    endpoints: [a:80]\n    panic_threshold: 0.3\n");
    upstream_discover_beside_endpoints: upstream("    endpoints: [a:80]\n    discover: {dns: {name: a, port: 80}}\n");
    upstream_discover_mistakes: upstream("    discover: {dns: {name: 10.0.0.1, port: 0, refresh: 0s, resolver: dns.internal}}\n");
    upstream_discover_srv_with_a_port: upstream("    discover: {dns_srv: {name: _http._tcp.web, port: 80}}\n");
    upstream_discover_two: upstream("    discover: {dns: {name: a, port: 80}, file: {path: a}}\n");
    upstream_discover_nothing: upstream("    discover: {}\n");
    upstream_discover_file_without_path: upstream("    discover: {file: {path: ''}}\n");
    upstream_tls_without_a_name: upstream("    tls: {ca: ca.pem}\n    endpoints: [10.0.0.1:443, unix:/a.sock, api.internal:443]\n");
    upstream_tls_half_a_pair: upstream("    endpoints: [a:443]\n    tls: {client_cert: edge.pem}\n  other:\n    endpoints: [b:443]\n    tls: {client_key: edge.key, ca: ''}\n");
    upstream_tls_unverified: upstream("    endpoints: [a:443]\n    tls: {verify: false}\n");
    upstream_tls_mistakes: upstream("    endpoints: [a:443]\n    tls: {sni: 10.0.0.1, verify: no, cert: a.pem}\n");
    upstream_tls_sni_with_a_port: upstream("    endpoints: [a:443]\n    tls: {sni: 'a:443'}\n");
    upstream_tls_is_no_word: upstream("    endpoints: [a:443]\n    tls: true\n");
    upstream_tls_is_empty: upstream("    endpoints: [a:443]\n    tls:\n");
    upstream_auto_without_tls: upstream("    endpoints: [a:443]\n    protocol: auto\n");
    upstream_protocol: upstream("    endpoints: [a:443]\n    protocol: h2\n    proxy_protocol: v3\n");
    upstream_balance: upstream("    endpoints: [a:80]\n    balance: roundrobin\n");
    upstream_balance_hash_without_key: upstream("    endpoints: [a:80]\n    balance: hash\n");
    upstream_balance_hash_key: upstream("    endpoints: [a:80]\n    balance: {hash: {key: ip, by: uri}}\n");
    upstream_balance_hash_of_nothing: upstream("    endpoints: [a:80]\n    balance: {hash: {}}\n");
    upstream_balance_hash_cookie: upstream("    endpoints: [a:80]\n    balance: {hash: {key: {cookie: a b}}}\n");
    upstream_balance_two: upstream("    endpoints: [a:80]\n    balance: {hash: {key: uri}, random: {}}\n");
    upstream_balance_word_with_settings: upstream("    endpoints: [a:80]\n    balance: {random: {key: uri}}\n");
    upstream_host: upstream("    endpoints: [a:80]\n    host: {set: a b}\n");
    upstream_host_without_value: upstream("    endpoints: [a:80]\n    host: set\n");
    upstream_health_check_zeros: upstream("    endpoints: [a:80]\n    health_check: {tcp: {interval: 0s, timeout: 0s, healthy_after: 0, unhealthy_after: 0}}\n");
    upstream_health_check_word: upstream("    endpoints: [a:80]\n    health_check: udp\n");
    upstream_health_check_word_of_settings: upstream("    endpoints: [a:80]\n    health_check: http\n");
    upstream_health_check_http: upstream("    endpoints: [a:80]\n    health_check: {http: {path: healthz, host: \"a b\", expect: [2xx, 600, 299-200], interval: 0s, timeout: 0s, port: 0, method: HEAD}}\n");
    upstream_health_check_expects_nothing: upstream("    endpoints: [a:80]\n    health_check: {http: {expect: []}}\n");
    upstream_health_check_grpc: upstream("    endpoints: [a:80]\n    health_check: {grpc: {servise: a, interval: 0s, healthy_after: 0, unhealthy_after: 0, port: 70000}}\n");
    upstream_health_check_port_of_a_socket: upstream("    endpoints: [\"unix:/run/a.sock\"]\n    health_check: {http: {port: 80}}\n");
    upstream_health_check_tls_of_nothing: upstream("    endpoints: [a:80]\n    health_check: {http: {tls: false}}\n  b:\n    endpoints: [b:80]\n    health_check: {tcp: {tls: yes please}}\n");
    upstream_outlier_detection: upstream("    endpoints: [a:80]\n    outlier_detection: {consecutive_errors: 0, error_ratio: 101%, window: 0s, eject_for: 0s, max_ejected: half, ejected: 1}\n");
    upstream_outlier_detection_of_nothing: upstream("    endpoints: [a:80]\n    outlier_detection: {consecutive_errors: none, error_ratio: none, max_ejected: 0%}\n");
    upstream_outlier_detection_without_errors: upstream("    endpoints: [a:80]\n    outlier_detection: {error_ratio: 0%}\n");
    upstream_outlier_detection_is_empty: upstream("    endpoints: [a:80]\n    outlier_detection:\n");
    upstream_slow_start: upstream("    endpoints: [a:80]\n    slow_start: 0s\n");
    upstream_slow_start_of_a_hash: upstream("    endpoints: [a:80]\n    balance: {hash: {key: uri}}\n    slow_start: 10s\n");
    upstream_limits: upstream("    endpoints: [a:80]\n    limits: {connections: 0, requests: -1, queue: many, queue_timeout: 0s, conections: 1}\n");
    upstream_limits_of_nothing: upstream("    endpoints: [a:80]\n    limits: {queue: 5, queue_timeout: 2s}\n");
    upstream_limits_without_a_queue: upstream("    endpoints: [a:80]\n    limits: {requests: 5, queue: 0, queue_timeout: 2s}\n");
    upstream_sticky: upstream("    endpoints: [a:80]\n    sticky: {cookie: a b, key: hunter2, ttl: 0s, path: /}\n");
    upstream_sticky_key_is_short: upstream("    endpoints: [a:80]\n    sticky: {key: hunter2}\n");
    upstream_sticky_without_key: upstream("    endpoints: [a:80]\n    sticky: {kye: correct horse battery staple}\n");
    upstream_sticky_in_a_broken_file: upstream("    endpoints: [a:80]\n    sticky: {key: correct horse battery staple\n");
    upstream_health_check_two: upstream("    endpoints: [a:80]\n    health_check: {tcp: {}, http: {}}\n");
    upstream_health_check_key: upstream("    endpoints: [a:80]\n    health_check: {tcp: {intervall: 1s}}\n");
    upstream_timeouts: upstream("    endpoints: [a:80]\n    timeouts: {connect: 0s, read: 30, write: never, idle: 10 parsecs, total: 1s}\n");
    upstream_retry: upstream("    endpoints: [a:80]\n    retry: {retries: 16, conditions: [connect_eror, timeout, 505, 50x], methods: [get, PO ST], tries: 2}\n");
    upstream_retry_budget: upstream("    endpoints: [a:80]\n    retry: {budget: {ratio: 120%, min: 10}}\n  b:\n    endpoints: [b:80]\n    retry: {budget: {ratio: 0.2, min: 5/h, max: 1}}\n  c:\n    endpoints: [c:80]\n    retry: {budget: {ratio: 0%, min: 0/s}}\n  d:\n    endpoints: [d:80]\n    retry: {budget: off}\n");
    upstream_retry_times: upstream("    endpoints: [a:80]\n    retry: {backoff: {base: 1s}, try_timeout: 0s}\n  b:\n    endpoints: [b:80]\n    retry: {backoff: {base: 25, max: never}, try_timeout: 63s}\n  c:\n    endpoints: [c:80]\n    retry: {backoff: {base: 300ms, max: 200ms}, try_timeout: soon}\n");
    upstream_retry_hedge: upstream("    endpoints: [a:80]\n    retry: {hedge: {after: 100%}}\n  b:\n    endpoints: [b:80]\n    retry: {hedge: {after: 0ms}}\n  c:\n    endpoints: [c:80]\n    retry: {hedge: {after: soon, max: 2}}\n  d:\n    endpoints: [d:80]\n    retry: {hedge: {}}\n  e:\n    endpoints: [e:80]\n    retry: {hedge: off}\n  f:\n    endpoints: [f:80]\n    protocol: http2\n    retry: {methods: [], hedge: {after: 50ms}}\n  g:\n    endpoints: [127.0.0.1:80, {address: 127.0.0.2:80, weight: 0}]\n    retry: {hedge: {after: 50ms}}\n");
    upstream_try_longer_than_its_route: "upstreams: {u: {endpoints: [127.0.0.1:1], retry: {try_timeout: 2s}}, v: {endpoints: [127.0.0.1:2], retry: {try_timeout: 900ms}}}\n".to_owned() + LISTENERS + "routes:\n  one: {match: {paths: [/a]}, upstream: u, timeout: 1s}\n  two: {match: {paths: [/b]}, split: [{upstream: v, weight: 1}, {upstream: u, weight: 1}], timeout: 1s}\n  long: {match: {paths: [/c]}, upstream: u, timeout: 3s}\n";
    upstream_unused: upstream("    endpoints: [a:80]\n  other:\n    endpoints: [b:80]\n");

    // Routes.
    route_without_action: routes("  a:\n    match: {paths: [/a]}\n");
    route_with_two_actions: routes("  a:\n    upstream: api\n    respond: {body: hi}\n");
    route_unknown_upstream: routes("  a: {upstream: apii}\n  b: {match: {paths: [/b]}, upstream: api}\n");
    route_unknown_upstream_and_none_at_all: routes("  a: {upstream: web}\n");
    route_to_a_broken_upstream: "upstreams: {api: {endpoints: [oops]}}\n".to_owned() + LISTENERS + "routes: {a: {upstream: api}}\n";
    route_bad_hosts: routes("  a:\n    match:\n      hosts: [example.com:80, \"https://a.com\", \"a.*.com\", münchen.de, \"mün\\u2024chen.de\", \"a b\"]\n    respond: {}\n");
    route_bad_paths: routes("  a:\n    match:\n      paths: [v1, /a*b, \"/a?b=1\", /../x, \"/%zz\", {regex: ^/u}, {prefix: /x}, {}, 5, {regex: ^/u, prefix: /x}]\n    respond: {}\n");
    route_bad_methods: routes("  a:\n    match:\n      methods: [get, \"G T\"]\n    respond: {}\n");
    route_match_of_nothing: routes("  a:\n    match: {hosts: [], paths: [], methods: [], headers: {}, query: {}, cookies: {}, client_ips: []}\n    listeners: []\n    respond: {}\n");
    route_match_of_a_word: routes("  a:\n    match: {hosts: example.com}\n    respond: {}\n");
    route_not_yet: routes("  a:\n    match: {when: x}\n    respond: {}\n");
    route_bad_regexes: routes("  a:\n    match:\n      paths: [{regex: \"^/u/([0-9]+$\"}, {regex: \"(?=/a)\"}, {regex: \"^/[a-z]{1,999999}\"}, {regex: \"\"}, {regex: ^u/}]\n      headers: {user-agent: {regex: \"(a)\\\\1\"}, x-a: {regex: \"[z-a]\"}, x-b: {regex: [a]}}\n    respond: {}\n");
    route_bad_headers: routes("  a:\n    match:\n      headers: {\"a b\": c, x-b: {presnt: true}, x-c: {present: yes}, x-d: {}, x-e: [a], x-f: {present: true, regex: a}, x-g:, host: a.com, x-h: \" a\"}\n    respond: {}\n");
    route_headers_given_twice: routes("  a:\n    match:\n      headers: {X-A: b, x-a: c}\n    respond: {}\n");
    route_bad_cookies: routes("  a:\n    match:\n      cookies: {\"a b\": c, sid: \"a; b\"}\n      query: {a: {regex: \"(\"}}\n    respond: {}\n");
    route_bad_client_ips: routes("  a:\n    match:\n      client_ips: [10.1.2.3/8, \"2001:db8::1/32\", 10.0.0.0/33, example.com, \"::ffff:10.0.0.1\", 10.0.0.0-10.0.0.9]\n    respond: {}\n");
    route_unknown_listener: routes("  a: {listeners: [htp, other], respond: {}}\n");
    route_listener_without_routes: "listeners: {http: {address: 127.0.0.1:80}, admin: {address: 127.0.0.1:81}}\nroutes:\n  a: {listeners: [http], respond: {}}\n".to_owned();
    route_path_rules: routes("  a: {path: {merge_slashes: no, decode: true}, respond: {}}\n");
    route_same_conditions: routes("  a:\n    match: {paths: [/x], headers: {x-a: \"1\", x-b: {present: true}}, client_ips: [10.0.0.0/8]}\n    respond: {}\n  b:\n    match: {paths: [/x], headers: {X-B: {present: true}, X-A: \"1\"}, client_ips: [192.0.2.0/24, 10.0.0.0/8]}\n    respond: {}\n  c:\n    match: {paths: [{regex: a}]}\n    respond: {}\n  d:\n    match: {paths: [{regex: a}]}\n    respond: {}\n");
    route_same_match_on_another_listener: "listeners: {http: {address: 127.0.0.1:80}, other: {address: 127.0.0.1:81}}\nroutes:\n  a: {listeners: [http], respond: {}}\n  b: {listeners: [other], respond: {}}\n  c: {respond: {}}\n".to_owned();
    route_that_nothing_can_reach: routes("  any:\n    match: {headers: {x-env: {present: true}}}\n    respond: {}\n  canary:\n    match: {headers: {x-env: canary}}\n    respond: {}\n  office:\n    match: {paths: [/in], client_ips: [10.0.0.0/8]}\n    respond: {}\n  desk:\n    match: {paths: [/in], client_ips: [10.0.0.7]}\n    respond: {}\n");
    route_files_not_yet: routes("  a:\n    files: {root: public}\n");
    route_typo_of_an_action: routes("  a:\n    upstrem: api\n");
    route_timeout_of_zero: routes("  a:\n    timeout: 0s\n    respond: {}\n");
    route_same_match: routes("  a:\n    match: {hosts: [A.com, b.com], paths: [/x, /y/*]}\n    respond: {}\n  b:\n    match: {hosts: [a.com], paths: [/z, /y/*], methods: [GET]}\n    respond: {}\n  c:\n    match:\n      hosts: [a.com]\n      paths:\n        - /x\n    respond: {}\n");
    route_same_match_of_everything: routes("  a: {respond: {}}\n  b: {match: {paths: [/*], hosts: [\"*\"]}, respond: {}}\n");
    route_is_empty: routes("  a:\n");

    route_regexes_that_no_path_meets: routes("  a:\n    match:\n      paths: [{regex: ^/a//b}, {regex: ^/a%2f}, {regex: ^/%61}, {regex: '^/a\\?b=1'}, {regex: ^/a b}, {regex: ^/é}, {regex: '^/(a|b)/\\./'}]\n    respond: {}\n  b:\n    match: {paths: [{regex: ^/b//c}, {regex: '^/b\\\\'}, {regex: ^/b%zz}]}\n    path: {merge_slashes: false}\n    respond: {}\n");
    route_methods_that_no_request_brings: routes("  a:\n    match:\n      methods: [GET, TRACE, CONNECT]\n    respond: {}\n");
    route_headers_that_no_request_brings: "listeners: {http: {address: 127.0.0.1:80}, inside: {address: 127.0.0.1:81, underscores: pass}}\nroutes:\n  a:\n    listeners: [http]\n    match: {headers: {user_id: \"1\", x-ravelin-explain: {present: true}}}\n    respond: {}\n  b:\n    match: {headers: {user_id: \"1\"}}\n    respond: {}\n".to_owned();

    // Answers.
    redirect_status: routes("  a: {redirect: {to: /b, status: 200}, match: {paths: [/a]}}\n");
    redirect_status_is_none: routes("  a: {redirect: {to: /b, status: 99}, match: {paths: [/a]}}\n");
    redirect_without_target: routes("  a: {redirect: {status: 301}}\n  b: {match: {paths: [/b]}, redirect: {to: \"\"}}\n");
    redirect_with_a_space: routes("  a: {redirect: {to: \"https://b.com/a b\"}}\n");
    redirect_too_early: routes("  a: {redirect: {to: \"https://b.com/{{ upstream.name }}\"}}\n");
    redirect_onto_itself: routes("  a: {match: {hosts: [a.com], paths: [/a/*]}, redirect: {to: \"http://a.com/a/b\"}}\n  b: {match: {paths: [/b]}, redirect: {to: /b?x=1}}\n  c: {match: {paths: [/c]}, redirect: {to: \"{{ request.path }}\"}}\n  d: {match: {paths: [/d]}, redirect: {to: \"http://{{ request.host }}{{ request.path }}\"}}\n");
    template_unknown_name: routes("  a: {redirect: {to: \"https://b.com{{ request.pth }}\"}}\n");
    template_unknown_names: routes("  a: {redirect: {to: \"https://{{ request.hst }}{{ request.pth }}{{ request.uri }}\"}}\n");
    template_of_another_server: routes("  a: {redirect: {to: \"https://$host$request_uri\"}}\n  b: {match: {paths: [/b]}, respond: {headers: {x-ip: $remote_addr}, body: \"in $request_time, at $5\"}}\n  c: {match: {paths: [/c]}, respond: {body: \"#!/bin/sh\\ncurl $host\\n\"}}\n") + "access_log: {format: {template: \"$remote_addr {{ request.path }}\"}}\nerrors: {404: {body: \"no $uri\"}}\n";
    template_of_a_client: routes("  a: {redirect: {to: \"https://b.com/{{ client.cert.subjct }}\"}}\n");
    template_unclosed: routes("  a: {redirect: {to: \"https://b.com{{ request.path\"}}\n");
    respond_status: routes("  a: {respond: {status: 101}}\n  b: {match: {paths: [/b]}, respond: {status: ok}}\n  c: {match: {paths: [/c]}, respond: {status: \"200\"}}\n");
    respond_body_that_cannot_be: routes("  a:\n    respond:\n      status: 204\n      body: ok\n");
    respond_too_early: routes("  a:\n    respond:\n      headers: {x-status: \"{{ response.status }}\"}\n      body: \"at {{upstream.endpoint}}\"\n");
    respond_headers: routes("  a:\n    respond:\n      headers: {Content-Length: 5, transfer-encoding: chunked, connection: close, x-a: 1, X-A: 2, \"a b\": c}\n");
    respond_header_with_a_line_break: routes("  a:\n    respond:\n      headers:\n        x-note: |\n          hello\n");

    // Filters.
    filter_unknown: filters("      - stmap: {name: x}\n      - frobnicate: {}\n");
    filter_of_another_name: filters("      - gzip: {}\n      - basic-auth: {}\n      - proxy_set_header: {}\n");
    filter_not_yet: filters("      - cors: {}\n      - stamp: {name: x}\n        when: request.method == \"GET\"\n");
    filter_two_in_one_entry: filters("      - stamp: {name: x}\n        divert: {to: y}\n");
    filter_none_in_an_entry: filters("      - id: a\n      - {}\n      -\n");
    filter_as_a_word: filters("      - stamp\n") + "chains: {stamp: [{stamp: {name: a}}]}\n";
    filter_as_another_word: filters("      - divert\n");
    filter_settings: filters("      - stamp: {nam: x, times: many}\n      - stamp:\n          times: -1\n      - divert: {to: [x]}\n      - divert:\n");
    filter_same_id: filters("      - stamp: {name: x}\n        id: one\n      - stamp: {name: y}\n        id: one\n      - stamp: {name: y}\n        id: a b\n");
    filters_are_a_map: filters("      stamp: {name: x}\n");
    chain_unknown: filters("      - use: hardend\n") + "chains: {hardened: [{stamp: {name: x}}]}\n";
    chain_use_with_id: filters("      - use: a\n        id: b\n") + "chains: {a: [{stamp: {name: x}}]}\n";
    chain_cycle: filters("      - use: a\n") + "chains:\n  a: [{use: b}]\n  b:\n    - stamp: {name: x}\n    - use: c\n  c: [{use: a}]\n  d: [{use: d}]\n";
    chain_unused: filters("      - use: a\n") + "chains:\n  a: [{use: b}]\n  b: []\n  c: [{use: d}]\n  d: []\n";
    chain_broken_is_known: filters("      - use: a\n") + "chains:\n  a: [{use: [b]}]\n";
    default_filters: with("defaults:\n  filters:\n    - stamp: {}\n  filtres: []\n");
}

#[test]
fn the_settings_of_a_good_file() {
    let (config, report) = read(&(routes("  a: {upstream: api}\n") + "threads: ${PORT}\nuser: \"${NOBODY:-www}\"\n"));
    assert_eq!(report.to_string(), "");
    let config = config.expect("there are no errors");
    assert_eq!((config.pingora.threads, config.pingora.user.as_deref()), (8080, Some("www")));
    assert_eq!((config.listeners.len(), config.upstreams.len(), config.routes.len()), (1, 1, 1));
}

#[test]
fn a_mirror_copies_what_is_forwarded_and_to_somewhere_else() {
    let said = |route: &str| {
        let upstreams = "upstreams: {u: {endpoints: [127.0.0.1:1]}, v: {endpoints: [127.0.0.1:2]}}\n";
        read(&format!("{upstreams}{LISTENERS}routes:\n  a: {{match: {{paths: [/a]}}, {route}}}\n  z: {{split: [{{upstream: u, weight: 1}}, {{upstream: v, weight: 1}}]}}\n")).1.to_string()
    };
    assert_eq!(said("upstream: u, mirror: {upstream: v}"), "");
    for (route, expected) in [
        ("upstream: u, mirror: {upstream: u}", "warning: copies go to `u` like the requests: it would have them twice"),
        ("split: [{upstream: v, weight: 1}], mirror: {upstream: v}", "warning: copies go to `v` like the requests"),
        ("upstream: u, mirror: {upstream: v, ratio: 0%}", "warning: 0% of the requests are copied: none"),
        ("upstream: u, mirror: {upstream: v, ratio: 200%}", "error: `200%` is no share"),
        ("upstream: u, mirror: {upstream: vv}", "error: unknown upstream `vv`"),
        ("upstream: u, mirror: {ratio: 5%}", "error: "),
        ("upstream: u, mirror: {upstream: v, share: 5%}", "error: unknown key `share`"),
        ("respond: {}, mirror: {upstream: v}", "error: `mirror` copies what is forwarded: this route forwards nothing"),
        ("redirect: {to: /e}, mirror: {upstream: v}", "error: `mirror` copies what is forwarded"),
    ] {
        let text = said(route);
        assert!(text.contains(expected) && text.contains("ravelin.yaml:4:"), "{route}\n{text}");
    }
}

#[test]
fn an_upstream_that_only_a_filter_names_is_used() {
    let text = filters("      - divert: {to: side}\n") + "upstreams: {side: {endpoints: [10.0.0.1:80]}}\n";
    assert_eq!(read(&text).1.to_string(), "");
}

/// A directory of files, of which the first is loaded.
fn shown_files(files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().expect("a directory can be made");
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the directory")).expect("a directory can be made");
        std::fs::write(path, text).expect("a file can be written");
    }
    let (config, report) = load(&directory.path().join(files[0].0), &Filters, &environment);
    assert_eq!(config.is_none(), report.has_errors());
    report.to_string().replace(&directory.path().display().to_string(), "DIR")
}

#[test]
fn include_merges_files_in_order() {
    let files = [
        ("main.yaml", "include: [conf.d/*.yaml]\nlisteners: {http: {address: 127.0.0.1:80}}\nroutes: {a: {upstream: web}}\n"),
        ("conf.d/10.yaml", "upstreams: {web: {endpoints: [10.0.0.1:80]}}\ninclude: [more/20.yaml, ../conf.d/more/*.yaml]\n"),
        ("conf.d/more/20.yaml", "routes: {b: {match: {paths: [/b]}, upstream: web}}\n"),
        ("conf.d/.hidden.yaml", "oops"),
    ];
    assert_eq!(shown_files(&files), "");
}

#[test]
fn include_mistakes() {
    let main = format!(
        "include:\n  - a.yaml\n  - missing.yaml\n  - none.d/*.yaml\n  - \"x[.yaml\"\n  - conf.d\n  - main.yaml\n{LISTENERS}routes: {{all: {{respond: {{}}}}}}\n"
    );
    let a = "include: [b.yaml]\nroutes:\n  all: {respond: {}}\nlisteners: [x]\nthreads: 4\nadmin: {}\ntests: []\nroute: {}\ndefaults: {}\n";
    let files = [
        ("main.yaml", main.as_str()),
        ("a.yaml", a),
        ("b.yaml", "include: [a.yaml]\nupstreams: {x: 5}\n- oops\n"),
        ("conf.d/x", ""),
    ];
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(shown_files(&files)) });
}

#[test]
fn include_cycle() {
    let main = format!("include: [a.yaml]\n{}", with(""));
    let files =
        [("main.yaml", main.as_str()), ("a.yaml", "include:\n  - b.yaml\n"), ("b.yaml", "include:\n  - \"[a-b].yaml\"\n")];
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(shown_files(&files)) });
}

#[test]
fn very_many_mistakes_are_counted() {
    let text: String = (0..130).map(|n| format!("key_{n}: 1\n")).collect();
    let report = read(&with(&text)).1.to_string();
    assert!(report.ends_with("\n100 errors (and 30 further, not shown)\n"), "{report}");
}

#[test]
fn a_file_that_is_not_there() {
    let (config, report) = load(Path::new("/nowhere/ravelin.yaml"), &Filters, &environment);
    assert!(config.is_none());
    insta::assert_snapshot!(report.to_string(), @r"
    error: cannot read `/nowhere/ravelin.yaml`: no such file or directory

    1 error
    ");
}

#[test]
fn a_configuration_can_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Config>();
    is_send::<Report>();
}
