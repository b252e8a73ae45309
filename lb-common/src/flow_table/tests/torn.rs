//! Several CPUs that write the same entries at the same time.

use std::{sync::atomic::AtomicBool, thread};

use super::*;

/// The backend that a flow is recorded at, by its hash.
fn home(hash: u64) -> u32 {
    (hash >> 40) as u32 % MAX_BACKEND + 1
}

#[test]
fn no_flow_has_another_ones_backend() {
    const FLOWS: u64 = 64;
    // Sixteen places for 64 flows: most writes take an entry away from another flow.
    let table = Table::new(4);
    let stop = AtomicBool::new(false);
    let any = |random: &mut Random| Random(random.next() % FLOWS).next();
    let (found, wrong) = thread::scope(|scope| {
        for writer in 0..3 {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                let mut random = Random(writer);
                while !stop.load(Ordering::Relaxed) {
                    let hash = any(&mut random);
                    let key = Key::of(hash, table.buckets());
                    let record = began(home(hash));
                    let found = find(table, &key, Role::Flow);
                    match (random.next() % 8, found) {
                        (0, Some(found)) => found.remove(),
                        (1, Some(found)) => found.refresh(Role::Flow, &record),
                        _ => _ = put(table, &key, Role::Flow, &record, NOW, random.next() as u32),
                    }
                }
            });
        }
        let mut random = Random(9);
        let (mut found, mut wrong) = (0, 0);
        for _ in 0..500_000 {
            let hash = any(&mut random);
            let backend = backend_of(&table, hash, Role::Flow);
            found += u32::from(backend != 0);
            wrong += u32::from(backend != 0 && backend != home(hash));
        }
        stop.store(true, Ordering::Relaxed);
        (found, wrong)
    });
    assert_eq!(wrong, 0, "of {found}");
    assert!(found > 1000, "{found}");
}
