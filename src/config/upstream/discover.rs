//! `discover`: endpoints that are not in the file.

use std::path::{Path, PathBuf};
use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::positive_duration;
use crate::config::de::{Scope, decode};
use crate::config::report::Report;
use crate::config::tree::Tree;
use crate::config::{Endpoint, Spanned, yaml};
use crate::types::{DnsName, Duration, Nameserver};

/// Where endpoints are learned of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discover {
    /// The addresses of a name, all on one port.
    Dns(DnsDiscovery),
    /// A service record: hosts, ports, weights and priorities.
    DnsSrv(SrvDiscovery),
    /// A list of endpoints in a file of its own.
    File(FileDiscovery),
}

/// The addresses (A and AAAA) of a name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsDiscovery {
    /// The name.
    pub name: DnsName,
    /// The port of each endpoint.
    pub port: std::num::NonZeroU16,
    /// The shortest time between two questions; a longer TTL is respected.
    #[serde(default = "refresh", deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub refresh: Duration,
    /// Who is asked. Default: whom the system asks.
    pub resolver: Option<Nameserver>,
}

/// A service record (SRV, RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SrvDiscovery {
    /// The name, such as `_http._tcp.web.internal`.
    pub name: DnsName,
    /// The shortest time between two questions; a longer TTL is respected.
    #[serde(default = "refresh", deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub refresh: Duration,
    /// Who is asked. Default: whom the system asks.
    pub resolver: Option<Nameserver>,
}

/// A file with a list of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileDiscovery {
    /// Its path, relative to the configuration: a YAML or JSON list, written as `endpoints`. Read anew when it changes.
    pub path: Spanned<PathBuf>,
}

fn refresh() -> Duration {
    Duration::from(StdDuration::from_secs(5))
}

/// The endpoints that a file lists.
///
/// # Errors
/// It holds anything else: the report says what, and where.
pub(crate) fn endpoints_of(text: &str, path: &Path) -> Result<Vec<Endpoint>, Box<Report>> {
    let (mut tree, mut report) = (Tree::default(), Report::default());
    let file = report.add_source(path.display().to_string(), text);
    let endpoints = yaml::parse(&mut tree, &mut report, file).and_then(|root| decode(&tree, root, Scope::Own, &mut report).value);
    match endpoints {
        Some(endpoints) if !report.has_errors() => Ok(endpoints),
        _ => Err(Box::new(report)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn a_file_is_a_list_of_endpoints() {
        let read = |text| endpoints_of(text, Path::new("e.yaml"));
        assert_eq!(read("[10.0.0.1:80, {address: 10.0.0.2:80, weight: 2}]").unwrap().len(), 2);
        assert_eq!(read("- 10.0.0.1:80\n- unix:/a.sock\n").unwrap().len(), 2);
        assert_eq!(read("[]").unwrap().len(), 0);
        for bad in ["", "a: 1", "[10.0.0.1", "- 10.0.0.1:80\n- 10.0.0.", "[{address: a:1, wieght: 2}]"] {
            assert!(read(bad).unwrap_err().has_errors(), "{bad}");
        }
    }

    #[test]
    fn who_is_asked_and_how_often() {
        let discover: Discover = decoded("{dns: {name: Web.Internal, port: 80, resolver: 127.0.0.1:5353}}").unwrap();
        let Discover::Dns(dns) = discover else { panic!("{discover:?}") };
        assert_eq!((dns.name.as_str(), dns.port.get(), dns.refresh), ("web.internal", 80, refresh()));
        for bad in ["{dns: {name: 10.0.0.1, port: 1}}", "{dns: {name: a, port: 0}}", "{dns_srv: {name: a, refresh: 0s}}", "{}"] {
            assert!(decoded::<Discover>(bad).is_err(), "{bad}");
        }
    }
}
