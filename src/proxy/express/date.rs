//! `Date` (RFC 9110 §6.6.1), made anew once a second by each thread: a look at a time that is known already tells whether it is due.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::table::Line;

const NAME: &str = "Date";

struct Date {
    line: String,
    /// Until when it is right. `None`: there is none yet.
    until: Option<Instant>,
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { line: String::new(), until: None }) };
}

/// Shows the field as it is at `now`.
pub(super) fn with<T>(now: Instant, show: impl FnOnce(Line<'_>) -> T) -> T {
    DATE.with_borrow_mut(|date| {
        if date.until.is_none_or(|until| now >= until) {
            let time = SystemTime::now();
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            date.line = format!("{NAME}: {}\r\n", httpdate::fmt_http_date(time));
            date.until =
                now.checked_add(Duration::from_secs(1).saturating_sub(Duration::from_nanos(since.subsec_nanos().into())));
        }
        show(Line { text: date.line.as_bytes(), name: NAME.len() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(now: Instant) -> SystemTime {
        with(now, |line| {
            let text = std::str::from_utf8(line.text).unwrap();
            let date = text.strip_prefix("Date: ").and_then(|rest| rest.strip_suffix("\r\n"));
            httpdate::parse_http_date(date.unwrap()).unwrap()
        })
    }

    #[test]
    fn it_is_that_of_the_second() {
        let now = Instant::now();
        let first = shown(now);
        assert_eq!(shown(now), first);
        let since = SystemTime::now().duration_since(first).unwrap();
        assert!(since < Duration::from_secs(3), "{since:?}");
        let until = DATE.with_borrow(|date| date.until.unwrap());
        assert!(until > now && until <= now + Duration::from_secs(1));
        DATE.with_borrow_mut(|date| date.line.clear());
        assert!(shown(until) >= first);
    }
}
