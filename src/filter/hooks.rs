//! The set of hooks that a filter has.

use std::ops::BitOr;

/// A set of hooks. Join with `|`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// No hook.
    pub const NONE: Self = Self(0);
    /// [`Filter::request`](crate::filter::Filter::request).
    pub const REQUEST: Self = Self(1);
    /// [`Filter::request_body`](crate::filter::Filter::request_body).
    pub const REQUEST_BODY: Self = Self(1 << 1);
    /// [`Filter::upstream_request`](crate::filter::Filter::upstream_request).
    pub const UPSTREAM_REQUEST: Self = Self(1 << 2);
    /// [`Filter::response`](crate::filter::Filter::response).
    pub const RESPONSE: Self = Self(1 << 3);
    /// [`Filter::response_body`](crate::filter::Filter::response_body).
    pub const RESPONSE_BODY: Self = Self(1 << 4);
    /// [`Filter::response_trailers`](crate::filter::Filter::response_trailers).
    pub const RESPONSE_TRAILERS: Self = Self(1 << 5);
    /// [`Filter::log`](crate::filter::Filter::log).
    pub const LOG: Self = Self(1 << 6);
    /// Not a hook: its [`Filter::request`](crate::filter::Filter::request) asks for Pingora's
    /// [session](crate::filter::RequestCx::session), which there is on the general way only. Without it, it is given none.
    pub const SESSION: Self = Self(1 << 7);
    /// Every hook, and the session.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Hooks {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
