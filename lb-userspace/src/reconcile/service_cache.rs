//! The entries in front of the index, and in which order they may change.
//!
//! A packet on the fast path reads an entry and not the service's record next to it. So both must not disagree while a change
//! is under way, nor when the agent dies in it. Hence one store closes an entry before anything that it says changes, and the
//! entry is opened again behind the change. In between packets ask the index, which costs them a little. A place goes from
//! one service to another only when no packet is under way that has read the key of the first.

use std::collections::HashMap;

use lb_common::{
    Address,
    hash::Seed,
    ring::Ring,
    service_cache::{Entry, place, shift_for},
};

use super::operation::Operation;

/// A service that packets must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachedService {
    pub number: u32,
    pub address: Address,
    pub port_protocol: u32,
    pub ring: Ring,
}

/// Steps, grouped by the time when they may be carried out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Keys to store before the record of any service changes.
    pub close: Vec<Operation>,
    /// Entries to write once records and index say the same.
    pub open: Vec<Operation>,
    /// The same for places that were another service's: to write once no packet is under way that has read the old key.
    pub reassign: Vec<Operation>,
    /// The entry of a service was closed for good: no other service may get the place before packets under way have left.
    pub freed: bool,
}

/// The changes that turn `entries` into those of these services. The number of entries is a power of two.
pub fn plan(entries: &[Entry], services: &[CachedService], seed: Seed) -> Changes {
    let shift = shift_for(entries.len().max(2) as u32);
    let mut by_place: HashMap<usize, Vec<Entry>> = HashMap::new();
    for CachedService { number, address, port_protocol, ring } in services {
        let standing = by_place.entry(place(address, *port_protocol, shift) as usize).or_default();
        // Packets on the fast path do not check whether a ring has slots.
        if ring.length() > 0 {
            standing.push(Entry::of(address, *port_protocol, *ring, seed, *number));
        }
    }
    let mut changes = Changes::default();
    let (mut close, mut nobodies) = (Vec::new(), Vec::new());
    for (at, was) in entries.iter().enumerate() {
        let number = at as u32;
        let standing = by_place.get(&at);
        let Some(wanted) = standing.and_then(|standing| pick(was, standing)) else {
            let key = if standing.is_some() { Entry::MISS } else { Entry::NO_SERVICE };
            if was.key != key {
                changes.freed |= was.is_service();
                let keys = if key == Entry::MISS { &mut close } else { &mut nobodies };
                keys.push((number, key));
            }
            continue;
        };
        if *was == wanted {
            continue;
        }
        let open = Operation::ServiceCache { at: number, entry: wanted };
        if !was.is_service() {
            changes.open.push(open);
            continue;
        }
        close.push((number, Entry::MISS));
        if is_same(was, &wanted) {
            changes.open.push(open);
        } else {
            changes.freed = true;
            changes.reassign.push(open);
        }
    }
    if !close.is_empty() {
        changes.close.push(Operation::ServiceCacheKeys(close));
    }
    if !nobodies.is_empty() {
        changes.open.push(Operation::ServiceCacheKeys(nobodies));
    }
    changes
}

/// Several services may share one place: the service that has it keeps it, else the one with the lowest number gets it.
fn pick(was: &Entry, standing: &[Entry]) -> Option<Entry> {
    let first = standing.iter().min_by_key(|entry| entry.number);
    standing.iter().find(|entry| is_same(was, entry)).or(first).copied()
}

/// Whether both are entries of one service, whatever its ring is.
fn is_same(a: &Entry, b: &Entry) -> bool {
    (a.key, a.address, a.number) == (b.key, b.address, b.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::{mapped, service::port_protocol};
    use proptest::prelude::*;

    const SEED: Seed = Seed([1, 2]);

    fn web(number: u32, last: u32, offset: u32) -> CachedService {
        CachedService {
            number,
            address: mapped((0xcb00_7100 + last).to_be()),
            port_protocol: port_protocol(443, 6),
            ring: Ring::new(offset, 251),
        }
    }

    fn write(entries: &mut [Entry], operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::ServiceCacheKeys(keys) => {
                    keys.iter().for_each(|(at, key)| entries[*at as usize].key = *key);
                }
                Operation::ServiceCache { at, entry } => entries[*at as usize] = *entry,
                _ => unreachable!("nothing else is planned here"),
            }
        }
    }

    /// Turns the entries into those of these services.
    fn put(entries: &mut [Entry], services: &[CachedService]) {
        let changes = plan(entries, services, SEED);
        apply(entries, &changes);
    }

    fn apply(entries: &mut [Entry], changes: &Changes) {
        for step in [&changes.close, &changes.open, &changes.reassign] {
            write(entries, step);
        }
    }

    fn keys(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.key).collect()
    }

    fn at(service: &CachedService, entries: &[Entry]) -> usize {
        place(&service.address, service.port_protocol, shift_for(entries.len() as u32)) as usize
    }

    #[test]
    fn new_tables_say_nothing_until_everything_else_is_there() {
        let mut entries = [Entry::default(); 16];
        let changes = plan(&entries, &[web(3, 1, 0)], SEED);
        assert_eq!((changes.close.len(), changes.reassign.len(), changes.freed), (0, 0, false));
        apply(&mut entries, &changes);
        let here = at(&web(3, 1, 0), &entries);
        assert_eq!(
            (entries[here].number, entries[here].ring, entries[here].seed),
            (3, Ring::new(0, 251), SEED)
        );
        assert_eq!(keys(&entries).iter().filter(|key| **key == Entry::NO_SERVICE).count(), 15);
        assert_eq!(plan(&entries, &[web(3, 1, 0)], SEED), Changes::default());
    }

    #[test]
    fn another_ring_is_written_behind_a_closed_entry() {
        let mut entries = [Entry::default(); 16];
        put(&mut entries, &[web(3, 1, 0)]);
        let changes = plan(&entries, &[web(3, 1, 700)], SEED);
        let here = at(&web(3, 1, 0), &entries) as u32;
        assert_eq!(changes.close, [Operation::ServiceCacheKeys(vec![(here, Entry::MISS)])]);
        assert_eq!((changes.open.len(), changes.reassign.len(), changes.freed), (1, 0, false));
    }

    #[test]
    fn a_place_changes_hands_only_behind_the_packets_under_way() {
        let mut entries = [Entry::default(); 16];
        put(&mut entries, &[web(3, 1, 0)]);
        // The same address and port under another number count as another service.
        let changes = plan(&entries, &[web(4, 1, 700)], SEED);
        assert_eq!((changes.open.len(), changes.reassign.len(), changes.freed), (0, 1, true));
        let gone = plan(&entries, &[], SEED);
        assert_eq!((gone.reassign.len(), gone.freed), (0, true));
    }

    #[test]
    fn a_service_without_slots_is_looked_for_in_the_index() {
        let mut entries = [Entry::default(); 16];
        let empty = CachedService { ring: Ring::NONE, ..web(3, 1, 0) };
        put(&mut entries, &[empty]);
        assert_eq!(entries[at(&empty, &entries)].key, Entry::MISS);
        put(&mut entries, &[web(3, 1, 0)]);
        put(&mut entries, &[empty]);
        assert_eq!(entries[at(&empty, &entries)].key, Entry::MISS);
    }

    #[test]
    fn who_has_a_place_keeps_it() {
        let mut entries = [Entry::default(); 16];
        let first = web(9, 1, 0);
        let other =
            (2..).map(|last| web(2, last, 300)).find(|other| at(other, &entries) == at(&first, &entries));
        let other = other.unwrap();
        put(&mut entries, &[first]);
        assert_eq!(plan(&entries, &[other, first], SEED), Changes::default());
        let mut fresh = [Entry::default(); 16];
        put(&mut fresh, &[first, other]);
        assert_eq!(fresh[at(&first, &fresh)].number, 2, "else the lowest number");
    }

    proptest! {
        /// For any entries, with the change cut off between any two stores: what an entry says of a service is true before the
        /// change or after it.
        #[test]
        fn entries_say_what_was_or_what_will_be(
            before in prop::collection::btree_map(0u32..12, (0u32..4, 0u32..3), 0..8),
            after in prop::collection::btree_map(0u32..12, (0u32..4, 0u32..3), 0..8),
        ) {
            let services = |wish: &std::collections::BTreeMap<u32, (u32, u32)>| -> Vec<CachedService> {
                wish.iter().map(|(last, (number, ring))| web(last * 4 + number, *last, ring * 251)).collect()
            };
            let (before, after) = (services(&before), services(&after));
            let mut entries = [Entry::default(); 16];
            put(&mut entries, &before);
            let changes = plan(&entries, &after, SEED);
            let says = |entry: &Entry, services: &[CachedService]| services.iter().any(|s| {
                *entry == Entry::of(&s.address, s.port_protocol, s.ring, SEED, s.number)
            });
            let closed: Vec<Entry> = { let mut closed = entries; write(&mut closed, &changes.close); closed.into() };
            for entry in closed.iter().filter(|entry| entry.is_service()) {
                // An entry of a service that is gone may stay until its key is that of an empty place.
                prop_assert!(says(entry, &before));
                let goes_on = says(entry, &after);
                let goes = !after.iter().any(|s| at(s, &entries) == entries.iter().position(|e| e == entry).unwrap());
                prop_assert!(goes_on || goes);
            }
            apply(&mut entries, &changes);
            for service in &after {
                prop_assert!(entries[at(service, &entries)].is_service());
            }
            for entry in entries.iter().filter(|entry| entry.is_service()) {
                prop_assert!(says(entry, &after));
            }
            prop_assert_eq!(plan(&entries, &after, SEED), Changes::default());
        }
    }
}
