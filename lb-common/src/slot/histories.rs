//! Random histories of one service and its flows, with nothing but this crate's rules. In every history, a flow whose
//! backend is alive stays there until the flow ends or was idle for longer than the window. A backend that was down for
//! a moment and is back still has the flows that sent nothing meanwhile.
//!
//! [`clients`] judges: it remembers every flow that exists, and knows nothing of slots and tables. [`service`] is what
//! it judges: slots and two tables, changed by the rules. [`step`] says what may happen. Tests in the kernel half and in
//! the agent check how these carry the same rules out. Too long for Miri, which runs the rules themselves in
//! `properties`.

mod clients;
mod service;
mod step;

use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree as _},
    test_runner::{Config as ProptestConfig, TestRunner},
};

use self::{
    clients::Clients,
    service::{Rules, Service},
    step::{Change, FORGED, Step, step},
};
use super::*;
use crate::{
    evidence::{Known, decide},
    flow::Record,
    icmp,
};

/// Seconds after which a silent flow counts as gone.
const WINDOW: u64 = 200;

/// What became of the flows of a history.
#[derive(Clone, Copy, Default, Debug)]
struct Outcome {
    /// Packets that went elsewhere than to the living backend of their flow.
    broken: u32,
    /// Packets whose backend the clients knew in advance.
    judged: u32,
    /// Packets that found a record of their flow.
    remembered: u32,
    /// ICMP errors about flows whose backend the clients knew.
    reported: u32,
    /// Those that went elsewhere.
    astray: u32,
}

fn happen(rules: Rules, protocol: Protocol, history: &[Step]) -> Outcome {
    let mut service = Service::new(rules);
    let mut clients = Clients::new(protocol);
    for step in history {
        match *step {
            Step::Wait(seconds) => service.wait(seconds),
            Step::Begin(flow) => clients.begin(&mut service, flow),
            Step::Repeat(flow) => clients.repeat(&mut service, flow),
            Step::Send(flow) => clients.send(&mut service, flow),
            Step::End(flow) => clients.end(&mut service, flow),
            Step::HalfClose(flow) => clients.half_close(&mut service, flow),
            Step::Reset(flow) => clients.reset(&mut service, flow),
            Step::Forge(flow, segment, number) => clients.forge(&mut service, flow, segment, number),
            Step::Abandon(flow) => clients.abandon(flow),
            Step::Sweep => {
                clients.hear_of_sweep(&service);
                service.sweep();
            }
            Step::Change(ref change) => {
                service.change(change);
                clients.hear_of(&service);
            }
        }
        clients.report_all(&service);
    }
    clients.send_all(&mut service);
    Outcome { remembered: service.remembered(), ..clients.outcome() }
}

/// What the flows of a history use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Tcp,
    Udp,
}

fn histories(long: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..long)
}

/// Fewer cases than for other properties, since a history is long; `PROPTEST_CASES` counts here, too.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.div_ceil(3), ..default }
}

proptest::proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_tcp_flow_is_moved_while_its_backend_lives(history in histories(250)) {
        let all = happen(Rules::OURS, Protocol::Tcp, &history);
        proptest::prop_assert_eq!((all.broken, all.astray), (0, 0));
    }

    #[test]
    fn no_udp_flow_is_moved_while_its_backend_lives(history in histories(250)) {
        let all = happen(Rules::OURS, Protocol::Udp, &history);
        proptest::prop_assert_eq!((all.broken, all.astray), (0, 0));
    }
}

/// The outcome of histories that are the same in every run.
fn many(rules: Rules, protocol: Protocol) -> Outcome {
    some(16, rules, protocol)
}

fn some(count: usize, rules: Rules, protocol: Protocol) -> Outcome {
    let mut runner = TestRunner::deterministic();
    let mut all = Outcome::default();
    for _ in 0..count {
        let history = vec(step(), 200..250).new_tree(&mut runner).expect("steps need no luck").current();
        let one = happen(rules, protocol, &history);
        all.broken += one.broken;
        all.judged += one.judged;
        all.remembered += one.remembered;
        all.reported += one.reported;
        all.astray += one.astray;
    }
    all
}

#[test]
fn the_histories_show_something() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let all = many(Rules::OURS, protocol);
        assert!(all.broken == 0 && all.judged > 10 && all.remembered > 1, "{protocol:?}: {all:?}");
        assert!(all.astray == 0 && all.reported > 100, "{protocol:?}: {all:?}");
    }
}

#[test]
fn a_rule_that_sends_icmp_errors_elsewhere_is_found() {
    let without_records: fn(&Known, u32) -> u32 = |_, unknown| unknown;
    let next_to_it_first: fn(&Known, u32) -> u32 = |known, unknown| {
        if known.pending.is_there() { known.pending.backend } else { icmp::backend_of(known, unknown).0 }
    };
    let named = [("without records", without_records), ("next to it", next_to_it_first)];
    for (name, error) in named {
        let wrong = some(64, Rules { error, ..Rules::OURS }, Protocol::Tcp);
        assert!(wrong.astray > 0, "{name}: the routers are too tame: {wrong:?}");
    }
}

/// Asserts that the judge sees what a wrong rule breaks.
fn is_found(wrong: Rules) {
    let (tcp, udp) = (some(64, wrong, Protocol::Tcp), some(64, wrong, Protocol::Udp));
    assert!(tcp.broken > 0 && udp.broken > 0, "the histories are too tame: {tcp:?} {udp:?}");
}

#[test]
fn a_rule_that_overwrites_previous_is_found() {
    is_found(Rules {
        change: |slot, _, new, alive, now| match slot.current() {
            old if old == new => slot,
            old if old != 0 && alive(old) => Slot::learning(new, old, now),
            _ => Slot::remembering(new),
        },
        ..Rules::OURS
    });
}

#[test]
fn a_rule_without_tracking_is_found() {
    is_found(Rules { change: |_, _, new, _, _| Slot::stable(new), ..Rules::OURS });
}

#[test]
fn forgetting_the_owner_of_unknown_flows_is_found() {
    is_found(Rules {
        change: |slot, track, new, alive, now| match slot.next(track, new, alive, now) {
            next if next.is_tracked() && !next.is_learning() => Slot::stable(new),
            next => next,
        },
        ..Rules::OURS
    });
}

#[test]
fn giving_flows_away_for_good_on_failure_is_found() {
    is_found(Rules { grace: 0, ..Rules::OURS });
}

#[test]
fn a_window_that_ends_early_is_found() {
    is_found(Rules { window: WINDOW / 4, ..Rules::OURS });
}

#[test]
fn a_sweep_that_settles_slots_with_records_is_found() {
    is_found(Rules { settles_with_records: true, ..Rules::OURS });
}

/// Asserts that the judge sees what a wrong rule of evidence breaks. Datagrams have no numbers.
fn is_found_with_tcp(evidence: service::Evidence) {
    let tcp = some(128, Rules { evidence, ..Rules::OURS }, Protocol::Tcp);
    assert!(tcp.broken > 0, "the forger is too tame: {tcp:?}");
}

#[test]
fn a_rule_that_does_not_look_at_numbers_is_found() {
    is_found_with_tcp(|slot, always, packet, known, unknown| {
        let any = |record: Record| Record { flags: record.flags | Record::ANY, ..record };
        let known = Known { flow: any(known.flow), pending: any(known.pending), ..*known };
        decide(slot, always, packet, &known, unknown)
    });
}

#[test]
fn letting_any_segment_continue_a_syn_is_found() {
    is_found_with_tcp(|slot, always, packet, known, unknown| {
        let mut pending = known.pending;
        if !pending.has(Record::ELDER) {
            pending.flags |= Record::ANY;
        }
        decide(slot, always, packet, &Known { pending, ..*known }, unknown)
    });
}

#[test]
fn a_forged_segment_moves_no_flow_of_a_down_backend() {
    for segment in FORGED {
        let mut history = Vec::new();
        history.extend((0..24).flat_map(|flow| [Step::Begin(flow), Step::Send(flow)]));
        history.push(Step::Change(Change::Health(1, false)));
        // With a whole handshake among them, too.
        history.extend((0..24).flat_map(|flow| [5, 5, 6].map(|number| Step::Forge(flow, segment, number))));
        history.extend([Step::Wait(5), Step::Sweep, Step::Change(Change::Health(1, true))]);
        let all = happen(Rules::OURS, Protocol::Tcp, &history);
        assert!(all.broken == 0 && all.judged == 48, "{segment:?}: {all:?}");
    }
}
