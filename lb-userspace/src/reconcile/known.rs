//! Bits of known addresses: which words of the array have to change, before and behind everything else.
//!
//! A bit that is not set makes packets pass without a further look. So the bit is set before the index or the table in front
//! of it says anything of the address, and cleared when neither does any more. A bit that is set too early or stays too long
//! costs a look in vain.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use lb_common::{Address, known};

use super::operation::Operation;

/// Steps, grouped by the time when they may be carried out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Words with the bits that are missing.
    pub set: Vec<Operation>,
    /// Words without the bits that are not needed.
    pub clear: Vec<Operation>,
}

/// The changes that turn `words` into those of these addresses.
pub fn plan(words: &[AtomicU64], addresses: impl IntoIterator<Item = Address>) -> Changes {
    let mut wanted: BTreeMap<u32, u64> = BTreeMap::new();
    for address in addresses {
        let mark = known::mark(&address);
        *wanted.entry(known::word(mark)).or_default() |= known::bit(mark);
    }
    let mut changes = Changes::default();
    for (at, word) in (0..).zip(words) {
        let was = word.load(Ordering::Relaxed);
        let wanted = wanted.get(&at).copied().unwrap_or(0);
        let both = was | wanted;
        if both != was {
            changes.set.push(Operation::Known { at, word: both });
        }
        if both != wanted {
            changes.clear.push(Operation::Known { at, word: wanted });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::mapped;

    fn words() -> Vec<AtomicU64> {
        (0..known::WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn write(words: &[AtomicU64], operations: &[Operation]) {
        for operation in operations {
            let Operation::Known { at, word } = operation else {
                unreachable!("nothing else is planned here")
            };
            words[*at as usize].store(*word, Ordering::Relaxed);
        }
    }

    fn knows(words: &[AtomicU64], address: &Address) -> bool {
        let mark = known::mark(address);
        words[known::word(mark) as usize].load(Ordering::Relaxed) & known::bit(mark) != 0
    }

    #[test]
    fn addresses_are_known_while_they_are_wanted() {
        let words = words();
        let address = |n: u32| mapped((0xcb00_7100 + n).to_be());
        write(&words, &plan(&words, [address(1), address(2)]).set);
        assert_eq!(plan(&words, [address(2), address(1), address(1)]), Changes::default());
        let changes = plan(&words, [address(2), address(3)]);
        write(&words, &changes.set);
        assert!([1, 2, 3].iter().all(|n| knows(&words, &address(*n))));
        write(&words, &changes.clear);
        assert_eq!([1, 2, 3].map(|n| knows(&words, &address(n))), [false, true, true]);
    }

    #[test]
    fn a_bit_that_two_addresses_share_stays_for_the_other() {
        let of = |n: u32| mapped(n.to_be());
        let other = (1..).find(|n| known::mark(&of(*n)) == known::mark(&of(0))).unwrap();
        let words = words();
        write(&words, &plan(&words, [of(0), of(other)]).set);
        let changes = plan(&words, [of(other)]);
        assert_eq!(changes, Changes::default());
        assert!(knows(&words, &of(other)));
    }
}
