//! What `ravelin run` would miss on this machine: found by `check`, since it is no mistake of the file.

use std::path::Path;

use crate::config::{Config, Diagnostic, LogOutput, Span};
use crate::server::{find_group, find_user};
use crate::types::ListenAddress;

/// Warnings of a user, a group and folders that are not there.
pub(super) fn missing(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let (conf, given) = (&config.pingora, &config.given);
    let nobody = |kind: &str, name: &str, place: Option<Span>| {
        let message = format!("this machine has no {kind} `{name}`: `ravelin run` would not start");
        Diagnostic::warning(place.unwrap_or_default(), message).hint(format!("{kind}add --system {name}"))
    };
    found.extend(conf.user.as_deref().filter(|name| find_user(name).is_err()).map(|name| nobody("user", name, given.user)));
    found.extend(conf.group.as_deref().filter(|name| find_group(name).is_err()).map(|name| nobody("group", name, given.group)));

    let mut places: Vec<(Span, &Path)> = Vec::new();
    places.extend(given.pid_file.map(|span| (span, Path::new(&conf.pid_file))));
    places.extend(given.upgrade_sock.map(|span| (span, Path::new(&conf.upgrade_sock))));
    let addresses = config.listeners.iter().map(|listener| &listener.value.address);
    for address in addresses.chain(config.admin.iter().map(|admin| &admin.address)) {
        if let ListenAddress::Unix(path) = &address.value {
            places.push((address.span, path));
        }
    }
    if let Some(LogOutput::File(path)) = config.access_log.as_ref().map(|log| &log.output) {
        places.push((path.span, &path.value));
    }
    for (span, path) in places {
        let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) else { continue };
        let message = format!("there is no folder `{}`: `ravelin run` would not start", folder.display());
        found.push(Diagnostic::warning(span, message).hint("make it, for the user who will serve"));
    }
    found
}
