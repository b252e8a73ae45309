//! Sweeps over the flow table in the kernel's memory, piece by piece, while plans are carried out.

use std::time::{Duration, Instant};

use lb_common::{
    flow::Record,
    flow_table::{self, Key, Memory as _, Role},
    slot::{Track, since},
};

use super::{
    traffic::{desired, packet, run_through},
    *,
};
use crate::{
    reconcile::{FlowCounts, Reconciler, Swept, slot::States},
    tables::Tables as _,
};

const FLOWS: u32 = 60_000;
const ROOM: Limits = Limits { flows: 1 << 18, ..LIMITS };
/// Buckets of a piece.
const PIECE: u32 = 4096;

type Agent = Reconciler<Kernel>;

type Backends<'a> = &'a [(u8, bool, bool)];
const BEFORE: Backends<'_> = &[(1, true, true), (2, true, true)];
/// Both backends drain, and a third one takes all slots.
const AFTER: Backends<'_> = &[(1, false, true), (2, false, true), (3, true, true)];

/// A service `web` whose slots all learn.
fn learning(world: &World) -> Agent {
    let (kernel, _) = open(&Options { limits: ROOM, ..world.options() }).unwrap();
    let mut agent = Reconciler::new(kernel).unwrap();
    for backends in [BEFORE, AFTER] {
        put(&mut agent, backends);
    }
    agent
}

fn put(agent: &mut Agent, backends: Backends<'_>) -> u64 {
    let plan = agent.plan(&desired(backends, 251, Track::OnChange), since(0)).unwrap();
    agent.apply(&plan).unwrap().writes
}

fn number(agent: &Agent, name: &str) -> (u32, u32) {
    let running = agent.running(since(0));
    let web = running.iter().find(|service| service.name == "web").unwrap();
    (web.number, web.backends.iter().find(|backend| backend.name == name).unwrap().number)
}

/// The hash of a flow.
fn hash(flow: u32) -> u64 {
    let mixed = (u64::from(flow) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Records flows of backend `b1`, each last seen at the time that `seen` gives.
fn fill(agent: &mut Agent, flows: std::ops::Range<u32>, seen: impl Fn(u32) -> u64) {
    let (_, backend) = number(agent, "b1");
    let now = agent.tables().jiffies().unwrap().now as u32;
    let mut table = agent.tables().flows_for_writing(now);
    for flow in flows {
        let record = Record { backend, last_seen: seen(flow) as u32, ..Record::NONE };
        table.put(hash(flow), Role::Flow, &record);
    }
    assert_eq!(table.lost(), 0);
}

/// A sweep in pieces; `between` is called after each piece. Returns also the longest time that a piece took.
fn sweep(agent: &mut Agent, mut between: impl FnMut(&mut Agent, u32)) -> (Swept, FlowCounts, Duration) {
    let mut sweep = agent.begin_sweep(since(0)).unwrap().unwrap();
    agent.tables().waiter()();
    let mut longest = Duration::ZERO;
    for piece in 0.. {
        let begun = Instant::now();
        let more = agent.walk(&mut sweep, PIECE).unwrap();
        longest = longest.max(begun.elapsed());
        between(agent, piece);
        if !more {
            break;
        }
    }
    let (swept, counts) = agent.end_sweep(sweep, since(0)).unwrap();
    (swept, counts, longest)
}

#[test]
fn the_table_is_walked_in_pieces_while_plans_are_applied() {
    isolated("the_table_is_walked_in_pieces_while_plans_are_applied", |world| {
        let mut agent = learning(world);
        let now = agent.tables().jiffies().unwrap().now;
        fill(&mut agent, 0..FLOWS, |_| now);
        let mut planned = 0;
        let (swept, counts, longest) = sweep(&mut agent, |agent, piece| {
            // A fourth backend comes and goes.
            planned += put(agent, &[AFTER, &[(4, piece % 2 == 0, true)]].concat());
        });
        assert_eq!((swept.flows, swept.deleted, counts.confirmed), (FLOWS.into(), 0, FLOWS.into()));
        assert!(planned > 1000, "{planned} entries were written in between");
        let _ = writeln!(std::io::stderr(), "walking over {PIECE} buckets took {longest:?} at most");
    });
}

#[test]
fn a_record_ages_by_the_clock_of_the_kernel() {
    isolated("a_record_ages_by_the_clock_of_the_kernel", |world| {
        let mut agent = learning(world);
        let jiffies = agent.tables().jiffies().unwrap();
        // The window of the service is 96 s.
        let ages = [0i64, 90, 100, 100_000, -5];
        let seen = |flow: u32| jiffies.now.saturating_add_signed(-ages[flow as usize] * jiffies.hz as i64);
        fill(&mut agent, 0..5, seen);
        let (swept, counts, _) = sweep(&mut agent, |_, _| {});
        assert_eq!((swept.flows, swept.deleted, counts.confirmed), (5, 2, 3));
        let table = agent.tables().flow_table();
        let memory = table.with(|_| 0);
        for (flow, age) in (0..).zip(ages) {
            let left =
                flow_table::find(&memory, &Key::of(hash(flow), memory.buckets()), Role::Flow).is_some();
            assert_eq!(left, age < 96, "silent for {age} s");
        }
    });
}

#[test]
fn a_restart_during_a_sweep_starts_it_again() {
    isolated("a_restart_during_a_sweep_starts_it_again", |world| {
        let mut agent = learning(world);
        let jiffies = agent.tables().jiffies().unwrap();
        let old = jiffies.now - 200 * jiffies.hz;
        fill(&mut agent, 0..FLOWS, |flow| if flow % 2 == 0 { jiffies.now } else { old });
        let mut begun = agent.begin_sweep(since(0)).unwrap().unwrap();
        for _ in 0..3 {
            assert!(agent.walk(&mut begun, PIECE).unwrap());
        }
        drop((begun, agent));
        let (kernel, opened) = open(&Options { limits: ROOM, ..world.options() }).unwrap();
        assert!(opened.adopted);
        let mut agent = Reconciler::new(kernel).unwrap();
        put(&mut agent, AFTER);
        let (_, counts, _) = sweep(&mut agent, |_, _| {});
        assert_eq!(counts.confirmed, u64::from(FLOWS) / 2, "the live half, and nothing of the other");
        assert_eq!(sweep(&mut agent, |_, _| {}).0.flows, u64::from(FLOWS) / 2);
    });
}

#[test]
fn only_a_slot_without_flows_elsewhere_settles() {
    isolated("only_a_slot_without_flows_elsewhere_settles", |world| {
        let mut agent = learning(world);
        // Ten flows from before. The second segment shows that there is a flow.
        for client in [0..10, 0..10].into_iter().flatten() {
            run_through(agent.tables_mut(), &packet(client, 80, false, false)).unwrap();
        }
        // The window of the slots is over.
        let later = since(10_000);
        let tracked = |agent: &mut Agent| {
            agent.sweep(later).unwrap();
            let (_, record, _) = agent.mirror().present().find(|(number, ..)| *number == 0).unwrap();
            States::of(agent.tables().slots(), record.ring, later).tracked()
        };
        let learnt = tracked(&mut agent);
        assert!(learnt > 50);
        let left = tracked(&mut agent);
        let shared = 10 * lb_common::elsewhere::SLOTS;
        assert!((10..=shared).contains(&left), "{left} of {learnt} slots remember ten flows");
        assert_eq!(tracked(&mut agent), left, "for as long as those live");
        // As the clocks would be when these flows have been silent for the window.
        for clock in agent.tables().elsewhere() {
            clock.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        assert_eq!(tracked(&mut agent), 0);
    });
}
