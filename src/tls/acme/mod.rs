//! Certificates that are obtained and renewed by themselves (RFC 8555).
//!
//! A [`Client`] sees to one certificate for the names of a section. It outlives configurations that keep the section as it is, so that a
//! reload disturbs no order in progress; listeners with the same section share it. Decisions are pure: when the next order is due
//! (`schedule`), and what a failure means (`failure`). What is kept is on disk (`storage`), whole at any moment. The protocol is
//! instant-acme's; what goes over the wire for it is bounded by `wire`.

mod challenge;
mod client;
mod failure;
mod order;
mod schedule;
mod storage;
mod wire;

pub(crate) use self::challenge::Tokens;
pub(crate) use self::client::Client;
