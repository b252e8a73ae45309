//! The first fill: a service that has forwarded nothing yet has nothing to learn.

use lb_common::slot::since;

use super::{
    State::{Down, Up},
    *,
};
use crate::reconcile::slot::States;

const NOW: u64 = 80;

fn web(backends: &[(u8, State)]) -> Wish {
    wish("web", 1, 29, backends)
}

fn states(reconciler: &Reconciler<Twin>) -> States {
    reconciler.running(since(NOW))[0].states
}

fn sweep(reconciler: &mut Reconciler<Twin>) {
    reconciler.sweep(since(NOW)).unwrap();
}

fn forward(reconciler: &mut Reconciler<Twin>, client: u32) -> IpAddr {
    let verdict = reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    target(reconciler.tables(), verdict).unwrap().1
}

/// One backend is up, then the other one comes: half of the slots learn.
fn filled(before: impl FnOnce(&mut Reconciler<Twin>)) -> Reconciler<Twin> {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Down)])], since(NOW));
    before(&mut reconciler);
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], since(NOW));
    assert!(states(&reconciler).learning > 10);
    reconciler
}

#[test]
fn slots_without_any_traffic_stop_learning_at_once() {
    let mut reconciler = filled(|_| {});
    sweep(&mut reconciler);
    assert_eq!(states(&reconciler).learning, 0);
    let to: std::collections::BTreeSet<_> = (0..100).map(|client| forward(&mut reconciler, client)).collect();
    assert_eq!(to.len(), 2, "unknown flows go to their slot's owner");
    sweep(&mut reconciler);
    assert_eq!(states(&reconciler).tracked(), 0, "and nothing is recorded");
}

#[test]
fn one_packet_is_enough_to_learn_for_the_whole_window() {
    let mut reconciler = filled(|reconciler| {
        forward(reconciler, 1);
    });
    let learning = states(&reconciler).learning;
    for _ in 0..3 {
        sweep(&mut reconciler);
    }
    assert_eq!(states(&reconciler).learning, learning);
}

#[test]
fn a_flow_begun_before_the_sweep_stays() {
    let mut reconciler = filled(|_| {});
    let began: Vec<IpAddr> = (0..100).map(|client| forward(&mut reconciler, client)).collect();
    for _ in 0..3 {
        sweep(&mut reconciler);
    }
    let later: Vec<IpAddr> = (0..100).map(|client| forward(&mut reconciler, client)).collect();
    assert_eq!(began, later);
}

#[test]
fn an_adopted_service_always_learns() {
    let first = filled(|_| {});
    let learning = states(&first).learning;
    let mut second = Reconciler::new(first.into_tables()).unwrap();
    put(&mut second, &[web(&[(1, Up), (2, Up)])], since(NOW));
    for _ in 0..3 {
        sweep(&mut second);
    }
    assert_eq!(states(&second).learning, learning);
}

#[test]
fn slots_changed_during_a_sweep_wait_for_the_next() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Down)])], since(NOW));
    let sweep_under_way = reconciler.begin_sweep(since(NOW)).unwrap().unwrap();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], since(NOW));
    let learning = states(&reconciler).learning;
    reconciler.end_sweep(sweep_under_way, since(NOW)).unwrap();
    assert_eq!(states(&reconciler).learning, learning, "a packet under way may have gone by an older word");
    sweep(&mut reconciler);
    assert_eq!(states(&reconciler).learning, 0);
}

#[test]
fn a_new_service_is_distinguished_from_an_old_one() {
    let mut reconciler = filled(|reconciler| {
        forward(reconciler, 1);
    });
    let learning = states(&reconciler).learning;
    let both = |state| [web(&[(1, Up), (2, Up)]), wish("young", 2, 29, &[(1, Up), (2, state)])];
    put(&mut reconciler, &both(Down), since(NOW));
    put(&mut reconciler, &both(Up), since(NOW));
    sweep(&mut reconciler);
    let running = reconciler.running(since(NOW));
    let learning_now: Vec<u32> = running.iter().map(|service| service.states.learning).collect();
    assert_eq!(learning_now, [learning, 0], "web and young, in this order");
}
