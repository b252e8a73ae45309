//! Tables of another size take over the records of this one.

use super::*;

/// Copies all records of a table into one of another size, as the agent does.
fn carried(from: &Table, buckets: u32) -> (Table, Vec<Put>) {
    let to = Table::new(buckets);
    let mut results = Vec::new();
    for number in 0..from.buckets() {
        for entry in from.bucket_entries(number) {
            for heir in heirs(number, from.buckets(), buckets) {
                results.push(carry(&to, entry, heir, NOW, 1));
            }
        }
    }
    (to, results)
}

fn filled(buckets: u32, flows: u32) -> (Table, Vec<u64>) {
    let table = Table::new(buckets);
    let mut random = Random(11);
    let all = (0..flows).map(|_| random.next());
    let hashes = all.filter(|hash| {
        let record = Record { backend: home(*hash), ..began(1) };
        put(&table, &Key::of(*hash, buckets), Role::Flow, &record, NOW, 0) == Put::Made
    });
    let hashes = hashes.collect();
    (table, hashes)
}

fn home(hash: u64) -> u32 {
    (hash >> 30) as u32 % MAX_BACKEND + 1
}

#[test]
fn every_flow_is_found_in_a_table_of_another_size() {
    let (table, hashes) = filled(160, 130);
    for buckets in [5 << 5, 5 << 6, 5 << 9, 5 << 12, 5 << 4] {
        let (other, results) = carried(&table, buckets);
        assert!(results.iter().all(|put| matches!(put, Put::Made | Put::Replaced)), "{buckets}");
        for hash in &hashes {
            assert_eq!(backend_of(&other, *hash, Role::Flow), home(*hash), "{buckets}");
        }
        // There and back again: the copies of one flow become one.
        let (back, _) = carried(&other, 160);
        assert!(buckets < 160 || back.used().count() == hashes.len(), "{buckets}");
        assert!(hashes.iter().all(|hash| backend_of(&back, *hash, Role::Flow) == home(*hash)), "{buckets}");
    }
}

#[test]
fn a_growth_leaves_the_table_as_full_as_it_was() {
    let (table, hashes) = filled(160, 130);
    let (other, _) = carried(&table, 640);
    // Where both buckets of a flow are the same one, two of its copies may be in the buckets of one.
    let copies = other.used().count();
    assert!((hashes.len() * 39 / 10..=hashes.len() * 4).contains(&copies), "{copies} of {}", hashes.len());
}

#[test]
fn of_two_copies_the_younger_one_counts() {
    for hash in [1 << 43, 1 << 50 | 0x001f_ffff, 0x0123_4567_89ab_cdef] {
        let table = Table::new(160);
        let early = Record { last_seen: NOW - 1000 * facts::STEP, ..began(1) };
        put(&table, &Key::of(hash, 160), Role::Flow, &early, NOW, 0);
        let (other, _) = carried(&table, 320);
        let found = find(&other, &Key::of(hash, 320), Role::Flow).expect("is there");
        found.refresh(Role::Flow, &began(1));
        let (back, _) = carried(&other, 160);
        let read = find(&back, &Key::of(hash, 160), Role::Flow).expect("is there");
        assert_eq!((read.read(Role::Flow, NOW).last_seen, back.used().count()), (NOW, 1));
    }
}

#[test]
fn a_smaller_table_loses_what_is_worth_least() {
    let table = Table::new(160);
    let mut random = Random(12);
    let mut real = Vec::new();
    for i in 0..480 {
        let hash = random.next();
        let record = Record { flags: if i % 4 == 0 { Record::BEGAN } else { Record::ONCE }, ..began(1) };
        put(&table, &Key::of(hash, 160), Role::Flow, &record, NOW, 0);
        if i % 4 == 0 {
            real.push(hash);
        }
    }
    let (other, results) = carried(&table, 80);
    let lost = results.iter().filter(|put| matches!(put, Put::Refused | Put::Evicted(_))).count();
    assert!(lost + 320 >= table.used().count(), "{lost}: there are 320 places");
    let living = real.iter().filter(|hash| backend_of(&other, **hash, Role::Flow) == 1).count();
    assert_eq!(living, real.len());
}
