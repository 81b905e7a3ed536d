//! The configuration that a case runs with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::model::Case;
use crate::support::Origin;

/// The case's configuration with the sections that it leaves out: a listener on a free port of 127.0.0.1; an
/// upstream for each origin, of its name, without health checks; and, if there is just one upstream, a route
/// `all` to it. With `include:` only the listener is added, with `config exactly` nothing.
pub(crate) fn effective(case: &Case, written: &str, origins: &[Origin]) -> String {
    let mut config = written.to_owned();
    let has = |section: &str| written.lines().any(|line| line.starts_with(&format!("{section}:")));
    if case.config_exactly {
        return config;
    }
    if !has("listeners") {
        config.push_str("listeners: {main: {address: \"127.0.0.1:0\"}}\n");
    }
    if has("include") {
        return config;
    }
    let mut upstreams = upstreams(written);
    if !has("upstreams") && !origins.is_empty() {
        config.push_str("upstreams:\n");
        for origin in origins {
            let (name, address) = (origin.name(), origin.address());
            let _ = writeln!(config, "  {name}: {{endpoints: [\"{address}\"], health_check: none}}");
        }
        upstreams = origins.iter().map(|origin| origin.name().to_owned()).collect();
    }
    if let ([upstream], false) = (upstreams.as_slice(), has("routes")) {
        let _ = writeln!(config, "routes: {{all: {{upstream: {upstream}}}}}");
    }
    config
}

/// The names of the upstreams of a configuration.
fn upstreams(config: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Sections {
        #[serde(default)]
        upstreams: BTreeMap<String, serde::de::IgnoredAny>,
    }
    let sections = serde_saphyr::from_str::<Sections>(config);
    sections.map_or_else(|_| Vec::new(), |sections| sections.upstreams.into_keys().collect())
}

/// Which listener has which address: `written` are names and addresses of the configuration, `reported` what
/// the process says. Port 0 takes the first address of the same host that is nobody else's.
pub(crate) fn actual(written: &[(String, String)], reported: &[String]) -> Vec<(String, String)> {
    let mut free: Vec<&String> = reported.iter().collect();
    let mut found = Vec::new();
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.replace("localhost", "127.0.0.1"));
    for exact in [true, false] {
        for (name, address) in written {
            let known = found.iter().any(|(other, _)| other == name);
            let same = |candidate: &&String| match exact {
                true => *candidate == address,
                false => address.ends_with(":0") && host(candidate) == host(address),
            };
            if let (false, Some(at)) = (known, free.iter().position(same)) {
                found.push((name.clone(), free.remove(at).clone()));
            }
        }
    }
    found
}
