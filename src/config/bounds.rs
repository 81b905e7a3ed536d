//! Lower bounds that a value's own type does not have, for `deserialize_with`.

use serde::de::{Deserialize, Deserializer, Error};

use crate::types::{Duration, Limit};

/// A duration above zero.
pub(crate) fn positive_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = Duration::deserialize(deserializer)?;
    if duration.is_zero() { Err(D::Error::custom("the time must be above zero")) } else { Ok(duration) }
}

/// `none`, or a duration above zero.
pub(crate) fn positive_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limit<Duration>, D::Error> {
    let limit = Limit::<Duration>::deserialize(deserializer)?;
    match limit.get() {
        Some(duration) if duration.is_zero() => {
            Err(D::Error::custom("a limit of zero would fail every request: for no limit, write `none`"))
        }
        _ => Ok(limit),
    }
}

/// A number of times, at least one.
pub(crate) fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("the number must be at least 1")),
        number => Ok(number),
    }
}

/// A list that says something. An empty one could be read as "all" as well as "none".
pub(crate) fn not_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::<T>::deserialize(deserializer)?;
    if list.is_empty() {
        Err(D::Error::custom("an empty list matches nothing: leave the key out to match everything"))
    } else {
        Ok(list)
    }
}
