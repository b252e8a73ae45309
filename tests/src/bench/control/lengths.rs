//! How long a ring must be: how evenly rings with 100, 50 and 25 slots for each backend deal, against the memory and cache that
//! they take. No row is a time, so the values are the same on every machine.

use lb_common::ring::LENGTHS;
use lb_userspace::ring::{self, Entry};

use super::{
    super::row::{Definition, Part},
    Sheet,
    rings::{BUILDERS, SIZES, WEIGHT, collateral, entries, names, owners},
};

/// The slots for each backend that are tried; a ring has the next length of the list.
const SLOTS: [u32; 3] = [100, 50, 25];

/// The weight of every second backend in the rows where weights differ.
const LIGHT: u16 = WEIGHT / 10;

/// Bytes of a slot: its word, and its owner in the table in front of the ring.
const BYTES: f64 = 10.0;

/// The id part of the rows for the memory of a ring; the other rows are for a builder.
const MEMORY: &str = "memory";

const KINDS: [(&str, &str, &str); 4] = [
    ("most", "ratio", "slots of the backend with the most, by the mean"),
    ("p99", "ratio", "slots of the backend that 99 in 100 have no more than, by the mean"),
    (
        "weighted",
        "ratio",
        "slots of the backend with the most for its weight, where every second has a tenth",
    ),
    ("leave", "%", "of all slots move between backends that stay when one leaves"),
];

fn id(group: &str, kind: &str, count: u32, slots: u32) -> String {
    format!("ring/lengths/{group}/{kind}/backends={count}/slots={slots}")
}

pub(super) fn definitions() -> Vec<Definition> {
    let mut rows = Vec::new();
    let mut row = |id: String, unit, what: String| {
        rows.push(Definition::new(Part::Control, id, unit, what).quick(false));
    };
    for count in SIZES {
        for slots in SLOTS {
            let length = length(count, slots);
            let what = format!("of a ring of {length} slots for {count} backends, owners included");
            row(id(MEMORY, "all", count, slots), "KiB", what);
            for (builder, _) in BUILDERS {
                for (kind, unit, what) in KINDS {
                    let what = format!("{what}: {builder}, {count} backends in {length} slots");
                    row(id(builder, kind, count, slots), unit, what);
                }
            }
        }
    }
    rows
}

pub(super) fn measure(sheet: &mut Sheet<'_>) {
    let seed = ring::seed("bench");
    for count in SIZES {
        let names = names(count);
        let even = entries(&names);
        let weight = |place: usize| if place.is_multiple_of(2) { WEIGHT } else { LIGHT };
        let uneven: Vec<Entry<'_>> =
            even.iter().enumerate().map(|(place, entry)| Entry { weight: weight(place), ..*entry }).collect();
        for slots in SLOTS {
            let length = length(count, slots);
            if sheet.wants(&id(MEMORY, "all", count, slots)) {
                sheet.add(&id(MEMORY, "all", count, slots), f64::from(length) * BYTES / 1024.0);
            }
            for (name, builder) in BUILDERS {
                let id = |kind: &str| id(name, kind, count, slots);
                if !KINDS.iter().any(|(kind, ..)| sheet.wants(&id(kind))) {
                    continue;
                }
                let dealt = owners(builder, &seed, &even, length);
                let shares = shares(&dealt, &even);
                sheet.add(&id("most"), shares.last().copied().unwrap_or(f64::NAN));
                sheet.add(&id("p99"), percentile_99(&shares));
                let weighted = self::shares(&owners(builder, &seed, &uneven, length), &uneven);
                sheet.add(&id("weighted"), weighted.last().copied().unwrap_or(f64::NAN));
                let mut without = even.clone();
                let leaver = without.remove(even.len() / 2);
                let after = owners(builder, &seed, &without, length);
                sheet.add(&id("leave"), collateral((&even, &dealt), (&without, &after), Some(leaver.name)));
            }
        }
    }
}

/// The first length that has this many slots for each backend.
fn length(backends: u32, slots: u32) -> u32 {
    let wanted = u64::from(backends) * u64::from(slots);
    LENGTHS.into_iter().find(|length| u64::from(*length) >= wanted).unwrap_or(0)
}

/// For each backend, its slots divided by the slots that its weight asks for, least first.
fn shares(owners: &[u32], entries: &[Entry<'_>]) -> Vec<f64> {
    let mut slots = vec![0u32; entries.len() + 1];
    for owner in owners {
        slots[*owner as usize] += 1;
    }
    let total: f64 = entries.iter().map(|entry| f64::from(entry.weight)).sum();
    let due = |entry: &Entry<'_>| owners.len() as f64 * f64::from(entry.weight) / total;
    let mut shares: Vec<f64> =
        slots[1..].iter().zip(entries).map(|(slots, entry)| f64::from(*slots) / due(entry)).collect();
    shares.sort_by(f64::total_cmp);
    shares
}

fn percentile_99(sorted: &[f64]) -> f64 {
    let place = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_held_against_what_the_weight_says() {
        let entries = [Entry { name: "a", weight: 3 }, Entry { name: "b", weight: 1 }];
        assert_eq!(shares(&[1, 1, 1, 2], &entries), [1.0, 1.0]);
        assert_eq!(shares(&[1, 1, 2, 2], &entries), [2.0 / 3.0, 2.0]);
    }

    #[test]
    fn the_99th_of_a_hundred_is_the_last_but_one() {
        let shares: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile_99(&shares), 99.0);
        assert_eq!(percentile_99(&[1.0, 2.0]), 2.0);
    }

    #[test]
    fn lengths_are_the_next_ones_of_the_list() {
        assert_eq!([length(10, 25), length(100, 50), length(10_000, 100)], [251, 8_191, 1_000_003]);
    }
}
