//! Counts by constant words, such as a failure's party and reason: what is counted is not known beforehand, but the words are
//! of the program and so few.

use std::sync::OnceLock;

use super::cells::Count;

/// A table that only grows, and is read and changed without a lock.
pub(super) struct Words {
    places: Box<[Place]>,
    others: Count,
}

/// Two words; the second may be empty.
type Key = (&'static str, &'static str);

#[derive(Default)]
struct Place {
    key: OnceLock<Key>,
    count: Count,
}

impl Words {
    /// Should there ever be more words than `places`, the rest is counted as `other`.
    pub(super) fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| Place::default()).collect(), others: Count::default() }
    }

    pub(super) fn add(&self, key: Key) {
        self.count(key).add(1);
    }

    /// All that was counted, in the order of the words.
    pub(super) fn all(&self) -> Vec<(Key, u64)> {
        let counted = self.places.iter().filter_map(|place| place.key.get().map(|key| (*key, place.count.get())));
        let mut all: Vec<(Key, u64)> = counted.collect();
        all.sort_unstable();
        if self.others.get() > 0 {
            all.push((("other", "other"), self.others.get()));
        }
        all
    }

    fn count(&self, key: Key) -> &Count {
        let start = hash(key);
        for step in 0..self.places.len() {
            let place = &self.places[start.wrapping_add(step) % self.places.len()];
            // Who comes second to an empty place finds what the first put there.
            if *place.key.get_or_init(|| key) == key {
                return &place.count;
            }
        }
        &self.others
    }
}

/// FNV-1a.
fn hash((first, second): Key) -> usize {
    let bytes = first.bytes().chain([0]).chain(second.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The upper half is the better mixed one.
    (hash >> 40) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_are_one_wherever_they_stand_in_memory() {
        let words = Words::new(8);
        let elsewhere: &'static str = Box::leak("client".to_owned().into_boxed_str());
        words.add(("client", "gone"));
        words.add((elsewhere, "gone"));
        words.add(("client", ""));
        assert_eq!(words.all(), [(("client", ""), 1), (("client", "gone"), 2)]);
    }

    #[test]
    fn too_many_words_are_counted_together() {
        let words = Words::new(8);
        for number in 0..10 {
            words.add((Box::leak(number.to_string().into_boxed_str()), ""));
        }
        assert_eq!(words.all().len(), 9);
        assert_eq!(words.all().last(), Some(&(("other", "other"), 2)));
    }

    #[test]
    fn threads_that_meet_at_a_place_agree() {
        let words = Words::new(8);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| words.add(("a", "b"))));
            }
        });
        assert_eq!(words.all(), [(("a", "b"), 4000)]);
    }
}
