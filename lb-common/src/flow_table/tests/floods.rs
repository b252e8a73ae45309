//! What floods do to the records of a table that is smaller than they are.

use super::*;

/// A table that half of `flows` real flows fill to 40 %.
struct Flooded {
    table: Table,
    real: Vec<u64>,
    random: Random,
}

impl Flooded {
    fn with(role: Role, record: &Record) -> Self {
        let mut random = Random(5);
        let flows = 1 << 14;
        let table = Table::new(buckets_for(flows));
        let real: Vec<u64> = (0..flows / 2).map(|_| random.next()).collect();
        for hash in &real {
            let key = Key::of(*hash, table.buckets());
            assert_eq!(put(&table, &key, role, record, NOW, 0), Put::Made);
        }
        Self { table, real, random }
    }

    /// Records of that many tuples of strangers; the classes of the records that were lost.
    fn flood(&mut self, records: u32, role: Role, record: &Record) -> Vec<Class> {
        let mut lost = Vec::new();
        for _ in 0..records {
            let key = Key::of(self.random.next(), self.table.buckets());
            let random = self.random.next() as u32;
            if let Put::Evicted(class) = put(&self.table, &key, role, record, NOW, random) {
                lost.push(class);
            }
        }
        lost
    }

    fn living(&self, role: Role) -> usize {
        self.real.iter().filter(|hash| backend_of(&self.table, **hash, role) == 1).count()
    }
}

/// The records that a packet of each kind makes, from the one that proves least on.
fn kinds() -> [(Class, Role, Record); 4] {
    let record = |flags| Record { flags, ..began(2) };
    [
        (Class::Once, Role::Flow, record(Record::ONCE)),
        (Class::Unconfirmed, Role::Pending, record(0)),
        (Class::Known, Role::Flow, record(0)),
        (Class::Began, Role::Flow, record(Record::BEGAN)),
    ]
}

#[test]
fn no_flood_pushes_out_what_is_worth_more() {
    for (worth, role, real) in kinds() {
        for (flood, its_role, record) in kinds().into_iter().filter(|(flood, ..)| *flood < worth) {
            let mut flooded = Flooded::with(role, &Record { backend: 1, ..real });
            let lost = flooded.flood(100_000, its_role, &record);
            assert_eq!(flooded.living(role), flooded.real.len(), "{flood:?} against {worth:?}");
            assert!(!lost.is_empty() && lost.iter().all(|class| *class <= flood), "{flood:?}");
        }
    }
}

#[test]
fn an_elder_is_worth_what_its_flow_was_worth() {
    let elder = Record { flags: Record::BEGAN | Record::ELDER, ..began(1) };
    let mut flooded = Flooded::with(Role::Pending, &elder);
    for (_, role, record) in &kinds()[..3] {
        flooded.flood(100_000, *role, record);
    }
    assert_eq!(flooded.living(Role::Pending), flooded.real.len());
}

#[test]
fn records_are_refused_where_all_others_are_worth_more() {
    let table = Table::new(1);
    let mut random = Random(6);
    // Both buckets of every flow are the same one, with room for four.
    for _ in 0..PER_BUCKET {
        put(&table, &Key::of(random.next(), 1), Role::Flow, &began(1), NOW, 0);
    }
    let before: Vec<Entry> = table.used().collect();
    let (_, role, once) = kinds()[0];
    assert_eq!(put(&table, &Key::of(random.next(), 1), role, &once, NOW, 0), Put::Refused);
    assert_eq!(table.used().collect::<Vec<_>>(), before);
}

#[test]
fn of_flows_the_oldest_gives_its_place_away() {
    let table = Table::new(1);
    let mut random = Random(7);
    let hashes: Vec<u64> = (0..PER_BUCKET).map(|_| random.next()).collect();
    for (age, hash) in [3, 9, 1, 2].into_iter().zip(&hashes) {
        let record = Record { last_seen: NOW - age * 1000, ..began(1) };
        put(&table, &Key::of(*hash, 1), Role::Flow, &record, NOW, 0);
    }
    assert_eq!(
        put(&table, &Key::of(random.next(), 1), Role::Flow, &began(2), NOW, 0),
        Put::Evicted(Class::Began)
    );
    let living: Vec<bool> = hashes.iter().map(|hash| backend_of(&table, *hash, Role::Flow) == 1).collect();
    assert_eq!(living, [true, false, true, true]);
}

#[test]
fn a_share_of_the_handshakes_lives_through_a_flood_of_syns() {
    let (_, role, syn) = kinds()[1];
    let mut flooded = Flooded::with(role, &Record { backend: 1, ..syn });
    // 60 % of the places are free; then as many SYNs as there are places. In a queue nothing would be left.
    let places = flooded.table.buckets() * PER_BUCKET as u32;
    flooded.flood(places * 6 / 10 + places, role, &Record { backend: 3, ..syn });
    let living = flooded.living(role) as f64 / flooded.real.len() as f64;
    assert!((0.25..0.5).contains(&living), "{living}");
}

#[test]
fn a_flood_of_another_service_takes_only_its_share() {
    // Backend 1 of the real flows is another service's than backend 2 of the floods, and backend 4 is of the same.
    for (_, role, record) in kinds() {
        let older = Record { last_seen: NOW - 1000 * facts::STEP, ..record };
        let mut flooded = Flooded::with(role, &Record { backend: 1, ..older });
        flooded.flood(100_000, role, &record);
        // They have 40 % of all places, but of the eight of a new flow sometimes more than half.
        let living = flooded.living(role) as f64 / flooded.real.len() as f64;
        assert!(living > 0.8, "{record:?}: {living}");
        let mut own = Flooded::with(role, &Record { backend: 4, ..older });
        own.flood(100_000, role, &record);
        let left = own.table.used().filter(|entry| entry.owner & BACKEND == 4).count();
        assert!(left < own.real.len() / 5, "a service's own records have no share: {left}");
    }
}
