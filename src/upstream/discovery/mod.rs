//! Endpoints that are not in the file: the answers of a resolver, or a list in a file of its own.
//!
//! Whoever is asked may be down, wrong, or lie. What was good last stays in use until something better is known.

mod dns;
mod file;
mod found;

pub(super) use self::dns::Dns;
pub(super) use self::file::List;

/// As many endpoints as an upstream has at most, whatever a resolver says.
pub(super) const MAX: usize = 1024;
