//! A set of recipient indexes of one message. Indexes are positions in the envelope as first accepted and
//! never move, so that an outcome reported late still names the right recipient.
//! Up to 64 recipients cost no allocation.
use alloc::boxed::Box;
use alloc::vec;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecipientSet(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Repr {
    Small(u64),
    Large(Box<[u64]>),
}

impl RecipientSet {
    /// All of `0..count`.
    pub fn all(count: u32) -> RecipientSet {
        let mut set = RecipientSet::none(count);
        for word in 0..set.words().len() {
            let from = word as u32 * 64;
            let here = (count - from).min(64);
            set.words_mut()[word] = if here == 64 { u64::MAX } else { (1 << here) - 1 };
        }
        set
    }

    /// The empty set with room for `0..count`.
    pub fn none(count: u32) -> RecipientSet {
        RecipientSet(match count {
            0..=64 => Repr::Small(0),
            _ => Repr::Large(vec![0; count.div_ceil(64) as usize].into_boxed_slice()),
        })
    }

    fn words(&self) -> &[u64] {
        match &self.0 {
            Repr::Small(word) => core::slice::from_ref(word),
            Repr::Large(words) => words,
        }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        match &mut self.0 {
            Repr::Small(word) => core::slice::from_mut(word),
            Repr::Large(words) => words,
        }
    }

    pub fn contains(&self, index: u32) -> bool {
        let word = self.words().get((index / 64) as usize);
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Panics if `index` lies outside what the set was made for.
    pub fn insert(&mut self, index: u32) {
        self.words_mut()[(index / 64) as usize] |= 1 << (index % 64);
    }

    pub fn remove(&mut self, index: u32) {
        if let Some(word) = self.words_mut().get_mut((index / 64) as usize) {
            *word &= !(1 << (index % 64));
        }
    }

    pub fn len(&self) -> u32 {
        self.words().iter().map(|word| word.count_ones()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    /// The indexes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words().iter().enumerate().flat_map(|(at, word)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at as u32 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_set_at_every_size() {
        for count in [0, 1, 63, 64, 65, 128, 1000] {
            let mut set = RecipientSet::all(count);
            assert_eq!(set.len(), count);
            assert_eq!(set.iter().count() as u32, count);
            assert!(!set.contains(count));
            if count > 0 {
                set.remove(count - 1);
                assert!(!set.contains(count - 1));
                set.insert(count - 1);
            }
            assert_eq!(set, RecipientSet::all(count));
        }
    }
}
