//! Compares two rings of one service for `lbctl plan`: which slots move, which of them move without need, and what
//! becomes of each backend. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::rings::Built;
use crate::api::view::PlannedBackend;

/// Name, weight in the ring, address.
type Entry = (String, u16, IpAddr);

/// How a ring differs from the one before.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RingDiff {
    /// Slots that get another owner. In a ring of another length: slots whose flows had another owner.
    pub(super) moved: u32,
    /// The number of moved slots whose old and new owner both stay as they are.
    pub(super) collateral: u32,
    /// Backends that are added, removed or changed.
    pub(super) backends: Vec<PlannedBackend>,
}

/// Compares a ring with the ring that takes its place.
pub(super) fn compare(was: &Built, is: &Built) -> RingDiff {
    let same = identify(&was.entries, &is.entries);
    // Owners of both rings in one numbering, since rings have up to millions of slots: first the places of the old ring,
    // then those of new backends. 0 is no backend.
    let new_numbers: Vec<u32> = std::iter::once(0)
        .chain(same.iter().enumerate().map(|(place, old)| match old {
            Some(old) => *old as u32 + 1,
            None => (was.entries.len() + place) as u32 + 1,
        }))
        .collect();
    let mut stays = HashSet::new();
    for (entry, old) in is.entries.iter().zip(&same) {
        if let Some(old) = old.filter(|old| entry.1 > 0 && was.entries[*old].1 == entry.1) {
            stays.insert(old as u32 + 1);
        }
    }
    if was.hash != is.hash {
        // Another part of a packet decides the slot: flows may move between any two slots, without need.
        let all = is.slots();
        return RingDiff { moved: all, collateral: all, backends: backends(was, is, &same) };
    }
    let (old_length, length) = (was.owners.len(), is.owners.len());
    let (mut moved, mut collateral) = (0, 0);
    for (slot, owner) in is.owners.iter().enumerate() {
        // In a ring of another length: the slot that the same flows had.
        let before = if old_length == length { slot } else { slot * old_length / length };
        let (old, new) = (was.owners[before], new_numbers[*owner as usize]);
        if old != new {
            moved += 1;
            collateral += u32::from(stays.contains(&old) && stays.contains(&new));
        }
    }
    RingDiff { moved, collateral, backends: backends(was, is, &same) }
}

/// The ring of a new service.
pub(super) fn fresh(is: &Built) -> RingDiff {
    RingDiff {
        moved: 0,
        collateral: 0,
        backends: backends(&Built::default(), is, &vec![None; is.entries.len()]),
    }
}

/// The ring of a removed service.
pub(super) fn gone(was: &Built) -> RingDiff {
    RingDiff { moved: 0, collateral: 0, backends: backends(was, &Built::default(), &[]) }
}

/// For each backend its place before: found by name and address, or by address under another name. A backend at another
/// address is another backend, as it is for the tables.
fn identify(was: &[Entry], is: &[Entry]) -> Vec<Option<usize>> {
    let named: HashMap<(&str, IpAddr), usize> = was
        .iter()
        .enumerate()
        .map(|(place, (name, _, address))| ((name.as_str(), *address), place))
        .collect();
    let mut same: Vec<Option<usize>> =
        is.iter().map(|(name, _, address)| named.get(&(name.as_str(), *address)).copied()).collect();
    let taken: HashSet<usize> = same.iter().flatten().copied().collect();
    let mut left: HashMap<IpAddr, Vec<usize>> = HashMap::new();
    for (place, (_, _, address)) in was.iter().enumerate().filter(|(place, _)| !taken.contains(place)).rev() {
        left.entry(*address).or_default().push(place);
    }
    for ((_, _, address), place) in is.iter().zip(&mut same).filter(|(_, place)| place.is_none()) {
        *place = left.get_mut(address).and_then(Vec::pop);
    }
    same
}

fn backends(was: &Built, is: &Built, same: &[Option<usize>]) -> Vec<PlannedBackend> {
    let owned = |built: &Built| {
        let mut slots = vec![0; built.entries.len() + 1];
        for &owner in &*built.owners {
            slots[owner as usize] += 1;
        }
        slots
    };
    let (slots_before, slots_after) = (owned(was), owned(is));
    let mut all = Vec::new();
    let mut kept = HashSet::new();
    for ((place, (name, weight, address)), old) in is.entries.iter().enumerate().zip(same) {
        // Under the same name at another address: two backends, reported in one line.
        let by_name = was.entries.iter().position(|(old, ..)| old == name);
        let Some(before) = old.or(by_name) else {
            all.push(PlannedBackend {
                name: name.clone(),
                change: "added".to_owned(),
                weight_after: *weight,
                slots_after: slots_after[place + 1],
                ..PlannedBackend::default()
            });
            continue;
        };
        kept.insert(before);
        let (old_name, old_weight, old_address) = &was.entries[before];
        let change = if old_address != address {
            "address"
        } else if old_weight != weight {
            "weight"
        } else if old_name != name {
            "name"
        } else {
            continue;
        };
        all.push(PlannedBackend {
            name: name.clone(),
            change: change.to_owned(),
            weight_before: *old_weight,
            weight_after: *weight,
            slots_before: slots_before[before + 1],
            slots_after: slots_after[place + 1],
        });
    }
    for (place, (name, weight, _)) in
        was.entries.iter().enumerate().filter(|(place, _)| !kept.contains(place))
    {
        all.push(PlannedBackend {
            name: name.clone(),
            change: "removed".to_owned(),
            weight_before: *weight,
            slots_before: slots_before[place + 1],
            ..PlannedBackend::default()
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::Hash;

    /// A ring of backends, given by name, weight and the last number of their address.
    fn built(entries: &[(&str, u16, u8)], owners: &[u32]) -> Built {
        let entries = entries
            .iter()
            .map(|&(name, weight, last)| (name.to_owned(), weight, IpAddr::from([10, 0, 0, last])))
            .collect();
        let mut built = Built::default();
        built.entries = entries;
        built.owners = owners.into();
        built
    }

    fn moves(compared: &RingDiff) -> Vec<(&str, &str, u32, u32)> {
        let line = |b: &'_ PlannedBackend| (b.slots_before, b.slots_after);
        compared.backends.iter().map(|b| (b.name.as_str(), b.change.as_str(), line(b).0, line(b).1)).collect()
    }

    #[test]
    fn moves_between_unchanged_backends_are_collateral() {
        let was = built(&[("a", 1, 1), ("b", 1, 2)], &[1, 1, 2, 2]);
        let is = built(&[("a", 1, 1), ("b", 1, 2), ("c", 1, 3)], &[1, 2, 2, 3]);
        let compared = compare(&was, &is);
        assert_eq!((compared.moved, compared.collateral), (2, 1));
        assert_eq!(moves(&compared), [("c", "added", 0, 1)]);
    }

    #[test]
    fn moves_by_a_changed_weight_are_not_collateral() {
        let was = built(&[("a", 1, 1), ("b", 1, 2)], &[1, 1, 2, 2]);
        let is = built(&[("a", 1, 1), ("b", 3, 2)], &[1, 2, 2, 2]);
        let compared = compare(&was, &is);
        assert_eq!((compared.moved, compared.collateral), (1, 0));
        assert_eq!(moves(&compared), [("b", "weight", 2, 3)]);
    }

    #[test]
    fn a_new_address_moves_flows_a_new_name_does_not() {
        let was = built(&[("a", 0, 1), ("b", 1, 2), ("c", 1, 3)], &[2, 3]);
        let is = built(&[("b", 1, 2), ("d", 1, 3)], &[1, 2]);
        let compared = compare(&was, &is);
        assert_eq!((compared.moved, compared.collateral), (0, 0));
        assert_eq!(moves(&compared), [("d", "name", 1, 1), ("a", "removed", 0, 0)]);
        let is = built(&[("a", 0, 1), ("b", 1, 2), ("c", 1, 4)], &[2, 3]);
        let compared = compare(&was, &is);
        assert_eq!(compared.moved, 1);
        assert_eq!(moves(&compared), [("c", "address", 1, 1)]);
    }

    #[test]
    fn flows_are_followed_into_a_ring_of_another_length() {
        let was = built(&[("a", 1, 1), ("b", 1, 2)], &[1, 2]);
        let is = built(&[("a", 1, 1), ("b", 1, 2)], &[1, 1, 2, 1]);
        let compared = compare(&was, &is);
        assert_eq!((compared.moved, compared.collateral), (1, 1));
    }

    #[test]
    fn by_another_hash_every_slot_moves() {
        let was = built(&[("a", 1, 1), ("b", 1, 2)], &[1, 2]);
        let mut is = built(&[("a", 1, 1), ("b", 1, 2)], &[1, 2]);
        is.hash = Hash::Source(32);
        let compared = compare(&was, &is);
        assert_eq!((compared.moved, compared.collateral, compared.backends.len()), (2, 2, 0));
    }

    #[test]
    fn the_last_backend_may_go_and_the_first_may_come() {
        let (none, one) = (built(&[], &[0, 0]), built(&[("a", 1, 1)], &[1, 1]));
        assert_eq!((compare(&one, &none).moved, compare(&none, &one).moved), (2, 2));
        assert_eq!(moves(&compare(&one, &none)), [("a", "removed", 2, 0)]);
        assert_eq!(moves(&fresh(&one)), [("a", "added", 0, 2)]);
        assert_eq!(moves(&gone(&one)), [("a", "removed", 2, 0)]);
    }
}
