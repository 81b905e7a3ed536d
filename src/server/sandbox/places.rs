//! Which files and folders a process needs: those of its configuration, and what the system's library reads.

use std::path::{Component, Path, PathBuf};

use crate::config::LogOutput;
use crate::runtime::BootPlan;
use crate::types::ListenAddress;

/// What the library reads to look names up, and what shows the process to itself and its metrics. None of it is secret.
const SYSTEM: &[&str] = &[
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/lib",
    "/lib64",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self",
    "/proc/stat",
    "/proc/sys/kernel/random",
    "/proc/sys/net/core",
    "/proc/sys/vm/overcommit_memory",
    "/run/nscd",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
];

/// Folders that hold so much else that only a file in them is meant.
const SHARED: &[&str] =
    &["/", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/usr", "/var", "/var/run", "/var/tmp"];

/// What stays open to the process.
#[derive(Debug, Default)]
pub(in crate::server) struct Places {
    /// The files of the configuration.
    pub(super) files: Vec<PathBuf>,
    pub(super) read: Vec<PathBuf>,
    /// Folders in which a log is made and written to. Its next file is another one of the same name, and a right to write to that can only be
    /// one to its folder.
    pub(super) log: Vec<PathBuf>,
    /// What is written to and stays what it is: a terminal, a pipe.
    pub(super) write: Vec<PathBuf>,
    /// Folders from which files of the process are removed.
    pub(super) clear: Vec<PathBuf>,
    /// Folders of the process's own files: they are looked at, to be removed when they are empty, and a file of the process before this one is put
    /// back in them.
    pub(super) own: Vec<PathBuf>,
    /// Folders below which folders are made, too.
    pub(super) grow: Vec<PathBuf>,
    /// Folders from which an empty folder may be removed.
    pub(super) tidy: Vec<PathBuf>,
}

impl Places {
    /// Of this plan and these files. `names`: endpoints are looked up by name.
    pub(in crate::server) fn of(boot: &BootPlan, files: &[PathBuf], names: bool) -> Self {
        let mut places = Self { read: SYSTEM.iter().map(PathBuf::from).collect(), ..Self::default() };
        if names {
            // `resolv.conf` and `hosts` are replaced, not written: a right to the file would be one to what it was.
            places.read.push("/etc".into());
        }
        if let Ok(program) = std::env::current_exe() {
            // A backtrace names what it finds in there.
            places.read.push(program);
        }
        for file in files.iter().map(PathBuf::as_path).chain(boot.pingora.ca_file.as_deref().map(Path::new)) {
            places.read_with_neighbours(file);
            places.files.push(absolute(file));
        }
        if let Some(LogOutput::File(path)) = boot.access_log.as_ref().map(|log| &log.output) {
            places.log_to(&path.value);
        }
        for path in [&boot.pingora.pid_file, &boot.pingora.upgrade_sock].map(Path::new) {
            places.own.extend(folder_of(path));
            // The process's own folder goes with the process.
            places.tidy.extend(absolute(path).parent().and_then(Path::parent).map(Path::to_owned));
        }
        let sockets =
            boot.listeners.iter().map(|listener| &listener.address).chain(boot.admin.as_ref().map(|admin| &admin.address));
        for address in sockets {
            if let ListenAddress::Unix(path) = address {
                places.clear.extend(folder_of(path));
            }
        }
        places
    }

    /// And these sockets, which will be removed.
    pub(in crate::server) fn with_sockets(mut self, sockets: impl Iterator<Item = PathBuf>) -> Self {
        self.clear.extend(sockets.filter_map(|socket| folder_of(&socket)));
        self
    }

    /// And these folders, in which certificates are kept.
    pub(in crate::server) fn with_storage<'a>(mut self, folders: impl Iterator<Item = &'a Path>) -> Self {
        self.grow.extend(folders.map(absolute));
        self
    }

    /// A file and what is beside it: files are replaced by others of their name, and named by globs.
    fn read_with_neighbours(&mut self, file: &Path) {
        let file = absolute(file);
        // What a link leads to may change, and lies elsewhere.
        for file in [file.canonicalize().ok(), Some(file)].into_iter().flatten() {
            match file.parent() {
                Some(folder) if !is_shared(folder) => self.read.push(folder.to_owned()),
                _ => self.read.push(file),
            }
        }
    }

    fn log_to(&mut self, file: &Path) {
        match file.metadata() {
            Ok(found) if !found.is_file() => self.write.push(absolute(file)),
            _ => self.log.extend(folder_of(file)),
        }
    }

    /// Where folders may be made and written to, links followed.
    pub(super) fn growing(&self) -> Vec<PathBuf> {
        self.grow.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect()
    }

    /// Where files may be read, links followed.
    pub(super) fn readable(&self) -> Vec<PathBuf> {
        self.read.iter().chain(&self.grow).map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect()
    }
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    absolute(file).parent().map(Path::to_owned)
}

fn is_shared(folder: &Path) -> bool {
    SHARED.iter().any(|shared| folder == Path::new(shared))
}

/// From the root, and without dots; links are not followed.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_brings_its_folder_unless_others_share_it() {
        let mut places = Places::default();
        places.read_with_neighbours(Path::new("/no/such/ravelin.yaml"));
        places.read_with_neighbours(Path::new("/no/such/../file.yaml"));
        places.read_with_neighbours(Path::new("/etc/no-such.yaml"));
        assert_eq!(places.read, ["/no/such", "/no", "/etc/no-such.yaml"].map(PathBuf::from));
    }
}
