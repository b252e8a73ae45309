//! Rings: how long a build takes, how evenly it deals, and how many slots move without need.

use std::{hint::black_box, time::Instant};

use lb_common::{hash::Seed, ring::length_for};
use lb_userspace::ring::{self, Builder, Entry};

use super::{
    super::row::{Definition, Part, Target},
    Sheet,
};

pub(super) const BUILDERS: [(&str, Builder); 2] =
    [("maglev", Builder::Maglev), ("rendezvous", Builder::Rendezvous)];
pub(super) const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];

/// The weight of every backend, and the new weight of the one that changes.
pub(super) const WEIGHT: u16 = 100;
const CHANGED: u16 = 50;

/// The ring size that Maglev's authors measured.
const CLASSIC: (&str, u32, u32) = ("ring/maglev/build/1000-in-65537", 1_000, 65_537);

pub(super) fn definitions() -> Vec<Definition> {
    let row = |id: String, unit, what: String| Definition::new(Part::Control, id, unit, what);
    let mut rows = Vec::new();
    for (builder, _) in BUILDERS {
        for count in SIZES {
            let length = length_for(count).unwrap_or(0);
            let id = |kind: &str| format!("ring/{builder}/{kind}/backends={count}");
            let build =
                row(id("build"), "ms", format!("{builder} ring of {count} backends in {length} slots"));
            let large = count == 10_000;
            rows.push(if large && builder == "maglev" { build.target(Target::AtMost(150.0)) } else { build });
            let facts = [
                ("most", "ratio", "slots of the backend with the most, by the mean"),
                ("least", "ratio", "slots of the backend with the fewest, by the mean"),
                ("leave", "%", "of all slots move between backends that stay when one leaves"),
                ("join", "%", "of all slots move between backends that were there when one joins"),
                ("weight", "%", "of all slots move between others when one's weight halves"),
            ];
            for (kind, unit, what) in facts {
                let what = format!("{what}: {builder}, {count} backends");
                rows.push(row(id(kind), unit, what).quick(large || count == 100));
            }
        }
    }
    let what = "Maglev ring of 1,000 backends in 65,537 slots".to_owned();
    rows.push(row(CLASSIC.0.to_owned(), "ms", what).target(Target::AtMost(5.0)));
    rows
}

pub(super) fn measure(rounds: u32, sheet: &mut Sheet<'_>) {
    let seed = ring::seed("bench");
    for (name, builder) in BUILDERS {
        for count in SIZES {
            let id = |kind: &str| format!("ring/{name}/{kind}/backends={count}");
            let length = length_for(count).unwrap_or(0);
            let names = names(count + 1);
            let all = entries(&names);
            let (joiner, before) =
                all.split_last().map_or((None, [].as_slice()), |(last, rest)| (Some(last), rest));
            if sheet.wants(&id("build")) {
                time(&id("build"), rounds, builder, &seed, before, length, sheet);
            }
            if !["most", "least", "leave", "join", "weight"].iter().any(|kind| sheet.wants(&id(kind))) {
                continue;
            }
            let owners = owners(builder, &seed, before, length);
            let (most, least) = evenness(&owners, before.len());
            sheet.add(&id("most"), most);
            sheet.add(&id("least"), least);

            // A backend in the middle, whose name is not the first in any order.
            let someone = before.len() / 2;
            let mut without = before.to_vec();
            let leaver = without.remove(someone);
            let mut lighter = before.to_vec();
            lighter[someone].weight = CHANGED;
            let mut moved = |kind: &str, entries: &[Entry<'_>], except: Option<&str>| {
                let after = self::owners(builder, &seed, entries, length);
                sheet.add(&id(kind), collateral((before, &owners), (entries, &after), except));
            };
            moved("leave", &without, Some(leaver.name));
            moved("join", &all, joiner.map(|joiner| joiner.name));
            moved("weight", &lighter, Some(leaver.name));
        }
    }
    let (id, count, length) = CLASSIC;
    if sheet.wants(id) {
        let names = names(count);
        time(id, rounds, Builder::Maglev, &seed, &entries(&names), length, sheet);
    }
}

pub(super) fn names(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("web-{number}")).collect()
}

pub(super) fn entries(names: &[String]) -> Vec<Entry<'_>> {
    names.iter().map(|name| Entry { name, weight: WEIGHT }).collect()
}

pub(super) fn owners(builder: Builder, seed: &Seed, entries: &[Entry<'_>], length: u32) -> Vec<u32> {
    ring::build(builder, seed, entries, length)
}

fn time(
    id: &str,
    rounds: u32,
    builder: Builder,
    seed: &Seed,
    entries: &[Entry<'_>],
    length: u32,
    sheet: &mut Sheet<'_>,
) {
    for _ in 0..rounds {
        let begun = Instant::now();
        black_box(owners(builder, seed, black_box(entries), length));
        sheet.add_time(id, begun);
    }
}

/// The largest and the smallest number of slots that a backend has, each divided by the mean.
fn evenness(owners: &[u32], backends: usize) -> (f64, f64) {
    let mut slots = vec![0u32; backends + 1];
    for owner in owners {
        slots[*owner as usize] += 1;
    }
    let mean = owners.len() as f64 / backends as f64;
    let counts = || slots.iter().skip(1).map(|count| f64::from(*count) / mean);
    (counts().fold(0.0, f64::max), counts().fold(f64::INFINITY, f64::min))
}

/// The share of slots, in %, that moved between two backends that were there before and after; `except` does not count.
pub(super) fn collateral(
    before: (&[Entry<'_>], &[u32]),
    after: (&[Entry<'_>], &[u32]),
    except: Option<&str>,
) -> f64 {
    let name = |(entries, owners): (&[Entry<'_>], &[u32]), slot: usize| -> Option<String> {
        let owner = *owners.get(slot)? as usize;
        Some(entries.get(owner.checked_sub(1)?)?.name.to_owned())
    };
    let moved = (0..before.1.len())
        .filter(|slot| {
            let (old, new) = (name(before, *slot), name(after, *slot));
            old != new && old.as_deref() != except && new.as_deref() != except
        })
        .count();
    moved as f64 / before.1.len() as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slots_between_others_are_collateral() {
        let names = names(3);
        let all = entries(&names);
        let without = [all[0], all[1]];
        // Slot 0 stays, slot 1 belonged to the backend that left, slot 2 moves without need.
        let share = collateral((&all, &[1, 3, 1, 2]), (&without, &[1, 2, 2, 2]), Some("web-2"));
        assert_eq!(share, 25.0);
    }

    #[test]
    fn evenness_is_relative_to_the_mean() {
        assert_eq!(evenness(&[1, 1, 1, 2], 2), (1.5, 0.5));
    }
}
