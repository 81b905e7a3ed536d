//! What the process asks of the system: descriptors at start, then no more rights than it needs.

use std::io;
use std::os::unix::fs::lchown;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, initgroups, setgid, setgroups, setuid};
use pingora_core::server::configuration::ServerConf;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of descriptors that may be open to what the system allows, and says how many that is.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => log::info!("descriptors limit={} before={}", shown(limit.maximum), shown(limit.current)),
        Err(error) => log::warn!("the limit of descriptors can't be raised limit={} error={error}", shown(limit.current)),
    }
}

/// Why the process can't become the user that is configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// The system doesn't know the name.
    #[error("`user: {0}`: there is no such user")]
    NoUser(String),
    /// The system doesn't know the name.
    #[error("`group: {0}`: there is no such group")]
    NoGroup(String),
    /// Only root can become another.
    #[error("can't become user `{user}`: {reason}")]
    Refused {
        /// As configured.
        user: String,
        /// What the system says.
        reason: io::Error,
    },
}

/// The user that the process will become.
pub(super) fn future_user(conf: &ServerConf) -> Result<Option<u32>, PrivilegeError> {
    Ok(conf.user.as_ref().map(|name| find_user(name)).transpose()?.map(|user| user.uid.as_raw()))
}

/// Whose the files of a process become that will be another user: those that it can't remove otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heir {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Heir {
    /// Of this process, if it is root: nobody else can give files away, nor become another.
    pub(super) fn of(conf: &ServerConf) -> Result<Self, PrivilegeError> {
        if !Uid::effective().is_root() {
            return Ok(Self::default());
        }
        let (user, group) = future(conf)?;
        Ok(Self { uid: user.map(|user| user.uid.as_raw()), gid: group.map(Gid::as_raw) })
    }

    /// Gives it this file or folder; a link is not followed.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        if self == Self::default() { Ok(()) } else { lchown(path, self.uid, self.gid) }
    }
}

/// Becomes `user` and `group`, once sockets are bound and before any thread starts.
pub(super) fn drop_privileges(conf: &ServerConf) -> Result<(), PrivilegeError> {
    if conf.user.is_none() && conf.group.is_none() {
        return Ok(());
    }
    let (user, group) = future(conf)?;
    // Already who it should be: a supervisor may have seen to that, without the right to change groups.
    let is_user = user.as_ref().is_none_or(|user| user.uid == Uid::effective());
    if is_user && group.is_none_or(|group| group == Gid::effective()) {
        return Ok(());
    }
    let refused = |reason: nix::Error| PrivilegeError::Refused {
        user: conf.user.clone().or_else(|| conf.group.clone()).unwrap_or_default(),
        reason: reason.into(),
    };
    if let Some(group) = group {
        match user.as_ref().and_then(|user| std::ffi::CString::new(user.name.as_str()).ok()) {
            Some(name) => initgroups(&name, group).map_err(refused)?,
            None => setgroups(&[group]).map_err(refused)?,
        }
        setgid(group).map_err(refused)?;
    }
    if let Some(user) = &user {
        setuid(user.uid).map_err(refused)?;
    }
    log::info!("privileges dropped uid={} gid={}", Uid::effective(), Gid::effective());
    Ok(())
}

fn future(conf: &ServerConf) -> Result<(Option<User>, Option<Gid>), PrivilegeError> {
    let user = conf.user.as_ref().map(|name| find_user(name)).transpose()?;
    let group = conf.group.as_ref().map(|name| find_group(name)).transpose()?;
    let group = group.or_else(|| user.as_ref().map(|user| user.gid));
    Ok((user, group))
}

/// Looks a user up, by name or number.
pub(crate) fn find_user(name: &str) -> Result<User, PrivilegeError> {
    let found = match name.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(name),
    };
    found.ok().flatten().ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))
}

/// Looks a group up, by name or number.
pub(crate) fn find_group(name: &str) -> Result<Gid, PrivilegeError> {
    let found = match name.parse() {
        Ok(id) => Group::from_gid(Gid::from_raw(id)),
        Err(_) => Group::from_name(name),
    };
    found.ok().flatten().map(|group| group.gid).ok_or_else(|| PrivilegeError::NoGroup(name.to_owned()))
}
