//! Sweeps over the kernel's own flow tables: another thread reads the tables while plans are carried out.

use std::{sync::mpsc, thread};

use lb_common::{
    flow::{Key, Record},
    slot::{Track, since},
};

use super::{traffic::desired, *};
use crate::{
    reconcile::{FlowCounts, Reconciler, Swept, slot::States, sweep::ORDER},
    tables::{FlowTable, Records, Tables as _},
};

const FLOWS: u32 = 60_000;
const ROOM: Limits = Limits { flows: 1 << 18, ..LIMITS };

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

fn key(service: u32, flow: u32) -> Key {
    Key { source: [0, 0, 0xffff_0000, flow], ports: flow.rotate_left(7), service }
}

/// Records flows of backend `b1`, each last seen at the time that `seen` gives.
fn fill(agent: &mut Agent, flows: std::ops::Range<u32>, seen: impl Fn(u32) -> u64) {
    let (service, backend) = number(agent, "b1");
    let table = &mut agent.tables_mut().flows;
    for flow in flows {
        let record = Record { backend, last_seen: seen(flow) as u32, ..Record::NONE };
        table.insert(key(service, flow), record, 0).unwrap();
    }
}

/// A sweep for which another thread reads the tables; `between` is called after each piece.
fn sweep(agent: &mut Agent, mut between: impl FnMut(&mut Agent, u32)) -> (Swept, FlowCounts, usize) {
    let mut sweep = agent.begin_sweep(since(0)).unwrap().unwrap();
    let mut readers: Vec<_> =
        ORDER.iter().map(|table| (*table, agent.tables().flow_reader(*table).unwrap())).collect();
    let (sender, receiver) = mpsc::sync_channel::<(FlowTable, Records)>(1);
    let thread = thread::spawn(move || {
        readers[0].1.barrier();
        for (table, reader) in &mut readers {
            while let Some(read) = reader.next().unwrap() {
                if sender.send((*table, read)).is_err() {
                    return;
                }
            }
        }
    });
    let mut longest = 0;
    for (piece, (table, read)) in (0..).zip(receiver) {
        longest = longest.max(read.keys.len());
        agent.sweep_records(&mut sweep, table, &read).unwrap();
        between(agent, piece);
    }
    thread.join().unwrap();
    let (swept, counts) = agent.end_sweep(sweep, since(0)).unwrap();
    (swept, counts, longest)
}

#[test]
fn records_are_read_in_pieces_while_plans_are_applied() {
    isolated("records_are_read_in_pieces_while_plans_are_applied", |world| {
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
        assert!(longest < 4096, "a piece of {longest} records");
    });
}

#[test]
fn a_record_ages_by_the_clock_of_the_kernel() {
    isolated("a_record_ages_by_the_clock_of_the_kernel", |world| {
        let mut agent = learning(world);
        let jiffies = agent.tables().jiffies().unwrap();
        // The window of the service is 96 s.
        let ages = [0i64, 90, 100, 100_000, -5, -100_000];
        let seen = |flow: u32| jiffies.now.saturating_add_signed(-ages[flow as usize] * jiffies.hz as i64);
        fill(&mut agent, 0..6, seen);
        let (swept, counts, _) = sweep(&mut agent, |_, _| {});
        assert_eq!((swept.flows, swept.deleted, counts.confirmed), (6, 2, 4));
        let (service, _) = number(&agent, "b1");
        for (flow, age) in (0..).zip(ages) {
            let left = agent.tables().flows.get(&key(service, flow), 0).is_ok();
            assert_eq!(left, age < 96, "silent for {age} s");
        }
    });
}

#[test]
fn a_restart_during_a_sweep_starts_it_again() {
    isolated("a_restart_during_a_sweep_starts_it_again", |world| {
        let mut agent = learning(world);
        let now = agent.tables().jiffies().unwrap().now;
        fill(&mut agent, 0..FLOWS, |flow| if flow % 2 == 0 { now } else { 1 });
        let mut begun = agent.begin_sweep(since(0)).unwrap().unwrap();
        let mut reader = agent.tables().flow_reader(FlowTable::Confirmed).unwrap();
        for _ in 0..3 {
            let read = reader.next().unwrap().unwrap();
            agent.sweep_records(&mut begun, FlowTable::Confirmed, &read).unwrap();
        }
        drop((begun, reader, agent));
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
fn only_a_slot_without_live_records_settles() {
    isolated("only_a_slot_without_live_records_settles", |world| {
        let mut agent = learning(world);
        let now = agent.tables().jiffies().unwrap().now;
        fill(&mut agent, 0..10, |_| now);
        // The window of the slots is over.
        let later = since(10_000);
        let tracked = |agent: &mut Agent| {
            agent.sweep(later).unwrap();
            let (_, record, _) = agent.mirror().present().next().unwrap();
            States::of(agent.tables().slots(), record.ring, later).tracked()
        };
        let learnt = tracked(&mut agent);
        assert!(learnt > 50);
        let left = tracked(&mut agent);
        assert!((1..=10).contains(&left), "{left} of {learnt} slots remember ten flows");
        assert_eq!(tracked(&mut agent), left, "for as long as those live");
    });
}
