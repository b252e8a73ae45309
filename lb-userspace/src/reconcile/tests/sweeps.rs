//! Sweeps during which other things happen.

use lb_common::{
    elsewhere,
    flow::Record,
    flow_table::{self, Role},
    hash,
    slot::{SINCE_STEP, since},
};

use super::{
    State::{Disabled, Down, Draining, Up},
    *,
};
use crate::{
    reconcile::{FlowCounts, Sweep, Swept, slot::States},
    tables::clocks,
};

const SECONDS: u64 = 3 * WINDOW.as_secs();
/// Seconds after which a clock that was set is over: the window, and at most three steps more.
const CLOCK: u64 = WINDOW.as_secs() + 4 * 33;

fn web(backends: &[(u8, State)]) -> Wish {
    wish("web", 1, 29, backends)
}

/// A drained backend's slots, with their window over and no flow recorded: they remember, and no record keeps them so.
fn remembering() -> Reconciler<Twin> {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    // A service that has forwarded nothing remembers nothing.
    reconciler.tables_mut().packet(&packet(&listen(1), 1, true));
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    reconciler.tables().set_seconds(SECONDS);
    assert!(reconciler.sweep(since(SECONDS)).unwrap().learning_ended > 5);
    assert!(states(&reconciler).remembering > 5);
    reconciler
}

fn states(reconciler: &Reconciler<Twin>) -> States {
    reconciler.running(since(SECONDS))[0].states
}

fn begin(reconciler: &mut Reconciler<Twin>) -> Sweep {
    reconciler.begin_sweep(since(SECONDS)).unwrap().expect("there is something to do")
}

/// Goes on with a sweep to the end of the table, and ends it.
fn finish(reconciler: &mut Reconciler<Twin>, mut sweep: Sweep) -> (Swept, FlowCounts) {
    walk(reconciler, &mut sweep);
    reconciler.end_sweep(sweep, since(SECONDS)).unwrap()
}

fn walk(reconciler: &Reconciler<Twin>, sweep: &mut Sweep) {
    while reconciler.walk(sweep, 100).unwrap() {}
}

#[test]
fn slots_go_on_learning_while_the_table_loses_records() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    // A service without traffic has nothing to learn.
    reconciler.tables_mut().packet(&packet(&listen(1), 1, true));
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    let window = WINDOW.as_secs();
    let sweep = |reconciler: &mut Reconciler<Twin>, seconds| {
        reconciler.tables().set_seconds(seconds);
        reconciler.sweep(since(seconds)).unwrap()
    };
    sweep(&mut reconciler, 1);
    reconciler.tables_mut().lost_records = 3;
    let swept = sweep(&mut reconciler, window / 2);
    assert_eq!((swept.learning_ended, swept.prolonged), (0, 0), "the window is not over");
    let swept = sweep(&mut reconciler, window + 20);
    assert!(swept.learning_ended == 0 && swept.prolonged > 5, "{swept:?}");
    let swept = sweep(&mut reconciler, window + window / 2 + 20);
    assert!(swept.learning_ended > 5 && swept.prolonged == 0, "{swept:?}");
}

#[test]
fn a_slot_written_during_the_sweep_does_not_settle() {
    let mut reconciler = remembering();
    let sweep = begin(&mut reconciler);
    // Backend 1 gets all slots. None of them learns, since backend 2 is disabled: slots that remembered go on remembering.
    let changed = put(&mut reconciler, &[web(&[(1, Up), (2, Disabled)])], since(SECONDS));
    assert!(changed > 5);
    let all = states(&reconciler).remembering;
    let (swept, _) = finish(&mut reconciler, sweep);
    assert!(swept.settled < u64::from(all), "{swept:?}, {all} slots remembered");
    let written = u64::from(states(&reconciler).remembering);
    assert!(written > 0);
    // They remembered: a record that named their owner may name another backend now. So they wait for it.
    assert_eq!(reconciler.sweep(since(SECONDS)).unwrap().settled, 0);
    reconciler.tables().set_seconds(SECONDS + CLOCK);
    assert_eq!(reconciler.sweep(since(SECONDS + CLOCK)).unwrap().settled, written);
}

#[test]
fn no_slot_settles_after_its_service_was_written() {
    let mut reconciler = remembering();
    let sweep = begin(&mut reconciler);
    // Packets under way may still use the record that has every flow recorded.
    let always = Wish { track: Track::Always, ..web(&[(1, Draining), (2, Up)]) };
    put(&mut reconciler, &[always], since(SECONDS));
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], since(SECONDS));
    assert_eq!(finish(&mut reconciler, sweep).0.settled, 0);
    assert!(reconciler.sweep(since(SECONDS)).unwrap().settled > 0);
}

#[test]
fn a_record_of_a_packet_under_way_keeps_its_slot() {
    let mut reconciler = remembering();
    let sweep = begin(&mut reconciler);
    let remembering = u64::from(states(&reconciler).remembering);
    // A packet read its slot while the slot was learning from backend 1. After the sweep began it makes a record and sets the
    // clock.
    let (service, drained) = {
        let running = &reconciler.running(since(SECONDS))[0];
        (running.number, running.backends[0].number)
    };
    let ring = reconciler.mirror().services[service as usize].ring;
    let slot_of = |packet: &Packet| {
        let Packet { source, destination, source_port, destination_port, protocol, .. } = packet;
        let ports = lb_common::wire::ports(*source_port, *destination_port);
        ring.slot(hash::flow(&SEED, source, destination, ports, *protocol))
    };
    let tables = reconciler.tables();
    let word = |slot: u32| {
        lb_common::slot::Slot(tables.slots()[slot as usize].load(std::sync::atomic::Ordering::Relaxed))
    };
    let packets = (0..100).map(|client| packet(&listen(1), client, false));
    let late = packets.into_iter().find(|packet| word(slot_of(packet)).is_tracked()).unwrap();
    let (key, now) = (tables.flow_key(&late), tables.jiffies().unwrap().now as u32);
    let record = Record { backend: drained, sequence: late.sequence, last_seen: now, ..Record::NONE };
    flow_table::put(&tables.flow_table().with(|_| service), &key, Role::Flow, &record, now, 0);
    clocks::set(tables.elsewhere(), slot_of(&late), elsewhere::at(now));
    let (swept, counts) = finish(&mut reconciler, sweep);
    assert_eq!((counts.confirmed, counts.by_service[&service].elsewhere), (1, 1));
    assert!(swept.settled < remembering && swept.settled >= remembering - u64::from(elsewhere::SLOTS));
    let to = target(reconciler.tables(), reconciler.tables().peek(&late)).unwrap().1;
    assert_eq!(to, backend_address(1), "its slot still asks the table");
}

#[test]
fn a_record_refreshed_during_the_walk_is_kept() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    for client in 0..100 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    let written = reconciler.tables().flow_count(Role::Flow);
    assert!(written > 20);
    // All flows have been silent for too long when the sweep begins; then a few clients send.
    reconciler.tables().set_seconds(2 * SECONDS);
    let mut sweep = begin(&mut reconciler);
    for client in 0..10 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    walk(&reconciler, &mut sweep);
    let left = reconciler.tables().flow_count(Role::Flow);
    assert!((1..=10).contains(&left) && left < written, "{left} of {written}");
}

/// Steps of the clock after which the flows of a backend that is down are given up: here as long as a window, and rounded up.
const GRACE: u16 = (WINDOW.as_secs() / SINCE_STEP) as u16 + 2;

#[test]
fn a_short_outage_keeps_slots_and_records() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up), (3, Up)])], 0);
    // Some flows of backend 3 are recorded, in slots that backend 3 had.
    put(&mut reconciler, &[web(&[(1, Up), (2, Up), (3, Draining)])], 0);
    for client in 0..100 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    let went = |reconciler: &Reconciler<Twin>, client| {
        let verdict = reconciler.tables().peek(&packet(&listen(1), client, false));
        target(reconciler.tables(), verdict).map(|(_, to)| to)
    };
    let before: Vec<_> = (0..200).map(|client| went(&reconciler, client)).collect();
    // The backends go down one after the other, and come back in another order, with sweeps and a new agent in between.
    let states = |one, two, three| [web(&[(1, one), (2, two), (3, three)])];
    put(&mut reconciler, &states(Down, Up, Draining), 1);
    reconciler.sweep(1).unwrap();
    put(&mut reconciler, &states(Down, Down, Down), 2);
    reconciler.sweep(2).unwrap();
    let mut reconciler = Reconciler::new(reconciler.into_tables()).unwrap();
    put(&mut reconciler, &states(Down, Down, Down), 2);
    reconciler.sweep(3).unwrap();
    put(&mut reconciler, &states(Down, Up, Draining), 3);
    reconciler.sweep(4).unwrap();
    put(&mut reconciler, &states(Up, Up, Draining), 4);
    let after: Vec<_> = (0..200).map(|client| went(&reconciler, client)).collect();
    assert_eq!(before, after, "no flow is another backend's because its own failed for a moment");
}

#[test]
fn flows_of_a_dead_backend_are_given_up_after_grace() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    reconciler.tables_mut().packet(&packet(&listen(1), 1, true));
    put(&mut reconciler, &[web(&[(1, Down), (2, Up)])], 0);
    assert!(states(&reconciler).learning > 0, "unknown flows are its own");
    reconciler.sweep(GRACE - 2).unwrap();
    assert!(states(&reconciler).learning > 0);
    // The end of the grace is in the tables.
    let mut reconciler = Reconciler::new(reconciler.into_tables()).unwrap();
    put(&mut reconciler, &[web(&[(1, Down), (2, Up)])], GRACE - 2);
    let swept = reconciler.sweep(GRACE + 1).unwrap();
    assert!(swept.learning_ended > 0, "{swept:?}");
    assert_eq!(states(&reconciler).learning, 0);
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], GRACE + 2);
    assert!(states(&reconciler).learning > 0, "what flows there are is the other one's now");
}

#[test]
fn the_fingerprint_covers_owners_of_unknown_flows() {
    let (mut one, mut other) = (new_reconciler(), new_reconciler());
    for reconciler in [&mut one, &mut other] {
        put(reconciler, &[web(&[(1, Up), (2, Up)])], 0);
        reconciler.tables_mut().packet(&packet(&listen(1), 1, true));
    }
    assert_eq!(one.standing(), other.standing());
    // One node saw a failure: the fingerprints differ while the failure lasts, and not after it.
    put(&mut one, &[web(&[(1, Down), (2, Up)])], 0);
    assert_ne!(one.standing(), other.standing());
    put(&mut one, &[web(&[(1, Up), (2, Up)])], 1);
    assert_eq!(one.standing(), other.standing(), "remembering and stable slots send unknown flows alike");
    // Only one node gives the flows away: the rings are equal again, but not the owners of unknown flows.
    put(&mut one, &[web(&[(1, Disabled), (2, Up)])], 2);
    put(&mut one, &[web(&[(1, Up), (2, Up)])], 3);
    assert_ne!(one.standing(), other.standing());
}

#[test]
fn a_disabled_backend_has_no_grace() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Disabled), (2, Up)])], 0);
    assert_eq!(states(&reconciler).tracked(), 0);
}

#[test]
fn a_death_during_a_sweep_is_purged_before_the_return() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    for client in 0..100 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    let died = since(SECONDS);
    let mut sweep = begin(&mut reconciler);
    walk(&reconciler, &mut sweep);
    put(&mut reconciler, &[web(&[(1, Down), (2, Up)])], died);
    reconciler.end_sweep(sweep, since(SECONDS)).unwrap();
    let back = plan(&mut reconciler, &[web(&[(1, Up), (2, Up)])], died);
    assert!(
        !back.operations.iter().any(|step| matches!(step, Operation::PurgeFlows(_))),
        "it keeps its flows"
    );
    // The next sweep gives the flows up when it ends, after it has met their records.
    let sweep = begin(&mut reconciler);
    reconciler.end_sweep(sweep, died + GRACE).unwrap();
    let back = plan(&mut reconciler, &[web(&[(1, Up), (2, Up)])], died + GRACE);
    assert!(
        matches!(back.operations[0], Operation::PurgeFlows(_)),
        "the walk met its records while they were kept"
    );
}

#[test]
fn a_restart_discards_the_sweep_under_way() {
    let mut reconciler = remembering();
    let mut sweep = begin(&mut reconciler);
    assert!(reconciler.walk(&mut sweep, 100).unwrap());
    let remembered = states(&reconciler).remembering;
    drop(sweep);
    let mut second = Reconciler::new(reconciler.into_tables()).unwrap();
    put(&mut second, &[web(&[(1, Draining), (2, Up)])], since(SECONDS));
    assert_eq!(states(&second).remembering, remembered);
    let sweep = begin(&mut second);
    assert_eq!(finish(&mut second, sweep).0.settled, u64::from(remembered));
}

#[test]
fn a_sweep_counts_the_live_flows_that_stay_recorded() {
    let mut reconciler = new_reconciler();
    put(&mut reconciler, &[web(&[(1, Up), (2, Up)])], 0);
    put(&mut reconciler, &[web(&[(1, Draining), (2, Up)])], 0);
    for client in 0..100 {
        let closes = client % 4 == 0;
        // The second packet confirms the flow.
        for _ in 0..2 {
            reconciler.tables_mut().packet(&Packet { closes, ..packet(&listen(1), client, false) });
        }
        reconciler.tables_mut().packet(&packet(&listen(1), 1000 + client, true));
    }
    reconciler.tables().set_seconds(10);
    let sweep = begin(&mut reconciler);
    let (swept, counts) = finish(&mut reconciler, sweep);
    assert_eq!((swept.deleted, swept.flows), (0, reconciler.tables().flow_count(Role::Flow) as u64));
    assert_eq!(counts.pending, reconciler.tables().flow_count(Role::Pending) as u64);
    assert!(counts.confirmed > 0 && counts.confirmed < swept.flows, "closed ones are over: {counts:?}");
    assert_eq!(
        counts.by_backend.values().map(|flows| flows.live + flows.idle).sum::<u64>(),
        counts.confirmed
    );
}

/// Makes a service that balances by live flows. Returns how many of 30 flows each of its two backends has.
fn by_live_flows(reconciler: &mut Reconciler<Twin>) -> [i64; 2] {
    let wish = Wish { track: Track::Always, balance: Balance::LeastConnections, ..web(&[(1, Up), (2, Up)]) };
    put(reconciler, &[wish], 0);
    for client in 0..30 {
        for syn in [true, false] {
            reconciler.tables_mut().packet(&packet(&listen(1), client, syn));
        }
    }
    live(reconciler)
}

fn live(reconciler: &Reconciler<Twin>) -> [i64; 2] {
    let live = reconciler.tables().live();
    [1, 2].map(|number| live[number].load(std::sync::atomic::Ordering::Relaxed).cast_signed())
}

#[test]
fn an_idle_flow_does_not_count_until_it_sends_again() {
    let mut reconciler = new_reconciler();
    assert_eq!(by_live_flows(&mut reconciler).iter().sum::<i64>(), 30);
    // Ten flows go on. Twenty are silent, for instance because the server has reset them.
    reconciler.tables().set_seconds(IDLE_AFTER.as_secs());
    for client in 0..10 {
        reconciler.tables_mut().packet(&packet(&listen(1), client, false));
    }
    reconciler.tables().set_seconds(IDLE_AFTER.as_secs() + 2);
    let sweep = begin(&mut reconciler);
    let (swept, counts) = finish(&mut reconciler, sweep);
    assert_eq!((swept.deleted, swept.flows, counts.confirmed), (0, 30, 30), "nothing is forgotten");
    let (live_flows, idle) =
        counts.by_backend.values().fold((0, 0), |(live, idle), of| (live + of.live, idle + of.idle));
    assert_eq!((live_flows, idle), (10, 20));
    assert_eq!(live(&reconciler).iter().sum::<i64>(), 10);
    // One of the silent flows sends again, another one closes.
    let silent = packet(&listen(1), 20, false);
    let at = target(reconciler.tables(), reconciler.tables().peek(&silent)).unwrap();
    let verdict = reconciler.tables_mut().packet(&silent);
    assert_eq!(target(reconciler.tables(), verdict), Some(at), "where it was");
    assert_eq!(live(&reconciler).iter().sum::<i64>(), 11);
    reconciler.tables_mut().packet(&Packet { closes: true, ..packet(&listen(1), 21, false) });
    assert_eq!(live(&reconciler).iter().sum::<i64>(), 11, "it had been taken off");
    let sweep = begin(&mut reconciler);
    finish(&mut reconciler, sweep);
    assert_eq!(live(&reconciler).iter().sum::<i64>(), 11, "the walk counts as packets do");
}

#[test]
fn only_a_service_by_live_flows_describes_its_ring() {
    let mut reconciler = new_reconciler();
    by_live_flows(&mut reconciler);
    let record = *reconciler.mirror().present().next().unwrap().1;
    let hz = reconciler.tables().jiffies().unwrap().hz;
    assert_eq!((record.longest, u64::from(record.idle_after)), (15, 24 * hz));
    let hash = web(&[(1, Up), (2, Up)]);
    put(&mut reconciler, &[hash], 0);
    assert_eq!(reconciler.mirror().present().next().unwrap().1.longest, 0);
}
