//! Facts about plans and sweeps, one fact for each test.

use lb_common::{
    flow_table::Role,
    map::Node,
    ring::Ring,
    slot::{SINCE_STEP, since},
};

use super::{
    State::{Disabled, Down, Draining, Up},
    *,
};
use crate::reconcile::{PlanError, Refusal, Swept, slot::States};

fn web(backends: &[(u8, State)]) -> Wish {
    wish("web", 1, 29, backends)
}

/// The backend that the packets of each of a hundred clients go to.
fn targets(reconciler: &Reconciler<Twin>, wish: &Wish) -> Vec<Option<IpAddr>> {
    let tables = reconciler.tables();
    let packet = |client| packet(&listen(wish.listen), client, false);
    (0..100).map(|client| target(tables, tables.peek(&packet(client))).map(|(_, to)| to)).collect()
}

/// The backends that confirmed flows are recorded at.
fn recorded_backends(reconciler: &Reconciler<Twin>) -> std::collections::BTreeSet<u32> {
    let mut all = std::collections::BTreeSet::new();
    reconciler.tables().flow_table().walk(0..u32::MAX, 0, |seen| {
        if seen.role == Role::Flow {
            all.insert(seen.record.backend);
        }
        true
    });
    all
}

#[test]
fn a_first_plan_validates_before_it_opens_the_cache() {
    let mut reconciler = new_reconciler();
    let plan = plan(&mut reconciler, &[web(&[(1, Up)])], 0);
    let versions: Vec<u32> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::Node(node) => Some(node.abi_version),
            _ => None,
        })
        .collect();
    assert_eq!(versions, [0, lb_common::ABI_VERSION]);
    let in_front = |operation: &&Operation| {
        matches!(operation, Operation::ServiceCache { .. } | Operation::ServiceCacheKeys(_))
    };
    let first = plan.operations.iter().position(|operation| in_front(&operation)).unwrap();
    assert_eq!(
        plan.operations[first..].iter().filter(in_front).count(),
        2,
        "its entry, and those of no service"
    );
    assert_eq!(plan.operations.len(), first + 2);
    assert!(matches!(plan.operations[first - 1], Operation::Node(Node { configuration: 7, .. })));
}

/// A change of ring is written to the service's record and to the entry in front, and each packet reads one of the two.
#[test]
fn a_cached_entry_is_closed_while_its_record_changes() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    let longer = Wish { length: 509, ..web(&[(1, Up), (2, Up)]) };
    let plan = plan(&mut reconciler, &[longer], 1);
    let place = |found: fn(&Operation) -> bool| plan.operations.iter().position(found).unwrap();
    let closed = place(|operation| matches!(operation, Operation::ServiceCacheKeys(keys) if keys.len() == 1));
    let record = place(|operation| matches!(operation, Operation::Service { .. }));
    let opened = place(|operation| matches!(operation, Operation::ServiceCache { .. }));
    assert!(closed < record && record < opened, "{closed} {record} {opened}");
}

#[test]
fn a_second_time_nothing_is_written_also_after_adoption() {
    let mut reconciler = new_reconciler();
    let wishes = [web(&[(1, Up), (2, Draining), (3, Down)]), wish("any", 4, 13, &[(1, Up)])];
    assert!(put(&mut reconciler, &wishes, 0) > 0);
    assert_says(&reconciler, &wishes);
    assert_eq!(put(&mut reconciler, &wishes, 5000), 0);
    let mut adopted = Reconciler::new(reconciler.into_tables()).unwrap();
    assert_eq!(put(&mut adopted, &wishes, 9000), 0);
    assert!(plan(&mut adopted, &wishes, 0).summary.is_empty());
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    let drained = web(&[(1, Draining), (2, Up)]);
    let before = targets(&reconciler, &drained);
    assert!(before.contains(&Some(backend_address(1))));
    put(&mut reconciler, std::slice::from_ref(&drained), 1);
    assert_eq!(targets(&reconciler, &drained), before);
    for client in 0..100 {
        let verdict = reconciler.tables().peek(&packet(&listen(1), client, true));
        assert_eq!(target(reconciler.tables(), verdict).unwrap().1, backend_address(2));
    }
}

#[test]
fn flows_of_a_down_or_removed_backend_move_at_once() {
    for gone in [&[(1, Down), (2, Up)][..], &[(2, Up)]] {
        let mut reconciler = new_reconciler();
        put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
        put(&mut reconciler, &[web(gone)], 1);
        assert_eq!(targets(&reconciler, &web(gone)), vec![Some(backend_address(2)); 100]);
    }
}

#[test]
fn without_a_usable_backend_packets_are_dropped() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Down)])], 1);
    let verdict = reconciler.tables().peek(&packet(&listen(1), 1, true));
    assert_eq!(verdict, Verdict::Dropped(lb_common::counter::Counter::NoBackend));
}

#[test]
fn services_and_backends_are_identified_by_address() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    let before = reconciler.running(0);
    let renamed = wish("www", 1, 29, &[(1, Up), (3, Up)]);
    put(&mut reconciler, std::slice::from_ref(&renamed), 0);
    assert_says(&reconciler, &[renamed]);
    let after = reconciler.running(0);
    assert_eq!(after[0].number, before[0].number);
    assert_eq!(after[0].backends[0].number, before[0].backends[0].number);
    assert_ne!(after[0].backends[1].number, before[0].backends[1].number, "the old number is retired");
}

#[test]
fn a_number_is_used_again_only_after_its_grace_time_and_a_sweep() {
    let mut reconciler = Reconciler::new(Twin::new(Sizes::new(2, 2, 100))).unwrap();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 10);
    put(&mut reconciler, &[web(&[(1, Up)])], 11);
    let replaced = desired(&[web(&[(1, Up), (3, Up)])]);
    let refused = |reconciler: &mut Reconciler<Twin>, now| {
        let Err(PlanError::Refused(refusals)) = reconciler.plan(&replaced, now) else { panic!("planned") };
        assert_eq!(refusals, [Refusal::Backends { wanted: 2, kept: 1, size: 2 }]);
    };
    refused(&mut reconciler, 11);
    assert_eq!(reconciler.sweep(12).unwrap().numbers_freed, 0, "too early");
    refused(&mut reconciler, 20);
    assert_eq!(reconciler.sweep(13).unwrap().numbers_freed, 1);
    assert!(reconciler.plan(&replaced, 13).is_ok());
}

#[test]
fn learning_ends_and_then_a_sweep_costs_nothing() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    let learning = reconciler.running(0)[0].states.learning;
    assert!(learning > 5);
    // The flows of clients 0 to 49 go on, those of the others begin now.
    for client in 0..100 {
        for syn in [true, false] {
            reconciler.tables_mut().packet(&packet(&listen(1), client, syn && client >= 50));
        }
    }
    let recorded = reconciler.tables().flow_count(Role::Flow) as u64;
    let at = |seconds: u64| since(seconds);
    let window = WINDOW.as_secs();
    reconciler.tables().set_seconds(window - 10);
    assert_eq!(reconciler.sweep(at(window)).unwrap().learning_ended, 0);
    let swept = reconciler.sweep(at(window + 2 * SINCE_STEP)).unwrap();
    assert_eq!((swept.learning_ended, swept.deleted, swept.settled), (u64::from(learning), 0, 0));
    assert_eq!(swept.flows, recorded);
    // Old flows are known now, and keep their slots tracked.
    let swept = reconciler.sweep(at(window + 3 * SINCE_STEP)).unwrap();
    assert_eq!((swept.deleted, swept.settled), (0, 0));
    assert_eq!(recorded_backends(&reconciler).len(), 2);
    // When these flows have been silent for as long as the window, the slots settle.
    reconciler.tables().set_seconds(3 * window);
    let swept = reconciler.sweep(at(3 * window)).unwrap();
    assert!(swept.deleted == recorded && swept.settled > 0, "{swept:?}");
    assert_eq!(reconciler.running(0)[0].states.tracked(), 0);
    reconciler.sweep(at(3 * window + 2)).unwrap();
    assert_eq!(reconciler.sweep(at(3 * window + 9)).unwrap(), Swept::default());
}

#[test]
fn a_change_of_length_keeps_flows_and_frees_the_old_ring() {
    let mut reconciler = new_reconciler();
    let small = web(&[(1, Up), (2, Up), (3, Up)]);
    let large = Wish { length: 101, ..small.clone() };
    put(&mut reconciler, std::slice::from_ref(&small), 0);
    let before = targets(&reconciler, &small);
    put(&mut reconciler, std::slice::from_ref(&large), 0);
    assert_says(&reconciler, std::slice::from_ref(&large));
    assert_eq!(targets(&reconciler, &small), before);
    assert_eq!(reconciler.usage().slots, 130);
    let again = desired(&[small]);
    let Err(PlanError::Refused(refusals)) = reconciler.plan(&again, 1) else { panic!("planned") };
    assert!(matches!(refusals[..], [Refusal::ResizeRunning { .. }]), "{refusals:?}");
    assert_eq!(reconciler.ring_length(&listen(1), 29), 101, "wait");
    let later = since(WINDOW.as_secs() + 2 * SINCE_STEP);
    assert_eq!(reconciler.sweep(later).unwrap().rings_freed, 1);
    assert_eq!(reconciler.usage().slots, 101);
    assert_eq!(reconciler.ring_length(&listen(1), 29), 29);
    assert!(reconciler.mirror().regions().all(|ring| ring != Ring::NONE));
    assert!(reconciler.plan(&again, later).is_ok());
}

#[test]
fn growing_to_200_backends_moves_no_flow() {
    let mut reconciler = Reconciler::new(Twin::new(Sizes::new(2, 512, 1 << 18))).unwrap();
    let length =
        |backends: u32| lb_common::ring::length_for(lb_common::ring::default_max_backends(backends)).unwrap();
    let mut web = wish("web", 1, length(1), &[(1, Up)]);
    put(&mut reconciler, std::slice::from_ref(&web), 0);
    let (mut flows, mut lengths, mut seconds) = (BTreeMap::new(), vec![web.length], 0);
    for number in 2..=200 {
        web.backends.insert(number, Up);
        // A flow sends more often than its window is long; a change is learnt after five steps of time.
        seconds += WINDOW.as_secs() / 4;
        let now = since(seconds);
        web.length = reconciler.ring_length(&listen(1), length(u32::from(number)));
        put(&mut reconciler, std::slice::from_ref(&web), now);
        for (&client, &at) in &flows {
            let way = reconciler.tables_mut().packet(&packet(&listen(1), client, false));
            assert_eq!(target(reconciler.tables(), way), at, "client {client} with {number} backends");
        }
        reconciler.sweep(now).unwrap();
        for client in [2 * u32::from(number), 2 * u32::from(number) + 1] {
            let new = reconciler.tables_mut().packet(&packet(&listen(1), client, true));
            let at = target(reconciler.tables(), new);
            let way = reconciler.tables_mut().packet(&packet(&listen(1), client, false));
            assert_eq!(target(reconciler.tables(), way), at, "the handshake of {client}");
            flows.insert(client, at);
        }
        lengths.push(web.length);
    }
    lengths.dedup();
    assert_eq!(lengths, [2_039, 4_093, 8_191, 16_381, 32_749, 65_537, 131_071]);
    assert_eq!(flows.len(), 398);
}

#[test]
fn a_change_of_hash_keeps_flows_and_waits_its_turn() {
    let mut reconciler = new_reconciler();
    let by_flow = web(&[(1, Up), (2, Up), (3, Up)]);
    let by_client = Wish { hash: Hash::Source(128), ..by_flow.clone() };
    put(&mut reconciler, std::slice::from_ref(&by_flow), 0);
    let before = targets(&reconciler, &by_flow);
    put(&mut reconciler, std::slice::from_ref(&by_client), 0);
    assert_says(&reconciler, std::slice::from_ref(&by_client));
    assert_eq!(targets(&reconciler, &by_flow), before, "established flows stay");
    let ring = reconciler.running(0)[0].ring;
    assert_eq!((ring.source_bits(), ring.length()), (128, by_flow.length));
    // The client alone decides where a new flow goes.
    let new =
        |client| target(reconciler.tables(), reconciler.tables().peek(&packet(&listen(1), client, true)));
    assert!((0..97).all(|client| new(client) == new(client + 97)), "one backend for a client");
    assert!((1..97).any(|client| new(client) != new(0)), "not one for all");
    // Back to the first hash: this waits, since the old ring is still asked.
    assert_eq!(put(&mut reconciler, std::slice::from_ref(&by_flow), 1), 0);
    assert_eq!(reconciler.running(1)[0].ring, ring);
    let later = since(WINDOW.as_secs() + 2 * SINCE_STEP);
    assert_eq!(reconciler.sweep(later).unwrap().rings_freed, 1);
    put(&mut reconciler, std::slice::from_ref(&by_flow), later);
    assert_eq!(reconciler.running(later)[0].ring.source_bits(), 0);
    assert!(reconciler.mirror().regions().count() == 2, "which learns from the other");
}

#[test]
fn a_ring_that_replaces_a_learning_one_learns_too() {
    let mut reconciler = new_reconciler();
    let before = web(&[(1, Up), (2, Up), (3, Up)]);
    let balanced = Wish { track: Track::Always, balance: Balance::RoundRobin, ..before.clone() };
    put(&mut reconciler, std::slice::from_ref(&before), 0);
    let targets_before = targets(&reconciler, &before);
    put(&mut reconciler, std::slice::from_ref(&balanced), 0);
    assert_eq!(
        targets(&reconciler, &balanced),
        targets_before,
        "flows of before are unknown, and where they were"
    );
    let longer = Wish { length: 101, ..balanced };
    put(&mut reconciler, std::slice::from_ref(&longer), 1);
    assert_eq!(targets(&reconciler, &longer), targets_before);
    assert_eq!(reconciler.running(1)[0].states.asks_old_ring, 101);
    // When the window is over, no flow is unknown: a third ring has no old ring to ask.
    let later = since(WINDOW.as_secs() + 3 * SINCE_STEP);
    assert_eq!(reconciler.sweep(later).unwrap().rings_freed, 1);
    put(&mut reconciler, &[Wish { length: 29, ..longer }], later);
    assert_eq!(reconciler.running(later)[0].states.remembering, 29);
}

#[test]
fn turns_lie_in_the_ring_one_after_the_other() {
    let mut reconciler = new_reconciler();
    let web = web(&[(1, Up), (2, Up), (3, Up)]);
    let balanced = Wish { track: Track::Always, balance: Balance::RoundRobin, ..web };
    put(&mut reconciler, std::slice::from_ref(&balanced), 0);
    let reached: Vec<_> = (0..9)
        .map(|client| {
            let verdict = reconciler.tables_mut().packet(&packet(&listen(1), client, true));
            target(reconciler.tables(), verdict).unwrap().1
        })
        .collect();
    assert!(reached.windows(2).all(|pair| pair[0] != pair[1]), "{reached:?}");
    assert!((0..6).all(|turn| reached[turn] == reached[turn + 3]), "{reached:?}");
}

#[test]
fn a_disabled_backend_is_purged_before_it_returns() {
    let mut reconciler = new_reconciler();
    let both = web(&[(1, Up), (2, Up)]);
    put(&mut reconciler, std::slice::from_ref(&both), 0);
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    for client in 0..100 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    assert!(!recorded_backends(&reconciler).is_empty());
    put(&mut reconciler, &[web(&[(1, Disabled), (2, Up)])], 1);
    let plan = plan(&mut reconciler, std::slice::from_ref(&both), 1);
    assert!(matches!(&plan.operations[0], Operation::PurgeFlows(numbers) if numbers.len() == 1));
    let applied = reconciler.apply(&plan).unwrap();
    assert!(applied.flows_purged > 0);
    put(&mut reconciler, &[web(&[(1, Disabled), (2, Up)])], 1);
    reconciler.sweep(2).unwrap();
    let plan = super::plan(&mut reconciler, &[both], 2);
    assert!(!matches!(plan.operations[0], Operation::PurgeFlows(_)), "a sweep has done it already");
}

#[test]
fn a_recreated_interface_returns_to_the_device_map() {
    let mut reconciler = new_reconciler();
    let wishes = [web(&[(1, Up)])];
    put(&mut reconciler, &wishes, 0);
    let interface = hop(1).interface;
    reconciler.tables_mut().interface_vanishes(interface);
    let plan = plan(&mut reconciler, &wishes, 0);
    assert_eq!(plan.operations, [Operation::AddEgress(interface)]);
}

#[test]
fn too_much_is_refused_naming_the_setting() {
    let mut reconciler = Reconciler::new(Twin::new(Sizes::new(2, 3, 60))).unwrap();
    let many: Vec<_> = (0..3).map(|i| wish("s", i, 13, &[(1, Up)])).collect();
    let cases = [
        (many, "3 services are asked for, but limits.services is 2 in the running maps: raise it"),
        (
            vec![web(&[(1, Up), (2, Up), (3, Up), (4, Up)])],
            "4 backends are asked for, but limits.backends is 3 in the running maps: raise it",
        ),
        (
            vec![Wish { length: 61, ..web(&[(1, Up)]) }],
            "service web: 61 slots at a stretch are asked for, but limits.slots is 60 in the running maps",
        ),
    ];
    for (wishes, wanted) in cases {
        let error = reconciler.plan(&desired(&wishes), 0).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        let PlanError::Refused(refusals) = error else { panic!("{error}") };
        assert!(refusals.iter().all(Refusal::is_limit));
    }
    assert_eq!(reconciler.tables().writes(), 0);
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up)])], 0);
    let mut wrong = desired(&[web(&[(1, Up)]), wish("twice", 1, 13, &[])]);
    wrong.seed = Seed([1, 2]);
    wrong.services[0].name = "n".repeat(65);
    wrong.services[0].window = Duration::from_secs(100_000);
    wrong.services[1].ring = vec![1; 13].into();
    let Err(PlanError::Refused(refusals)) = reconciler.plan(&wrong, 0) else { panic!("planned") };
    assert_eq!(refusals.len(), 5, "{refusals:?}");
}

#[test]
fn a_plan_says_what_it_does() {
    let mut reconciler = new_reconciler();
    let first = plan(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    assert_eq!(first.summary, ["service web is new: 2 backends, 29 slots"]);
    reconciler.apply(&first).unwrap();
    let second = plan(&mut reconciler, &[web(&[(1, Draining), (3, Up)])], 0);
    assert_eq!(second.summary[..2], ["backend web/b3 is new", "backend web/b1 is draining: no new flows"]);
    assert!(second.summary.contains(&"backend web/b2 is removed".to_owned()), "{:?}", second.summary);
    reconciler.apply(&second).unwrap();
    assert_eq!(plan(&mut reconciler, &[], 0).summary, ["service web is removed"]);
}

#[test]
fn ten_thousand_backends_are_planned_once() {
    let mut reconciler = Reconciler::new(Twin::new(Sizes::new(4, 10_100, 1_000_100))).unwrap();
    let one = service(&web(&[(1, Up)])).backends.remove(0);
    let backends = (0..10_000u32).map(|i| desired::Backend {
        name: format!("b{i}"),
        address: IpAddr::from((0x0a00_0000 + i).to_be_bytes()),
        ..one.clone()
    });
    let big = desired::Service {
        backends: backends.collect(),
        ring: (0..1_000_003u32).map(|slot| slot % 10_000 + 1).collect(),
        ..service(&web(&[(1, Up)]))
    };
    let desired = Desired { services: vec![big], ..desired(&[]) };
    let plan = reconciler.plan(&desired, 0).unwrap();
    assert_eq!(reconciler.apply(&plan).unwrap().slots, 1_000_003);
    assert_eq!(reconciler.plan(&desired, 9).unwrap().entries(), 0);
}

/// Whether the only service tracks always, and how many of its slots are tracked.
fn tracking(reconciler: &Reconciler<Twin>) -> (bool, u32) {
    let (_, record, _) = reconciler.mirror().present().next().unwrap();
    (record.tracks_always(), States::of(reconciler.tables().slots(), record.ring, 0).tracked())
}

#[test]
fn leaving_track_always_waits_for_the_flows() {
    let mut wish = wish("web", 1, 13, &[(1, State::Up), (2, State::Up)]);
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[wish.clone()], 0);
    assert_eq!(tracking(&reconciler), (false, 0));
    wish.track = Track::Always;
    assert_eq!(put(&mut reconciler, &[wish.clone()], 0), 13 + 1, "the slots and the record");
    assert_eq!(put(&mut reconciler, &[wish.clone()], 1), 0, "a second time nothing");
    for client in 0..50 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    assert_eq!(reconciler.tables().flow_count(Role::Flow), 50);
    reconciler.sweep(0).unwrap();
    assert_eq!(reconciler.tables().flow_count(Role::Flow), 50, "records of owners are kept, too");
    assert_eq!(tracking(&reconciler), (true, 13), "no slot ever settles");
    wish.track = Track::OnChange;
    put(&mut reconciler, &[wish.clone()], 1);
    assert_eq!(tracking(&reconciler), (false, 13));
    // All flows are at their slot's owner. Their records do no harm.
    reconciler.sweep(1).unwrap();
    assert_eq!(tracking(&reconciler), (false, 0));
    assert_eq!(reconciler.tables().flow_count(Role::Flow), 50);
    reconciler.tables().set_seconds(2 * WINDOW.as_secs());
    reconciler.sweep(1).unwrap();
    assert_eq!(reconciler.tables().flow_count(Role::Flow), 0);
}

#[test]
fn track_never_writes_no_tracked_slot() {
    let mut wish = wish("web", 1, 13, &[(1, State::Up), (2, State::Up)]);
    wish.track = Track::Never;
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[wish.clone()], 0);
    for (number, state, length) in
        [(3, State::Up, 13), (1, State::Draining, 13), (1, State::Up, 29), (2, State::Down, 29)]
    {
        wish.backends.insert(number, state);
        wish.length = length;
        put(&mut reconciler, &[wish.clone()], 0);
        assert_eq!(tracking(&reconciler), (false, 0), "{wish:?}");
        assert_says(&reconciler, &[wish.clone()]);
        reconciler.sweep(0).unwrap();
    }
}
