//! Lower bounds that a value's own type does not have, for `deserialize_with`.

use serde::de::{Deserialize, Deserializer, Error};

use crate::types::{ByteRate, ByteSize, Count, Duration, Limit};

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

/// A key that is left out or says something: without a value it would seem to, and not do so.
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A duration above zero, of a key that may be left out.
pub(crate) fn positive_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    positive_duration(deserializer).map(Some)
}

/// Pingora reads no larger head, and no more fields.
const MAX_HEAD: u64 = 1 << 20;
const MAX_HEADERS: u32 = 256;

/// A size of a head above zero, and not above what Pingora reads.
pub(crate) fn head_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    let size = ByteSize::deserialize(deserializer)?;
    match size.get() {
        0 => Err(D::Error::custom("a size of zero would refuse every request")),
        1..=MAX_HEAD => Ok(Some(size)),
        _ => Err(D::Error::custom("the size must be at most 1MiB")),
    }
}

/// `none`, or a size of a body above zero.
pub(crate) fn body_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<ByteSize>>, D::Error> {
    let limit = Limit::<ByteSize>::deserialize(deserializer)?;
    match limit.get() {
        Some(size) if size.get() == 0 => {
            Err(D::Error::custom("a size of zero would refuse every body: for no limit, write `none`"))
        }
        _ => Ok(Some(limit)),
    }
}

/// `none`, or a rate above zero.
pub(crate) fn body_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<ByteRate>>, D::Error> {
    let limit = Limit::<ByteRate>::deserialize(deserializer)?;
    match limit.get() {
        Some(rate) if rate.get() == 0 => Err(D::Error::custom("a rate of zero limits nothing: for no limit, write `none`")),
        _ => Ok(Some(limit)),
    }
}

/// A number of header fields that Pingora can read.
pub(crate) fn head_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Count>, D::Error> {
    let count = Count::deserialize(deserializer)?;
    if count.get() > MAX_HEADERS { Err(D::Error::custom("the number must be at most 256")) } else { Ok(Some(count)) }
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
