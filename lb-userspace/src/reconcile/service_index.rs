//! The service index: which words make each service findable, and in which order they may come and go.
//!
//! Words never move: a packet that has passed the new place and has not reached the old one would miss the
//! service. Hence there are tombstones, which become empty words as soon as no search needs to go past them.

use std::collections::BTreeMap;

use lb_common::{
    Address,
    service::{ANY_SERVICE, Bucket, hash, home_bucket},
};

/// A service that packets must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub number: u32,
    pub address: Address,
    pub port_protocol: u32,
}

/// Words to store, by place in the index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// To store after the service records are written.
    pub additions: Vec<(u32, u64)>,
    /// To store before the records of services that go are cleared.
    pub removals: Vec<(u32, u64)>,
}

/// Both buckets that a key may lie in are full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    pub number: u32,
}

/// The changes that make `words` lead to exactly these services. `words` is the whole index; its number of buckets is a power
/// of two.
pub fn plan(words: &[u64], entries: &[Entry]) -> Result<Changes, Full> {
    Planner::new(words).run(entries)
}

struct Planner {
    words: Vec<u64>,
    mask: u32,
    /// By place: whether some key needs the word.
    claimed: Vec<bool>,
    /// By bucket: how many keys at home there lie in the next bucket.
    overflowed: BTreeMap<u32, u32>,
}

/// A key and the services that its word may lead to; the first one is preferred.
struct Wanted {
    hash: u64,
    numbers: Vec<u32>,
}

impl Planner {
    fn new(before: &[u64]) -> Self {
        let buckets = (before.len() / Bucket::WORDS).max(1) as u32;
        Self {
            words: before.to_vec(),
            mask: buckets - 1,
            claimed: vec![false; before.len()],
            overflowed: BTreeMap::new(),
        }
    }

    fn run(mut self, entries: &[Entry]) -> Result<Changes, Full> {
        let mut missing = Vec::new();
        for wanted in keys(entries) {
            if !self.claim(&wanted) {
                missing.push(wanted);
            }
        }
        let mut additions = Vec::new();
        for wanted in missing {
            additions.push(self.insert(&wanted)?);
        }
        let removals = self.remove();
        Ok(Changes { additions, removals })
    }

    /// The places that a search for the key looks at: home bucket first, up to the first empty word.
    fn places(&self, hash: u64) -> impl Iterator<Item = usize> {
        let home = home_bucket(hash, self.mask);
        let next = home.wrapping_add(1) & self.mask;
        let both = [home, next].into_iter().flat_map(|bucket| {
            let first = bucket as usize * Bucket::WORDS;
            first..first + Bucket::WORDS
        });
        let mut ended = false;
        both.take_while(move |&place| {
            let last = ended;
            ended |= self.words[place] == Bucket::EMPTY;
            !last
        })
    }

    fn take(&mut self, hash: u64, place: usize) {
        self.claimed[place] = true;
        let home = home_bucket(hash, self.mask);
        if (place / Bucket::WORDS) as u32 != home {
            *self.overflowed.entry(home).or_default() += 1;
        }
    }

    /// Finds a word that leads to one of the wanted services already.
    fn claim(&mut self, wanted: &Wanted) -> bool {
        let found = self.places(wanted.hash).find(|&place| {
            let word = self.words[place];
            is_taken(word)
                && Bucket::tag_matches(word, wanted.hash)
                && wanted.numbers.contains(&Bucket::service(word))
        });
        if let Some(place) = found {
            self.take(wanted.hash, place);
        }
        found.is_some()
    }

    /// Writes over a word of the same tag that no key needs, so that one store hands the key from one service to
    /// another. If there is none, writes to the first place that is free.
    fn insert(&mut self, wanted: &Wanted) -> Result<(u32, u64), Full> {
        let number = wanted.numbers[0];
        let handed_over = self.places(wanted.hash).find(|&place| {
            let word = self.words[place];
            is_taken(word) && !self.claimed[place] && Bucket::tag_matches(word, wanted.hash)
        });
        let free = || self.places(wanted.hash).find(|&place| !is_taken(self.words[place]));
        let place = handed_over.or_else(free).ok_or(Full { number })?;
        let word = Bucket::word(wanted.hash, number);
        self.words[place] = word;
        self.take(wanted.hash, place);
        Ok((place as u32, word))
    }

    /// Takes away words that no key needs, and tombstones that no search needs to pass. It goes from the back, so that no word
    /// ever lies behind an empty one, also if the agent dies in between.
    fn remove(mut self) -> Vec<(u32, u64)> {
        let added = self.words.clone();
        for (word, claimed) in self.words.iter_mut().zip(&self.claimed) {
            if *word != Bucket::EMPTY && !claimed {
                *word = Bucket::TOMBSTONE;
            }
        }
        for (bucket, words) in (0u32..).zip(self.words.chunks_mut(Bucket::WORDS)) {
            // An empty word would end the search for keys of this bucket that lie in the next one.
            if self.overflowed.contains_key(&bucket) {
                continue;
            }
            for word in words.iter_mut().rev().take_while(|word| !is_taken(**word)) {
                *word = Bucket::EMPTY;
            }
        }
        let mut removals: Vec<_> = (0u32..)
            .zip(added.iter().zip(&self.words))
            .filter_map(|(at, (was, is))| (was != is).then_some((at, *is)))
            .collect();
        removals.reverse();
        removals
    }
}

/// Whether a word leads to a service.
fn is_taken(word: u64) -> bool {
    word != Bucket::EMPTY && word != Bucket::TOMBSTONE
}

/// The key of each service, and for each distinct address one key that leads to any of the services at it.
fn keys(entries: &[Entry]) -> Vec<Wanted> {
    let mut at_address: BTreeMap<Address, Vec<u32>> = BTreeMap::new();
    let mut keys = Vec::with_capacity(entries.len() * 2);
    for Entry { number, address, port_protocol } in entries {
        keys.push(Wanted { hash: hash(address, *port_protocol), numbers: vec![*number] });
        at_address.entry(*address).or_default().push(*number);
    }
    keys.extend(at_address.into_iter().map(|(address, mut numbers)| {
        numbers.sort_unstable();
        Wanted { hash: hash(&address, ANY_SERVICE), numbers }
    }));
    keys
}

#[cfg(test)]
mod tests {
    use lb_common::{mapped, service::port_protocol};
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u32) -> Entry {
        // Four ports for each address.
        let address = mapped((0xcb00_7100 + number / 4).to_be());
        Entry { number, address, port_protocol: port_protocol(443 + (number % 4) as u16, 6) }
    }

    /// Searches as a packet does: home bucket, then the next one when home is full. An empty word ends the search.
    fn find(words: &[u64], entries: &[Entry], address: &Address, port_protocol: u32) -> Option<u32> {
        let mask = (words.len() / Bucket::WORDS) as u32 - 1;
        let h = hash(address, port_protocol);
        for bucket in [home_bucket(h, mask), (home_bucket(h, mask) + 1) & mask] {
            let first = bucket as usize * Bucket::WORDS;
            for word in &words[first..first + Bucket::WORDS] {
                if *word == Bucket::EMPTY {
                    return None;
                }
                if *word == Bucket::TOMBSTONE || !Bucket::tag_matches(*word, h) {
                    continue;
                }
                let number = Bucket::service(*word);
                let found = entries.iter().find(|e| e.number == number);
                if found.is_some_and(|e| {
                    e.address == *address
                        && (port_protocol == ANY_SERVICE || e.port_protocol == port_protocol)
                }) {
                    return Some(number);
                }
            }
        }
        None
    }

    fn finds_all(words: &[u64], entries: &[Entry]) {
        for e in entries {
            assert_eq!(find(words, entries, &e.address, e.port_protocol), Some(e.number), "{e:?}");
            assert!(find(words, entries, &e.address, ANY_SERVICE).is_some(), "{e:?}");
        }
    }

    fn apply(words: &mut [u64], changes: &[(u32, u64)], mut check: impl FnMut(&[u64])) {
        for (at, word) in changes {
            words[*at as usize] = *word;
            check(words);
        }
    }

    #[test]
    fn a_service_takes_one_word_and_its_address_another() {
        let words = vec![0; 16 * Bucket::WORDS];
        let changes = plan(&words, &[entry(0), entry(1)]).unwrap();
        assert_eq!((changes.additions.len(), changes.removals.len()), (3, 0));
    }

    #[test]
    fn the_key_of_an_address_is_handed_on_by_one_store() {
        let mut words = vec![0; 16 * Bucket::WORDS];
        let both = [entry(0), entry(1)];
        let first = plan(&words, &both).unwrap();
        apply(&mut words, &first.additions, |_| {});
        let changes = plan(&words, &both[1..]).unwrap();
        assert_eq!(changes.additions.len(), 1, "the address now leads to service 1");
        apply(&mut words, &changes.additions, |words| finds_all(words, &both));
        apply(&mut words, &changes.removals, |words| finds_all(words, &both[1..]));
    }

    #[test]
    fn a_full_pair_of_buckets_is_an_error() {
        let words = vec![0; 2 * Bucket::WORDS];
        let entries: Vec<_> = (0..17).map(entry).collect();
        assert!(plan(&words, &entries).is_err());
    }

    proptest! {
        /// As few as two buckets for up to fourteen words, so that buckets overflow.
        #[test]
        fn services_that_stay_are_found_between_any_two_stores(
            histories in prop::collection::vec(prop::collection::btree_set(0u32..24, 0..9), 1..12),
            buckets in prop::sample::select(vec![2usize, 4, 16]),
        ) {
            let mut words = vec![0; buckets * Bucket::WORDS];
            let mut before: Vec<Entry> = Vec::new();
            for numbers in histories {
                let after: Vec<_> = numbers.into_iter().map(entry).collect();
                let Ok(changes) = plan(&words, &after) else { continue };
                let stay: Vec<_> = before.iter().filter(|e| after.contains(e)).copied().collect();
                let known: Vec<_> = before.iter().chain(&after).copied().collect();
                let check = |words: &[u64]| {
                    for bucket in words.chunks(Bucket::WORDS) {
                        let empty = bucket.iter().position(|word| *word == Bucket::EMPTY);
                        assert!(bucket[empty.unwrap_or(Bucket::WORDS)..].iter().all(|word| *word == Bucket::EMPTY));
                    }
                    for e in &stay {
                        assert_eq!(find(words, &known, &e.address, e.port_protocol), Some(e.number));
                        assert!(find(words, &known, &e.address, ANY_SERVICE).is_some());
                    }
                };
                apply(&mut words, &changes.additions, check);
                finds_all(&words, &after);
                apply(&mut words, &changes.removals, |words| { check(words); finds_all(words, &after); });
                for e in before.iter().filter(|e| !after.contains(e)) {
                    prop_assert_eq!(find(&words, &after, &e.address, e.port_protocol), None);
                }
                prop_assert_eq!(plan(&words, &after), Ok(Changes::default()), "a second time nothing");
                if after.is_empty() {
                    prop_assert!(words.iter().all(|word| *word == 0), "nothing is left behind");
                }
                before = after;
            }
        }
    }
}
