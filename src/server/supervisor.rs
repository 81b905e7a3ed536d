//! What systemd is told of the process (`sd_notify(3)`, for units of `Type=notify` or `notify-reload`). Without `NOTIFY_SOCKET` in the
//! environment, nothing is said.

use sd_notify::NotifyState;

/// It serves. `main`: it is not the process that the supervisor started, but the service is this one now.
pub(super) fn ready(main: bool) {
    if main {
        say(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    } else {
        say(&[NotifyState::Ready]);
    }
}

/// It reads its configuration anew; [`ready`] follows, whatever comes of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("no time to tell the supervisor error={error}"),
    }
}

/// It stops, and nothing takes its place.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("the supervisor can't be told error={error}");
    }
}
