//! What the process takes from itself once all is bound and before anything is accepted: what gets hold of it later can do little else
//! than a proxy does.
//!
//! Each step is reported. What the kernel lacks is a warning and no reason not to serve: a proxy that stays down protects nobody.

mod calls;
mod places;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::fs::access;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, geteuid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

pub(super) use self::places::Places;

/// The newest rights of Landlock that are understood here; a kernel that knows fewer enforces those.
const KNOWN: ABI = ABI::V5;

/// What the process may still open.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    /// `None`: whatever its user may.
    readable: Option<Vec<PathBuf>>,
    /// Likewise, for folders of certificates that are obtained.
    growing: Option<Vec<PathBuf>>,
}

impl Sandbox {
    /// Takes the rights away, for good. Threads that start from here on have none of them either.
    pub(super) fn enter(settings: crate::config::Hardening, places: Places) -> Self {
        no_core_dumps();
        let privileges = if let Err(error) = set_no_new_privs(true) {
            log::warn!("hardening: programs could still raise rights (no_new_privs) error={error}");
            "kept"
        } else {
            "none to gain"
        };
        let capabilities = dropped_capabilities();
        tell_of_unreadable(&places.files);
        let growing = places.growing();
        let (landlock, readable) = if settings.landlock { landlock(places) } else { (Outcome::Off, None) };
        let seccomp = if settings.seccomp { seccomp() } else { Outcome::Off };
        log::info!("hardening privileges={privileges:?} capabilities={capabilities} landlock={landlock} seccomp={seccomp}");
        Self { growing: readable.as_ref().map(|_| growing), readable }
    }

    /// Whether certificates may be kept in this folder.
    pub(super) fn lets_write(&self, folder: &Path) -> bool {
        self.growing.as_ref().is_none_or(|growing| growing.iter().any(|root| leads(folder).starts_with(root)))
    }

    /// Which of these files lie where the process may not read.
    pub(super) fn outside<'a>(&self, files: &'a [PathBuf]) -> Vec<&'a Path> {
        let Some(readable) = &self.readable else { return Vec::new() };
        let inside = |file: &&PathBuf| readable.iter().any(|root| leads(file).starts_with(root));
        files.iter().filter(|file| !inside(file)).map(PathBuf::as_path).collect()
    }
}

/// Where the way is a link, what counts is where it leads.
fn leads(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| places::absolute(file))
}

enum Outcome {
    Off,
    Enforced,
    Partly,
    Missing,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Enforced => "enforced",
            Self::Partly => "partly",
            Self::Missing => "missing",
        })
    }
}

/// Memory holds tokens, keys and what clients send. `PR_SET_DUMPABLE` stays: it would close `/proc/self/fd` to the process itself, whose
/// metrics count it; the kernel clears it anyway when `user` is another.
fn no_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        log::warn!("hardening: memory could be dumped to a file (RLIMIT_CORE) error={error}");
    }
}

fn dropped_capabilities() -> &'static str {
    let empty = CapabilitySet::empty();
    // There may be no ambient ones to clear.
    let _ = clear_ambient_capability_set();
    match set_capabilities(None, CapabilitySets { effective: empty, permitted: empty, inheritable: empty }) {
        Ok(()) if capabilities(None).is_ok_and(|left| left.effective.is_empty() && left.permitted.is_empty()) => "none",
        Ok(()) => "some",
        Err(error) => {
            log::warn!("hardening: capabilities can't be given up error={error}");
            "kept"
        }
    }
}

/// Names the files of the configuration that have been read and could not be read again: as the user that the process has become, and without
/// root's right to read what is others'.
fn tell_of_unreadable(files: &[PathBuf]) {
    for file in files {
        if access(file, rustix::fs::Access::READ_OK) == Err(Errno::ACCESS) {
            log::warn!(
                "a file of the configuration can't be read by this process, as what it is now: a reload would be refused path={} uid={}",
                file.display(),
                geteuid().as_raw(),
            );
        }
    }
}

fn landlock(places: Places) -> (Outcome, Option<Vec<PathBuf>>) {
    match restrict(&places) {
        Ok(RulesetStatus::NotEnforced) => {
            log::warn!(
                "hardening: this kernel has no Landlock, so every file that the user may open stays open (`hardening: {{landlock: false}}` \
                 says that this is known)"
            );
            (Outcome::Missing, None)
        }
        Ok(RulesetStatus::PartiallyEnforced) => (Outcome::Partly, Some(places.readable())),
        Ok(RulesetStatus::FullyEnforced) => (Outcome::Enforced, Some(places.readable())),
        Err(error) => {
            log::warn!("hardening: Landlock can't be used error={error}");
            (Outcome::Missing, None)
        }
    }
}

fn restrict(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let file = AccessFs::from_file(KNOWN);
    let look = AccessFs::ReadFile | AccessFs::ReadDir;
    let keep = look | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    let rules: [(&Vec<PathBuf>, BitFlags<AccessFs>); 7] = [
        (&places.read, look),
        (&places.log, AccessFs::WriteFile | AccessFs::MakeReg),
        (&places.write, AccessFs::WriteFile.into()),
        (&places.clear, AccessFs::RemoveFile.into()),
        (&places.own, AccessFs::ReadDir | AccessFs::RemoveFile | AccessFs::MakeReg),
        (&places.grow, keep | AccessFs::MakeDir),
        (&places.tidy, AccessFs::RemoveDir.into()),
    ];
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.create()?;
    for (paths, access) in rules {
        for path in paths {
            // What is not there can't be opened now, nor later unless it lies in a folder that may be.
            let Ok(place) = PathFd::new(path) else { continue };
            let access = if path.is_dir() { access } else { access & file };
            if !access.is_empty() {
                ruleset = ruleset.add_rule(PathBeneath::new(place, access))?;
            }
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

fn seccomp() -> Outcome {
    let applied = calls::filter()
        .and_then(|filter| seccompiler::apply_filter_all_threads(&filter).map_err(|error| io::Error::other(error.to_string())));
    match applied {
        Ok(()) => Outcome::Enforced,
        Err(error) => {
            log::warn!("hardening: seccomp can't be used error={error}");
            Outcome::Missing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let sandbox = Sandbox { readable: Some(vec![root.join("in")]), growing: Some(vec![root.join("in")]) };
        let files = [root.join("in/a.yaml"), root.join("out.yaml"), root.join("in/../out.yaml")];
        std::fs::create_dir(root.join("in")).unwrap();
        std::fs::write(root.join("out.yaml"), "").unwrap();
        assert_eq!(sandbox.outside(&files), [&files[1], &files[2]]);
        assert!(sandbox.lets_write(&root.join("in/new")) && !sandbox.lets_write(&root));
        assert!(Sandbox::default().outside(&files).is_empty() && Sandbox::default().lets_write(&root));
    }
}
