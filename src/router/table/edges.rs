//! What leads from a node of the tables and a text to what is below: a hash table whose entries are lines of the processor's cache, with
//! the text in them. So a lookup among very many is one place in memory that must be fetched, and not one for each step of it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};

use super::Place;

/// How much of a text fits beside what else there is on a line. Longer ones are kept apart.
const INLINE: usize = 48;
/// The length of no text.
const VACANT: u8 = u8::MAX;
/// With more than five eighths in use, neighbours get long.
const USED: usize = 5;
const OF: usize = 8;

/// Edges, by the node from which they lead and their text.
#[derive(Default)]
pub(super) struct Edges {
    hasher: DefaultHashBuilder,
    /// A power of two of them, or none.
    slots: Vec<Slot>,
    used: usize,
    long: HashMap<LongKey, Place>,
}

#[derive(Clone)]
#[repr(align(64))]
struct Slot {
    parent: u32,
    place: Place,
    /// Of the hash, beside what its place in the table says.
    tag: u16,
    length: u8,
    text: [u8; INLINE],
}

impl Slot {
    const VACANT: Self = Self { parent: 0, place: Place::Node(0), tag: 0, length: VACANT, text: [0; INLINE] };

    fn holds(&self, parent: u32, tag: u16, text: &[u8]) -> bool {
        self.tag == tag && self.parent == parent && self.text() == Some(text)
    }

    fn text(&self) -> Option<&[u8]> {
        self.text.get(..usize::from(self.length))
    }
}

#[derive(PartialEq, Eq, Hash)]
struct LongKey {
    parent: u32,
    text: Box<str>,
}

/// A [`LongKey`] to look up.
#[derive(Hash)]
struct LongKeyRef<'a> {
    parent: u32,
    text: &'a str,
}

impl Equivalent<LongKey> for LongKeyRef<'_> {
    fn equivalent(&self, key: &LongKey) -> bool {
        self.parent == key.parent && *self.text == *key.text
    }
}

impl Edges {
    /// Where the edge leads.
    #[inline]
    pub(super) fn get(&self, parent: u32, text: &str) -> Option<Place> {
        if text.len() > INLINE {
            return self.long.get(&LongKeyRef { parent, text }).copied();
        }
        let (mut at, tag) = self.hash(parent, text.as_bytes());
        loop {
            let slot = self.slots.get(at)?;
            if slot.holds(parent, tag, text.as_bytes()) {
                return Some(slot.place);
            }
            if slot.length == VACANT {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Makes an edge, or has it lead elsewhere.
    pub(super) fn set(&mut self, parent: u32, text: &str, place: Place) {
        if text.len() > INLINE {
            self.long.insert(LongKey { parent, text: text.into() }, place);
            return;
        }
        if self.used * OF >= self.slots.len() * USED {
            self.grow();
        }
        let (at, tag) = self.find(parent, text.as_bytes());
        let Some(slot) = self.slots.get_mut(at) else { return };
        if slot.length == VACANT {
            self.used += 1;
            let mut inline = [0; INLINE];
            inline[..text.len()].copy_from_slice(text.as_bytes());
            // It is no longer than that, which a byte holds.
            *slot = Slot { parent, place, tag, length: u8::try_from(text.len()).unwrap_or(VACANT), text: inline };
        } else {
            slot.place = place;
        }
    }

    /// The slot of an edge: where it is, or would be. There is always a vacant one.
    fn find(&self, parent: u32, text: &[u8]) -> (usize, u16) {
        let (mut at, tag) = self.hash(parent, text);
        while self.slots.get(at).is_some_and(|slot| slot.length != VACANT && !slot.holds(parent, tag, text)) {
            at = self.after(at);
        }
        (at, tag)
    }

    fn grow(&mut self) {
        let before = std::mem::take(&mut self.slots);
        self.slots = vec![Slot::VACANT; (before.len() * 2).max(8)];
        for slot in before {
            let Some(text) = slot.text() else { continue };
            let (at, _) = self.find(slot.parent, text);
            if let Some(place) = self.slots.get_mut(at) {
                *place = slot;
            }
        }
    }

    /// Where to look first, and the tag.
    #[inline]
    fn hash(&self, parent: u32, text: &[u8]) -> (usize, u16) {
        let hash = self.hasher.hash_one((parent, text));
        let low = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default();
        (low & self.slots.len().wrapping_sub(1), (hash >> 48) as u16)
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Plain;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_edge_is_one_line() {
        assert_eq!(std::mem::size_of::<Slot>(), 64);
    }

    #[test]
    fn nothing_leads_anywhere_at_first() {
        let edges = Edges::default();
        assert!(edges.get(0, "").is_none() && edges.get(7, "a").is_none() && edges.get(0, &"a".repeat(99)).is_none());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_map(
            made in proptest::collection::vec((0..4u32, "[ab]{0,3}|[ab]{46,50}", 0..99u32), 0..200),
            asked in proptest::collection::vec((0..4u32, "[ab]{0,3}|[ab]{46,50}"), 0..50),
        ) {
            let (mut edges, mut plain) = (Edges::default(), Plain::new());
            for (parent, text, node) in &made {
                edges.set(*parent, text, Place::Node(*node));
                plain.insert((*parent, text.clone()), *node);
            }
            let all = made.iter().map(|(parent, text, _)| (parent, text)).chain(asked.iter().map(|(parent, text)| (parent, text)));
            for (parent, text) in all {
                let expected = plain.get(&(*parent, text.clone())).map(|node| Place::Node(*node));
                prop_assert_eq!(edges.get(*parent, text), expected);
            }
        }
    }
}
