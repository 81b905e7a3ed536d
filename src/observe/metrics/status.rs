//! Which statuses have a number of their own.
//!
//! A label value costs a time series for each route and upstream, and it is an endpoint who says the status: what is counted by
//! its own code is what IANA has registered, all else by its class. `code=~"5.."` finds both, so there is no label for the class.

/// The registered codes (RFC 9110 §15 and the registry), 1xx without 101 apart: those are no final answers.
const CODES: [u16; 59] = [
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 405,
    406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 500, 501,
    502, 503, 504, 505, 506, 507, 508, 510, 511,
];
/// What is counted together.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// How many numbers it takes to count by status.
pub(super) const SLOTS: usize = CODES.len() + CLASSES.len();

/// From a code (less 100) to its place.
static PLACES: [u8; 500] = places();

#[expect(clippy::cast_possible_truncation, reason = "there are fewer than 256 places, and no conversion that may be constant")]
const fn places() -> [u8; 500] {
    let mut places = [0; 500];
    let mut code = 0;
    while code < places.len() {
        places[code] = (CODES.len() + code / 100) as u8;
        code += 1;
    }
    let mut at = 0;
    while at < CODES.len() {
        places[CODES[at] as usize - 100] = at as u8;
        at += 1;
    }
    places
}

/// The place of a status among the slots. `None` is a request to which nothing was sent.
pub(super) fn slot(status: Option<u16>) -> usize {
    match status.map(|status| usize::from(status).wrapping_sub(100)) {
        Some(code) if code < PLACES.len() => usize::from(PLACES[code]),
        _ => SLOTS - 1,
    }
}

/// The label value of a slot.
pub(super) fn label(slot: usize) -> String {
    match CODES.get(slot) {
        Some(code) => code.to_string(),
        None => CLASSES[slot - CODES.len()].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_codes_are_themselves_and_others_their_class() {
        for code in CODES {
            assert_eq!(label(slot(Some(code))), code.to_string());
        }
        for (code, class) in [(100, "1xx"), (299, "2xx"), (399, "3xx"), (444, "4xx"), (599, "5xx")] {
            assert_eq!(label(slot(Some(code))), class);
        }
        for none in [None, Some(0), Some(99), Some(600), Some(u16::MAX)] {
            assert_eq!(label(slot(none)), "none");
        }
    }

    #[test]
    fn no_two_slots_share_a_label() {
        let labels: std::collections::BTreeSet<String> = (0..SLOTS).map(label).collect();
        assert_eq!(labels.len(), SLOTS);
    }
}
