//! What holds for whole rings.

use lb_common::ring::LENGTHS;
use proptest::prelude::*;

use super::*;

const SEED: Seed = Seed([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("web-{i}")).collect()
}

fn entries<'a>(names: &'a [String], weight: impl Fn(usize) -> u16) -> Vec<Entry<'a>> {
    names.iter().enumerate().map(|(i, name)| Entry { name, weight: weight(i) }).collect()
}

fn rendezvous(entries: &[Entry<'_>], length: u32) -> Vec<u32> {
    build(Builder::Rendezvous, &SEED, entries, length)
}

/// The ring as names, to compare rings over different entries.
fn owners<'a>(entries: &[Entry<'a>], length: u32) -> Vec<&'a str> {
    named(entries, &maglev(&SEED, entries, length))
}

fn named<'a>(entries: &[Entry<'a>], ring: &[u32]) -> Vec<&'a str> {
    ring.iter().map(|&owner| if owner == 0 { "" } else { entries[owner as usize - 1].name }).collect()
}

fn counts(ring: &[u32], entries: usize) -> Vec<u32> {
    let mut counts = vec![0; entries + 1];
    for &owner in ring {
        counts[owner as usize] += 1;
    }
    counts
}

/// Slots that changed hands between two rings although neither hand had to, as a share of all.
fn collateral(before: &[&str], after: &[&str], concerned: &str) -> f64 {
    let moved = before
        .iter()
        .zip(after)
        .filter(|&(&old, &new)| old != new && old != concerned && new != concerned)
        .count();
    moved as f64 / before.len() as f64
}

#[test]
fn slots_have_no_owner_without_backends() {
    assert_eq!(maglev(&SEED, &[], 251), vec![0; 251]);
    assert_eq!(maglev(&SEED, &[Entry { name: "a", weight: 0 }], 251), vec![0; 251]);
    assert!(maglev(&SEED, &[Entry { name: "a", weight: 1 }], 0).is_empty());
}

#[test]
fn one_backend_owns_everything() {
    assert_eq!(maglev(&SEED, &[Entry { name: "a", weight: 1 }], 509), vec![1; 509]);
    assert_eq!(maglev(&SEED, &[Entry { name: "a", weight: 1 }], 1), vec![1]);
}

#[test]
fn the_ring_is_the_same_on_every_machine_and_version() {
    let names = names(3);
    let ring = maglev(&SEED, &entries(&names, |i| 100 * (i as u16 + 1)), 251);
    let text: String = ring.iter().map(u32::to_string).collect();
    assert_eq!(&text[..64], "3232313331232123212333333323231323222222332333333331321132112333");
}

#[test]
fn a_backend_that_leaves_moves_few_slots_of_others() {
    for (count, length) in [(3, 509), (10, 1_021), (100, 16_381), (655, 65_537)] {
        let names = names(count);
        let all = entries(&names, |_| 100);
        let before = owners(&all, length);
        for leaving in [0, count / 2, count - 1] {
            let mut rest = all.clone();
            let gone = rest.remove(leaving);
            let after = owners(&rest, length);
            let share = collateral(&before, &after, gone.name);
            assert!(share < 0.03, "{count} backends, {} left: {share}", gone.name);
        }
    }
}

#[test]
fn a_changed_weight_moves_few_slots_between_others() {
    let names = names(100);
    let before = entries(&names, |_| 100);
    for weight in [1, 50, 90, 110, 200, 1000] {
        let mut after = before.clone();
        after[50].weight = weight;
        let share = collateral(&owners(&before, 16_381), &owners(&after, 16_381), names[50].as_str());
        let total = 99 * 100 + u32::from(weight);
        // What has to move: the difference of its shares.
        let due = (f64::from(weight) / f64::from(total) - 0.01).abs();
        assert!(share < 0.01 + due, "weight {weight}: {share}, due {due}");
    }
}

#[test]
fn rendezvous_gives_shares_by_weight_as_even_as_chance() {
    let names = names(100);
    let weights = [50u16, 100, 200];
    let entries = entries(&names, |i| weights[i % 3]);
    let counts = counts(&rendezvous(&entries, 16_381), 100);
    assert_eq!(counts[0], 0, "slots without an owner");
    let total: f64 = entries.iter().map(|entry| f64::from(entry.weight)).sum();
    let mut squares = 0.0;
    for (entry, &count) in entries.iter().zip(&counts[1..]) {
        let share = f64::from(entry.weight) / total;
        let due = share * 16_381.0;
        // The standard deviation of so many independent draws.
        let deviations = (f64::from(count) - due) / (due * (1.0 - share)).sqrt();
        assert!(deviations.abs() < 4.5, "{}: {count} for {due:.0}", entry.name);
        squares += deviations * deviations / 100.0;
    }
    assert!((0.6..1.5).contains(&squares), "not as chance has it: {squares}");
}

#[test]
fn rendezvous_is_the_same_on_every_machine_and_version() {
    let names = names(3);
    let ring = rendezvous(&entries(&names, |i| 100 * (i as u16 + 1)), 251);
    let text: String = ring.iter().map(u32::to_string).collect();
    assert_eq!(&text[..64], "3322213332323333333223223221113333233312121333332332313323333323");
}

#[test]
fn rendezvous_of_zero_and_one_backend() {
    assert_eq!(rendezvous(&[], 251), vec![0; 251]);
    assert_eq!(rendezvous(&[Entry { name: "a", weight: 0 }], 251), vec![0; 251]);
    assert!(rendezvous(&[Entry { name: "a", weight: 1 }], 0).is_empty());
    assert_eq!(rendezvous(&[Entry { name: "a", weight: 1 }], 251), vec![1; 251]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rendezvous_moves_no_slot_between_unchanged_backends(
        weights in prop::collection::vec(0u16..=1000, 2..60), changed in any::<prop::sample::Index>(),
        to in 0u16..=1000, length in prop::sample::select(&LENGTHS[..6]),
    ) {
        let names = names(weights.len());
        let before = entries(&names, |i| weights[i]);
        let changed = changed.index(weights.len());
        let mut after = before.clone();
        after[changed].weight = to;
        let (old, new) = (named(&before, &rendezvous(&before, length)), named(&after, &rendezvous(&after, length)));
        let own = names[changed].as_str();
        for (old, new) in old.iter().zip(&new) {
            // A larger weight only gains, a smaller one only loses.
            let fits = if to > weights[changed] { *new == own } else { *old == own };
            prop_assert!(old == new || fits, "from {} to {}", old, new);
        }
    }

    #[test]
    fn rendezvous_does_not_depend_on_the_order_of_entries(
        weights in prop::collection::vec(0u16..=1000, 1..40), turn in any::<prop::sample::Index>(),
    ) {
        let names = names(weights.len());
        let entries = entries(&names, |i| weights[i]);
        let mut turned = entries.clone();
        turned.rotate_left(turn.index(entries.len()));
        turned.reverse();
        let rings = (rendezvous(&entries, 4_093), rendezvous(&turned, 4_093));
        prop_assert_eq!(named(&entries, &rings.0), named(&turned, &rings.1));
    }

    #[test]
    fn every_slot_is_owned_and_every_backend_has_its_quota(
        weights in prop::collection::vec(0u16..=1000, 1..60), length in prop::sample::select(&LENGTHS[..7]),
    ) {
        let names = names(weights.len());
        let entries = entries(&names, |i| weights[i]);
        let counts = counts(&maglev(&SEED, &entries, length), weights.len());
        let positive: Vec<u16> = weights.iter().copied().filter(|&w| w > 0).collect();
        if positive.is_empty() {
            prop_assert_eq!(counts[0], length);
            return Ok(());
        }
        prop_assert_eq!(counts[0], 0);
        // Quotas are given in the order of names.
        let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0).collect();
        order.sort_by_key(|&i| &names[i]);
        let sorted: Vec<u16> = order.iter().map(|&i| weights[i]).collect();
        let due = quota::quotas(&sorted, length);
        for (&i, &due) in order.iter().zip(&due) {
            prop_assert_eq!(counts[i + 1], due);
        }
        for (i, &weight) in weights.iter().enumerate() {
            prop_assert_eq!(counts[i + 1] == 0, weight == 0);
        }
    }

    #[test]
    fn the_order_of_entries_does_not_matter(
        weights in prop::collection::vec(0u16..=1000, 1..40), turn in any::<prop::sample::Index>(),
    ) {
        let names = names(weights.len());
        let entries = entries(&names, |i| weights[i]);
        let mut turned = entries.clone();
        turned.rotate_left(turn.index(entries.len()));
        turned.reverse();
        prop_assert_eq!(owners(&entries, 4_093), owners(&turned, 4_093));
    }

    #[test]
    fn another_seed_makes_another_ring(a: u64, b: u64) {
        prop_assume!(Seed([a, b]) != SEED);
        let names = names(10);
        let entries = entries(&names, |_| 1);
        prop_assert_ne!(maglev(&Seed([a, b]), &entries, 1_021), maglev(&SEED, &entries, 1_021));
    }
}

#[test]
fn turns_lie_evenly_interleaved_by_weight() {
    let entries = [("a", 100), ("b", 200), ("c", 100)].map(|(name, weight)| Entry { name, weight });
    let ring = build(Builder::RoundRobin, &Seed([1, 2]), &entries, 251);
    for window in ring.windows(4) {
        let of = |place| window.iter().filter(|owner| **owner == place).count();
        assert!(of(2) == 2 && of(1) <= 2 && of(3) <= 2, "{window:?}");
    }
    let shares = [1, 2, 3].map(|place| ring.iter().filter(|owner| **owner == place).count());
    assert_eq!(shares, [63, 125, 63]);
}

#[test]
fn runs_lie_together_by_weight_and_the_longest_is_the_first() {
    let entries =
        [("c", 100), ("a", 100), ("b", 200), ("none", 0)].map(|(name, weight)| Entry { name, weight });
    let ring = build(Builder::Runs, &Seed([1, 2]), &entries, 251);
    let mut runs = ring.clone();
    runs.dedup();
    // `b` has most, then by name: places in `entries` plus 1.
    assert_eq!(runs, [3, 2, 1]);
    assert_eq!([1, 2, 3].map(|place| ring.iter().filter(|owner| **owner == place).count()), [63, 63, 125]);
    assert_eq!(first_run(&ring), 125);
    assert_eq!(build(Builder::Runs, &SEED, &entries, 251), ring, "the seed decides nothing here");
    let none = build(Builder::Runs, &SEED, &entries[3..], 251);
    assert_eq!((none.len(), first_run(&none), first_run(&[])), (251, 0, 0));
}
