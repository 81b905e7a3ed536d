//! Memory that the exchanges of a thread hand on to one another, so that none of them asks the allocator for what the one before it has
//! just given back. One that waits for its next request holds none of it.

use std::cell::RefCell;

use super::table::Row;

/// So many of a kind wait for the next exchange at most.
const MOST: usize = 64;
/// A text that has grown beyond this is given back to the system.
const KEPT: usize = 16 * 1024;
/// As many fields as nearly all heads have, those that are added included.
const FIELDS: usize = 64;

thread_local! {
    static TEXTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static ROWS: RefCell<Vec<Vec<Row>>> = const { RefCell::new(Vec::new()) };
}

/// An empty text with room for so much.
pub(super) fn text(room: usize) -> Vec<u8> {
    let mut text = TEXTS.try_with(|texts| texts.borrow_mut().pop()).ok().flatten().unwrap_or_default();
    text.reserve(room);
    text
}

/// Takes a text back, whatever is in it.
pub(super) fn give_text(mut text: Vec<u8>) {
    if (1..=KEPT).contains(&text.capacity()) {
        text.clear();
        // A thread that ends keeps nothing.
        let _ = TEXTS.try_with(|texts| keep(&mut texts.borrow_mut(), text));
    }
}

/// An empty list of fields.
pub(super) fn rows() -> Vec<Row> {
    let rows = ROWS.try_with(|rows| rows.borrow_mut().pop()).ok().flatten();
    rows.unwrap_or_else(|| Vec::with_capacity(FIELDS))
}

/// Takes a list back, whatever is in it.
pub(super) fn give_rows(mut rows: Vec<Row>) {
    if (FIELDS..=4 * FIELDS).contains(&rows.capacity()) {
        rows.clear();
        let _ = ROWS.try_with(|kept| keep(&mut kept.borrow_mut(), rows));
    }
}

fn keep<T>(kept: &mut Vec<T>, one: T) {
    if kept.len() < MOST {
        kept.push(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_taken_again() {
        let mut first = text(100);
        first.extend_from_slice(b"old");
        let place = first.as_ptr();
        give_text(first);
        let again = text(10);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        give_text(Vec::with_capacity(KEPT + 1));
        assert!(text(0).capacity() <= KEPT);
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        for _ in 0..MOST + 10 {
            TEXTS.with_borrow_mut(|texts| keep(texts, vec![1]));
            ROWS.with_borrow_mut(|rows| keep(rows, Vec::with_capacity(FIELDS)));
        }
        assert_eq!(TEXTS.with_borrow(Vec::len), MOST);
        assert_eq!(ROWS.with_borrow(Vec::len), MOST);
    }
}
