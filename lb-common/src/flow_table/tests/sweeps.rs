//! Sweeps: what they see, what they take out, and that they take nothing from packets.

use super::*;

#[test]
fn a_sweep_sees_each_record_and_takes_out_what_is_too_old() {
    let table = Table::new(1280);
    let mut random = Random(8);
    let mut kept = 0;
    for i in 0..2000_u32 {
        let key = Key::of(random.next(), table.buckets());
        let record = Record { last_seen: NOW - i % 4 * 1000 * facts::STEP, ..began(1 + i % 4) };
        let (role, flags) = if i % 2 == 0 { (Role::Flow, Record::BEGAN) } else { (Role::Pending, 0) };
        kept +=
            u32::from(put(&table, &key, role, &Record { flags, ..record }, NOW, 0) == Put::Made && i % 4 < 2);
    }
    let used = table.used().count();
    let mut seen = 0;
    let taken = sweep(&table.0, 0..1280, NOW, &mut |it| {
        seen += 1;
        let is_syn = it.role == Role::Pending;
        assert_eq!(is_syn, it.record.backend % 2 == 0);
        assert_eq!(it.class, if is_syn { Class::Unconfirmed } else { Class::Began });
        assert_eq!(NOW - it.record.last_seen, (it.record.backend - 1) * 1000 * facts::STEP);
        NOW - it.record.last_seen < 2000 * facts::STEP
    });
    assert_eq!(seen, used);
    assert_eq!((used as u32 - taken, table.used().count() as u32), (kept, kept));
    assert_eq!(sweep(&table.0, 1280..2000, NOW, &mut |_| false), 0, "buckets that the table does not have");
}

#[test]
fn a_record_that_is_refreshed_in_this_moment_stays() {
    let table = Table::new(1);
    let key = Key::of(1, 1);
    put(&table, &key, Role::Flow, &began(3), NOW, 0);
    let found = find(&table, &key, Role::Flow).expect("is there");
    let later = Record { last_seen: NOW + 1000 * facts::STEP, ..began(3) };
    // A packet comes between the look at the record and the answer.
    let taken = sweep(&table.0, 0..1, NOW, &mut |_| {
        found.refresh(Role::Flow, &later);
        false
    });
    assert_eq!((taken, backend_of(&table, 1, Role::Flow)), (0, 3));
}
