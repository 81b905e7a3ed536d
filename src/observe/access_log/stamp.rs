//! The time in lines: UTC, and made anew only when a second has passed.

use std::fmt::{self, Display};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::digits::{Line, thousandths};

/// The last second that was written, in words.
pub(super) struct Stamp {
    second: Option<u64>,
    rfc3339: String,
    common: String,
}

/// A time in words.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    stamp: &'a Stamp,
    millis: u32,
}

impl Stamp {
    pub(super) const fn new() -> Self {
        Self { second: None, rfc3339: String::new(), common: String::new() }
    }

    /// This time in words; one before 1970 is taken for its beginning.
    pub(super) fn at(&mut self, time: SystemTime) -> Moment<'_> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if self.second != Some(second) {
            let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
            let time = time.unwrap_or(Timestamp::UNIX_EPOCH);
            *self = Self {
                second: Some(second),
                rfc3339: time.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
                common: time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            };
        }
        Moment { stamp: self, millis: since.subsec_millis() }
    }
}

impl Moment<'_> {
    /// `02/Jan/2026:03:04:05 +0000`, as in the Common Log Format.
    pub(super) fn common(&self) -> &str {
        &self.stamp.common
    }

    /// As it is displayed.
    pub(super) fn rfc3339(&self, out: &mut impl Line) {
        out.ascii(self.stamp.rfc3339.as_bytes());
        out.ascii(b".");
        thousandths(self.millis.into(), out);
        out.ascii(b"Z");
    }
}

/// `2026-01-02T03:04:05.678Z` (RFC 3339).
impl Display for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}Z", self.stamp.rfc3339, self.millis)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_forms() {
        let mut stamp = Stamp::new();
        let mut shown = |millis: u64| {
            let moment = stamp.at(UNIX_EPOCH + Duration::from_millis(millis));
            let mut written = String::new();
            moment.rfc3339(&mut written);
            assert_eq!(written, moment.to_string());
            (written, moment.common().to_owned())
        };
        assert_eq!(shown(0), ("1970-01-01T00:00:00.000Z".to_owned(), "01/Jan/1970:00:00:00 +0000".to_owned()));
        let leap = ("2024-02-29T23:59:59.007Z".to_owned(), "29/Feb/2024:23:59:59 +0000".to_owned());
        assert_eq!(shown(1_709_251_199_007), leap);
        assert_eq!(shown(1_709_251_200_999).0, "2024-03-01T00:00:00.999Z");
        assert_eq!(shown(1_709_251_199_007), leap);
    }
}
