//! Flow tables that packets fill beyond their sizes: how many evictions are counted, which flows are evicted, and what happens
//! to live flows.

use std::{net::IpAddr, sync::atomic::Ordering};

use lb_common::slot::{Track, since};

use super::{
    traffic::{desired, packet, run_through},
    *,
};
use crate::{
    config::spec::Balance,
    reconcile::{Desired, Reconciler},
    tables::{FlowTable, Tables as _},
};

const SMALL: Limits = Limits { flows: 1024, pending_flows: 256, ..LIMITS };
/// The service that records every flow, and the service that listens on all other ports and records no flow.
const WEB: u16 = 80;
const ANY: u16 = 81;

type Agent = Reconciler<Kernel>;

fn agent(world: &World) -> Agent {
    balanced(world, Balance::Hash)
}

fn balanced(world: &World, balance: Balance) -> Agent {
    let (kernel, opened) = open(&Options { limits: SMALL, ..world.options() }).unwrap();
    assert_eq!(opened.warnings, [""; 0]);
    let mut agent = Reconciler::new(kernel).unwrap();
    let mut wanted = desired(&[(1, true, true), (2, true, true)], 251, Track::Always);
    wanted.services[1].track = Track::OnChange;
    wanted.services[0].balance = balance;
    let plan = agent.plan(&wanted, since(0)).unwrap();
    agent.apply(&plan).unwrap();
    agent
}

/// Disables the backends that are down: their flows are not kept for a return.
fn disabled(wanted: &mut Desired) {
    wanted
        .services
        .iter_mut()
        .flat_map(|service| &mut service.backends)
        .for_each(|backend| backend.returns = false);
}

fn send(agent: &mut Agent, clients: std::ops::Range<u32>, port: u16, syn: bool) -> Vec<Result<IpAddr, u32>> {
    clients.map(|client| run_through(agent.tables_mut(), &packet(client, port, syn, false))).collect()
}

/// Makes confirmed flows: a second segment of each flow follows its first.
fn talk(agent: &mut Agent, clients: std::ops::Range<u32>) {
    for client in clients.flat_map(|client| [client, client]) {
        send(agent, client..client + 1, WEB, false);
    }
}

/// Sweeps. Returns the reported numbers of evictions from `FLOWS` and `PENDING`, and the numbers of records met there.
fn sweep(agent: &mut Agent) -> [u64; 4] {
    let swept = agent.sweep(since(0)).unwrap();
    let evictions = agent.mirror().evictions;
    let [flows, pending] = [FlowTable::Confirmed, FlowTable::Pending].map(|table| evictions.at_least(table));
    [flows, pending, swept.flows, swept.pending]
}

#[test]
fn evictions_are_counted_and_stable_flows_go_on() {
    isolated("evictions_are_counted_and_stable_flows_go_on", |world| {
        let mut agent = agent(world);
        let stable = send(&mut agent, 0..200, ANY, false);
        let first = send(&mut agent, 0..500, WEB, false);
        assert_eq!(sweep(&mut agent), [0, 0, 500, 0]);
        let rest = send(&mut agent, 500..5000, WEB, false);
        let [flows, pending, met, _] = sweep(&mut agent);
        assert!(met <= 1024, "{met}");
        assert_eq!((flows, pending), (5000 - met, 0), "nothing went in or out meanwhile");
        assert_eq!(send(&mut agent, 0..200, ANY, false), stable, "no table is asked");
        let [flows, ..] = sweep(&mut agent);
        assert_eq!(flows, 5000 - met);
        // No slot changed its owner, so the slot leads evicted flows to the same backend as their records did.
        assert_eq!(send(&mut agent, 0..500, WEB, false), first);
        assert_eq!(send(&mut agent, 500..5000, WEB, false), rest);
    });
}

#[test]
fn a_syn_flood_evicts_handshakes_and_no_flow() {
    isolated("a_syn_flood_evicts_handshakes_and_no_flow", |world| {
        let mut agent = agent(world);
        send(&mut agent, 0..400, WEB, true);
        send(&mut agent, 0..200, WEB, false);
        let [flows, pending, confirmed, there] = sweep(&mut agent);
        assert_eq!((flows, confirmed), (0, 200));
        // The evicted flows had no SYN record to confirm; their second segment recorded them.
        assert!(pending > 0 && there <= 256 && pending + there <= 400, "{pending} evicted, {there} there");
        send(&mut agent, 1000..4000, WEB, true);
        let [flows, evicted, confirmed, left] = sweep(&mut agent);
        assert_eq!((flows, confirmed), (0, 200));
        assert_eq!(evicted + left, pending + there + 3000);
    });
}

#[test]
fn deletions_of_the_agent_are_not_evictions() {
    isolated("deletions_of_the_agent_are_not_evictions", |world| {
        let mut first = agent(world);
        send(&mut first, 0..3000, WEB, false);
        assert!(sweep(&mut first)[0] > 1900);
        drop(first);
        let mut second = agent(world);
        let [flows, _, met, _] = sweep(&mut second);
        assert_eq!(flows, 0, "those were evicted before");
        // Half of the records are deleted with their backend.
        let mut wanted = desired(&[(1, true, true), (2, false, false)], 251, Track::Always);
        wanted.services[1].track = Track::OnChange;
        disabled(&mut wanted);
        let plan = second.plan(&wanted, since(0)).unwrap();
        second.apply(&plan).unwrap();
        let [flows, _, _, _] = sweep(&mut second);
        let [_, _, left, _] = sweep(&mut second);
        assert!(left < met - 100, "{left} of {met} are left");
        assert_eq!(flows, 0);
        send(&mut second, 10_000..13_000, WEB, false);
        let [flows, _, met, _] = sweep(&mut second);
        assert_eq!(flows, left + 3000 - met);
    });
}

/// The sum of all backends' live flows, as packets and sweeps count them.
fn live(agent: &Agent) -> u64 {
    agent.tables().live().iter().map(|live| live.load(Ordering::Relaxed)).sum()
}

#[test]
fn evicted_flows_are_live_until_a_walk_has_missed_them() {
    isolated("evicted_flows_are_live_until", |world| {
        let mut agent = balanced(world, Balance::LeastConnections);
        talk(&mut agent, 0..500);
        assert_eq!(live(&agent), 500);
        sweep(&mut agent);
        assert_eq!(live(&agent), 500, "nothing to correct");
        talk(&mut agent, 500..5000);
        assert_eq!(live(&agent), 5000);
        let [_, _, met, _] = sweep(&mut agent);
        assert_eq!(live(&agent), met);
    });
}

#[test]
fn older_flows_count_as_live_after_a_sweep() {
    isolated("older_flows_count_as_live_after_a_sweep", |world| {
        let mut first = agent(world);
        talk(&mut first, 0..300);
        sweep(&mut first);
        assert_eq!(live(&first), 0, "no request asks");
        drop(first);
        let mut second = balanced(world, Balance::LeastConnections);
        sweep(&mut second);
        assert_eq!(live(&second), 300);
        drop(second);
        let mut third = balanced(world, Balance::LeastConnections);
        assert_eq!(live(&third), 300);
        sweep(&mut third);
        assert_eq!(live(&third), 300);
    });
}

#[test]
fn a_disabled_backend_that_comes_back_has_no_live_flows() {
    isolated("a_disabled_backend_that_comes_back", |world| {
        let mut agent = balanced(world, Balance::LeastConnections);
        talk(&mut agent, 0..300);
        for alive in [false, true] {
            let mut wanted = desired(&[(1, true, true), (2, alive, alive)], 251, Track::Always);
            wanted.services[1].track = Track::OnChange;
            wanted.services[0].balance = Balance::LeastConnections;
            disabled(&mut wanted);
            let plan = agent.plan(&wanted, since(0)).unwrap();
            agent.apply(&plan).unwrap();
        }
        let all = agent.tables().live().iter().map(|live| live.load(Ordering::Relaxed));
        let counts: Vec<u64> = all.filter(|live| *live > 0).collect();
        assert!(counts.len() == 1 && counts[0] > 100 && counts[0] < 200, "{counts:?}");
    });
}
