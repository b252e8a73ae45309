//! A flow table that packets fill beyond its size: which records lose their places and how they are counted, and what happens
//! to live flows.

use std::{net::IpAddr, sync::atomic::Ordering};

use lb_common::{
    counter::Counter,
    slot::{Track, since},
};

use super::{
    traffic::{desired, packet, run_through},
    *,
};
use crate::{
    config::spec::Balance,
    reconcile::{Desired, Reconciler},
    tables::Tables as _,
};

/// 1280 records.
const SMALL: Limits = Limits { flows: 1024, ..LIMITS };
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

/// Makes flows that are seen to begin.
fn connect(agent: &mut Agent, clients: std::ops::Range<u32>) {
    for client in clients {
        send(agent, client..client + 1, WEB, true);
        send(agent, client..client + 1, WEB, false);
    }
}

/// Sweeps. Returns the numbers of records of flows and of SYNs that it met.
fn sweep(agent: &mut Agent) -> [u64; 2] {
    let swept = agent.sweep(since(0)).unwrap();
    [swept.flows, swept.pending]
}

/// Confirmed flows that lost their places, and others; and records that got none.
fn lost(agent: &Agent) -> [u64; 3] {
    let counters = agent.tables().counters().unwrap();
    [Counter::FlowEvicted, Counter::FlowEvictedUnproven, Counter::FlowInsertFailed]
        .map(|counter| counters[counter as usize])
}

#[test]
fn lost_records_are_counted_and_stable_flows_go_on() {
    isolated("lost_records_are_counted_and_stable_flows_go_on", |world| {
        let mut agent = agent(world);
        let stable = send(&mut agent, 0..200, ANY, false);
        let first = send(&mut agent, 0..500, WEB, false);
        assert_eq!((sweep(&mut agent), lost(&agent)), ([500, 0], [0, 0, 0]));
        let rest = send(&mut agent, 500..5000, WEB, false);
        let [met, _] = sweep(&mut agent);
        assert!(met <= 1280, "{met}");
        assert_eq!(lost(&agent), [0, 5000 - met, 0], "each one is counted");
        assert_eq!(send(&mut agent, 0..200, ANY, false), stable, "no table is asked");
        // No slot changed its owner, so the slot leads flows without a record to the same backend as their records did.
        assert_eq!(send(&mut agent, 0..500, WEB, false), first);
        assert_eq!(send(&mut agent, 500..5000, WEB, false), rest);
    });
}

#[test]
fn a_flood_pushes_out_handshakes_and_no_flow() {
    isolated("a_flood_pushes_out_handshakes_and_no_flow", |world| {
        let mut agent = agent(world);
        connect(&mut agent, 0..200);
        assert_eq!((sweep(&mut agent), lost(&agent)), ([200, 0], [0, 0, 0]));
        send(&mut agent, 1000..6000, WEB, true);
        let [flows, there] = sweep(&mut agent);
        let [confirmed, evicted, refused] = lost(&agent);
        assert_eq!((flows, confirmed, evicted + refused + there), (200, 0, 5000));
        assert!(there > 900, "{there} handshakes still wait");
        // A flood of segments of unknown flows finds no place: they prove less.
        send(&mut agent, 10_000..15_000, WEB, false);
        let [flows, waiting] = sweep(&mut agent);
        assert_eq!((lost(&agent)[0], waiting), (0, there));
        assert!((200..400).contains(&flows), "{flows}");
    });
}

#[test]
fn deletions_of_the_agent_are_not_counted() {
    isolated("deletions_of_the_agent_are_not_counted", |world| {
        let mut agent = agent(world);
        send(&mut agent, 0..3000, WEB, false);
        let ([met, _], before) = (sweep(&mut agent), lost(&agent));
        assert_eq!(before, [0, 3000 - met, 0]);
        // Half of the records are deleted with their backend.
        let mut wanted = desired(&[(1, true, true), (2, false, false)], 251, Track::Always);
        wanted.services[1].track = Track::OnChange;
        disabled(&mut wanted);
        let plan = agent.plan(&wanted, since(0)).unwrap();
        agent.apply(&plan).unwrap();
        sweep(&mut agent);
        let [left, _] = sweep(&mut agent);
        assert!(left < met - 100, "{left} of {met} are left");
        assert_eq!(lost(&agent), before);
    });
}

/// The sum of all backends' live flows, as packets and sweeps count them.
fn live(agent: &Agent) -> u64 {
    agent.tables().live().iter().map(|live| live.load(Ordering::Relaxed)).sum()
}

#[test]
fn flows_without_a_record_are_live_until_a_walk_has_missed_them() {
    isolated("flows_without_a_record_are_live_until", |world| {
        let mut agent = balanced(world, Balance::LeastConnections);
        connect(&mut agent, 0..500);
        assert_eq!(live(&agent), 500);
        sweep(&mut agent);
        assert_eq!(live(&agent), 500, "nothing to correct");
        connect(&mut agent, 500..5000);
        let counted = live(&agent);
        let [met, _] = sweep(&mut agent);
        assert!(lost(&agent)[2] > 0 && counted >= met, "{counted} counted, {met} recorded");
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
