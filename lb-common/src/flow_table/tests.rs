//! The table in ordinary memory: what is found, what gives its place away, and how often flows are mistaken.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    vec::Vec,
};

use super::*;

mod carried;
mod floods;
mod sweeps;
mod torn;

/// A table in ordinary memory.
pub(super) struct Table(Vec<AtomicU64>);

impl Table {
    pub(super) fn new(buckets: u32) -> Self {
        Self((0..buckets * 8).map(|_| AtomicU64::new(0)).collect())
    }

    fn words(&self) -> Words<'_, fn(u32) -> u32> {
        // Even backends are one service, odd backends another one.
        Words::new(&self.0, |backend| backend % 2)
    }

    /// The entries in use of a bucket.
    pub(super) fn bucket_entries(&self, number: u32) -> Vec<Entry> {
        let words = &self.0[number as usize * 8..][..8];
        let entry = |pair: &[AtomicU64]| {
            let [owner, facts] = [0, 1].map(|word| pair[word].load(Ordering::Relaxed));
            Entry { owner, facts }
        };
        words.chunks(2).map(entry).filter(|entry| entry.owner != 0).collect()
    }

    /// All entries in use, in the order in which they lie in memory.
    pub(super) fn used(&self) -> impl Iterator<Item = Entry> {
        (0..self.buckets()).flat_map(|number| self.bucket_entries(number))
    }
}

// SAFETY: as for `Words`, which does all of it.
unsafe impl Memory for Table {
    type Arithmetic = Plain;

    fn buckets(&self) -> u32 {
        self.words().buckets()
    }

    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        self.words().bucket(number)
    }

    fn service(&self, backend: u32) -> u32 {
        self.words().service(backend)
    }
}

/// Numbers without a pattern (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

pub(super) const NOW: u32 = 1 << 30;

pub(super) fn began(backend: u32) -> Record {
    Record { backend, flags: Record::BEGAN, sequence: 7 << 12, last_seen: NOW }
}

pub(super) fn backend_of(table: &Table, hash: u64, role: Role) -> u32 {
    find(table, &Key::of(hash, table.buckets()), role).map_or(0, |found| found.read(role, NOW).backend)
}

#[test]
fn a_record_is_found_by_its_hash_and_role_until_it_is_removed() {
    let table = Table::new(5);
    let key = Key::of(0x0123_4567_89ab_cdef, 5);
    let syn = Record { backend: MAX_BACKEND, flags: 0, sequence: 0xfedc_ba98, last_seen: NOW };
    assert_eq!(put(&table, &key, Role::Pending, &syn, NOW, 0), Put::Made);
    assert!(find(&table, &key, Role::Flow).is_none());
    assert_eq!(put(&table, &key, Role::Flow, &began(1), NOW, 0), Put::Made);
    assert_eq!(put(&table, &key, Role::Flow, &began(2), NOW, 0), Put::Replaced);
    let read = |role| find(&table, &key, role).map(|found| found.read(role, NOW));
    assert_eq!((read(Role::Pending), read(Role::Flow)), (Some(syn), Some(began(2))));
    assert_eq!(table.used().count(), 2);
    find(&table, &key, Role::Pending).expect("is there").remove();
    assert_eq!((read(Role::Pending), read(Role::Flow)), (None, Some(began(2))));
}

#[test]
fn a_refresh_leaves_the_backend_alone() {
    let table = Table::new(1);
    let key = Key::of(1, 1);
    put(&table, &key, Role::Flow, &began(3), NOW, 0);
    let found = find(&table, &key, Role::Flow).expect("is there");
    found.refresh(Role::Flow, &Record { backend: 9, flags: Record::FIN, sequence: 0, last_seen: NOW });
    let fresh = Record { backend: 3, flags: Record::FIN, sequence: 0, last_seen: NOW };
    assert_eq!(found.read(Role::Flow, NOW), fresh);
}

#[test]
fn each_bucket_of_a_flow_follows_from_the_other_one() {
    let mut random = Random(1);
    for buckets in [1, 2, 3, 1000, 327_680, u32::MAX] {
        for _ in 0..1000 {
            let key = Key::of(random.next(), buckets);
            assert!(key.first < buckets && key.second < buckets);
            assert_eq!(other_bucket(key.tag, key.second, buckets), key.first);
        }
    }
}

#[test]
fn facts_keep_what_a_record_says_in_their_steps() {
    let mut random = Random(2);
    for _ in 0..100_000 {
        let (word, now) = (random.next(), random.next() as u32);
        let age = random.next() as u32 % (facts::TIME as u32 - facts::AHEAD);
        let record = Record {
            backend: 1,
            flags: word as u32 & 0xffff_01bf,
            sequence: (word >> 32) as u32,
            last_seen: (now & !(facts::STEP - 1)).wrapping_sub(age * facts::STEP),
        };
        let back = |role, record: &Record| facts::unpack(role, 1, facts::pack(role, record), now);
        let coarse = Record { sequence: record.sequence & !0xfff, ..record };
        assert_eq!(back(Role::Flow, &record), coarse);
        let elder = Record { flags: record.flags & !Record::CONTESTED | Record::ELDER, ..coarse };
        assert_eq!(back(Role::Pending, &elder), elder);
        let syn = Record { flags: record.flags & (Record::ANY | Record::ONCE), ..record };
        assert_eq!(back(Role::Pending, &syn), syn);
    }
}

#[test]
fn a_record_ahead_of_a_packet_has_no_age() {
    let facts = facts::pack(Role::Flow, &began(1));
    let age = |now| facts::age(facts, now) - facts::AHEAD;
    assert_eq!((age(NOW), age(NOW + 10 * facts::STEP)), (0, 10));
    let earlier = NOW - 10 * facts::STEP;
    assert!(facts::age(facts, earlier) < facts::AHEAD);
    let read = facts::unpack(Role::Flow, 1, facts, earlier);
    assert_eq!((read.last_seen, crate::flow::age(read.last_seen, earlier)), (NOW, 0));
}

#[test]
fn a_table_has_room_for_what_it_was_made_for() {
    let flows = 1 << 18;
    let table = Table::new(buckets_for(flows));
    let mut random = Random(3);
    let mut lost = 0;
    for _ in 0..flows {
        let key = Key::of(random.next(), table.buckets());
        lost += u32::from(put(&table, &key, Role::Flow, &began(1), NOW, random.next() as u32) != Put::Made);
    }
    assert_eq!(table.used().count(), (flows - lost) as usize);
    // 1.4 % find no free place among their eight when the table fills to 80 % in one go, 0.01 % when it fills to 60 %.
    assert!((2600..4700).contains(&lost), "{lost}");
    assert_eq!(buckets_for(flows) as usize * size_of::<Bucket>(), 20 * flows as usize);
}

#[test]
fn sizes_double() {
    for (flows, buckets, room) in [
        (0, 5, 16),
        (16, 5, 16),
        (17, 10, 32),
        (1000, 320, 1024),
        (1 << 20, 327_680, 1 << 20),
        ((1 << 20) + 1, 655_360, 1 << 21),
        (u32::MAX, 83_886_080, MAX_FLOWS),
    ] {
        assert_eq!((buckets_for(flows), room_of(buckets_for(flows))), (buckets, room), "{flows}");
        assert!(is_size(buckets), "{flows}");
    }
    assert!([0, 4, 6, 15, 25, 327_681].into_iter().all(|buckets| !is_size(buckets)));
}

#[test]
fn flows_are_mistaken_as_often_as_computed() {
    // A tag of which 27 bits are the same for all flows is one of 16 bits: mistakes come 2²⁷ times as often.
    const SAME: u64 = (1 << 27) - 1;
    let hash = |random: &mut Random| random.next() & !(SAME << 37);
    let flows = 1 << 17;
    let table = Table::new(buckets_for(flows));
    let mut random = Random(4);
    for _ in 0..flows {
        let key = Key::of(hash(&mut random), table.buckets());
        put(&table, &key, Role::Flow, &began(1), NOW, 0);
    }
    let tries = 1_000_000;
    let mistaken =
        (0..tries).filter(|_| backend_of(&table, hash(&mut random), Role::Flow) != 0).count() as f64;
    let expected = MISTAKEN * f64::from(tries) * (SAME + 1) as f64;
    assert!((mistaken - expected).abs() < 6.0 * expected.sqrt(), "{mistaken}, expected {expected}");
    const { assert!(MISTAKEN < 1e-12) };
}
