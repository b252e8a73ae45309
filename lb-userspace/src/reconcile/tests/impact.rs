//! What a plan says it will do to slots and flows is what it does.

use super::{
    State::{Draining, Up},
    *,
};
use crate::reconcile::impact::Impact;

const CLIENTS: u32 = 200;

fn web(backends: &[(u8, State)]) -> Wish {
    wish("web", 1, 29, backends)
}

/// Where each client's packets go.
fn targets(reconciler: &Reconciler<Twin>) -> Vec<Option<IpAddr>> {
    let tables = reconciler.tables();
    let verdict = |client| tables.peek(&packet(&listen(1), client, false));
    (0..CLIENTS).map(|client| target(tables, verdict(client)).map(|(_, to)| to)).collect()
}

/// Two backends, the first of which drains, and an established flow of each client, recorded where its slot learns.
fn draining() -> Reconciler<Twin> {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 10);
    for client in 0..CLIENTS {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    reconciler
}

fn affected(reconciler: &mut Reconciler<Twin>, wishes: &[Wish], now: u16) -> Impact {
    let plan = plan(reconciler, wishes, now);
    let writes = reconciler.tables().writes();
    let affected = reconciler.impact(&plan, now).unwrap().count();
    assert_eq!(reconciler.tables().writes(), writes, "a forecast writes nothing");
    assert!(affected.len() <= 1, "{affected:?}");
    affected.into_values().next().unwrap_or_default()
}

#[test]
fn flows_are_cut_only_at_a_removed_backend() {
    let mut reconciler = draining();
    let before = targets(&reconciler);
    let at_first = before.iter().filter(|to| **to == Some(backend_address(1))).count() as u64;
    assert!(at_first > 0);
    let wishes = [web(&[(2, Up)])];
    let reported = affected(&mut reconciler, &wishes, 10);
    put(&mut reconciler, &wishes, 10);
    let moved = targets(&reconciler).iter().zip(&before).filter(|(now, then)| now != then).count() as u64;
    assert_eq!((reported.cut, reported.cut), (at_first, moved));
}

#[test]
fn a_new_backend_cuts_nothing_and_its_slots_are_tracked() {
    let mut reconciler = draining();
    let before = targets(&reconciler);
    let wishes = [web(&[(1, Draining), (2, Up), (3, Up)])];
    let reported = affected(&mut reconciler, &wishes, 12);
    assert!(reported.cut == 0 && reported.flows > 0 && reported.flows < u64::from(CLIENTS), "{reported:?}");
    assert_eq!(reported.slots_changed, reported.slots_tracked);
    // Slots that have learnt since the drain go on; other slots begin to learn now.
    let learning = reported.longest_learning.unwrap();
    assert!(learning.slots > 0 && [0, 16].contains(&learning.seconds_ago), "{learning:?}");
    let applied = put(&mut reconciler, &wishes, 12);
    assert!(applied >= u64::from(reported.slots_changed));
    assert_eq!(targets(&reconciler), before);
}

#[test]
fn a_ring_of_another_length_concerns_all_recorded_flows() {
    let mut reconciler = draining();
    let written = reconciler.tables().flow_count(lb_common::flow_table::Role::Flow) as u64;
    let reported = affected(
        &mut reconciler,
        &[Wish { length: 61, ..web(&[(1, Draining), (2, Up)]) }],
        // The window is over, since a change of length waits for it.
        10 + 2 * WINDOW.as_secs() as u16,
    );
    assert!(written > 0);
    assert_eq!((reported.flows, reported.cut, reported.slots_tracked), (written, 0, 61));
}

#[test]
fn a_plan_that_writes_nothing_concerns_no_flow() {
    let mut reconciler = draining();
    let reported = affected(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 10);
    assert_eq!(reported, Impact::default());
}
