//! The built-in filters: one file each, settings, behaviour and tests. None has a privilege over a user's filter.

mod headers;
mod request_id;
mod rewrite;

pub use self::headers::{Headers, HeadersConfig};
pub use self::request_id::{RequestIdConfig, RequestIdFilter};
pub use self::rewrite::{Rewrite, RewriteConfig};

use crate::filter::{DuplicateFilter, Registry};

/// Adds every built-in filter.
///
/// # Errors
/// One of their names is taken.
pub fn register(registry: &mut Registry) -> Result<(), DuplicateFilter> {
    registry.register::<Headers>()?;
    registry.register::<RequestIdFilter>()?;
    registry.register::<Rewrite>()
}
