//! Sweeps next to what else the loop does: which requests wait for one, and which verdicts wait for one.

use lb_common::flow_table::Role;
use tokio::sync::oneshot;

use super::*;
use crate::{
    agent::flow_sweep::{REPLY_TIMEOUT, Walk},
    api::{
        filter::Filter,
        request::{Envelope, Reply},
    },
    tables::memory::{Packet, Verdict as Way},
};

const CHECKED: &str = "health = { kind = \"tcp\" }";

/// A packet of an established flow of `web`.
fn packet(client: u32) -> Packet {
    let address = |bytes: [u8; 4]| lb_common::mapped(u32::from_ne_bytes(bytes));
    Packet {
        source: address((0x0a01_0000 + client).to_be_bytes()),
        destination: address([203, 0, 113, 10]),
        source_port: 40_000,
        destination_port: 443,
        protocol: 6,
        syn: false,
        closes: false,
        sequence: 1000,
    }
}

/// A bench whose first backend drains, with this many flows that have sent a packet since.
fn draining(services: &str, flows: u32) -> Bench {
    let mut bench = bench(services);
    bench.set("web-1", json!({ "state": "draining" }));
    for client in 0..flows {
        let way = bench.agent.reconciler.tables_mut().packet(&packet(client));
        assert!(matches!(way, Way::Forwarded { .. }), "{way:?}");
    }
    bench
}

fn envelope(request: Request) -> (Envelope, oneshot::Receiver<Reply>) {
    let (reply, answer) = oneshot::channel();
    (Envelope { request, by: None, reply }, answer)
}

/// What the loop does with one sweep.
async fn sweep(agent: &mut Agent<Twin>, walk: &mut Walk) {
    if !agent.sweeper.is_under_way() {
        agent.begin_sweep(walk);
    }
    while agent.sweeper.is_under_way() {
        let can = walk.can_go_on().await;
        agent.go_on_sweeping(can, walk);
    }
    assert!(matches!(walk, Walk::None), "no walk without a sweep");
}

#[tokio::test]
async fn a_request_for_flows_waits_for_a_sweep() {
    let mut bench = draining(WEB, 100);
    let recorded = bench.agent.reconciler.tables().flow_count(Role::Flow) as u64;
    assert!(recorded > 20);
    let (asks, answer) = envelope(Request::Stats);
    assert!(bench.agent.wait_for_counts(asks).is_none(), "nothing was counted yet");
    sweep(&mut bench.agent, &mut Walk::None).await;
    let stats: view::Stats = serde_json::from_value(answer.await.unwrap().unwrap()).unwrap();
    assert_eq!(stats.flows, recorded);
    assert!(stats.flows_age_ms.unwrap() < 60_000);
    // Right after a sweep no client waits.
    let (asks, _) = envelope(Request::Stats);
    assert!(bench.agent.wait_for_counts(asks).is_some());
}

#[tokio::test]
async fn what_tells_no_flows_never_waits() {
    let mut bench = draining(WEB, 10);
    for request in [
        Request::Version,
        Request::Config { secrets: false },
        Request::Health,
        Request::Events(Filter::default()),
    ] {
        assert!(bench.agent.wait_for_counts(envelope(request).0).is_some());
    }
}

#[tokio::test]
async fn a_late_request_for_flows_gets_old_counts_with_age() {
    let mut bench = draining(WEB, 100);
    bench.agent.begin_sweep(&mut Walk::None);
    let request = Request::Backend { service: "web".to_owned(), backend: "web-1".to_owned() };
    let (asks, mut answer) = envelope(request);
    assert!(bench.agent.wait_for_counts(asks).is_none());
    let now = clock::milliseconds();
    assert!(bench.agent.sweeper.reply_deadline().unwrap() <= now + REPLY_TIMEOUT);
    bench.agent.answer_waiting(now - REPLY_TIMEOUT);
    assert!(answer.try_recv().is_err(), "not yet");
    bench.agent.answer_waiting(now + REPLY_TIMEOUT);
    let backend: view::Backend = serde_json::from_value(answer.await.unwrap().unwrap()).unwrap();
    assert_eq!(backend.flows, 0);
    assert!(backend.flows_age_ms.unwrap() + 1000 > now, "never counted is as old as the host");
    assert!(bench.agent.sweeper.is_under_way(), "the walk goes on");
}

#[tokio::test]
async fn changes_are_carried_out_between_the_pieces_of_a_walk() {
    let mut bench = draining(WEB, 100);
    let mut walk = Walk::None;
    bench.agent.begin_sweep(&mut walk);
    let can = walk.can_go_on().await;
    bench.agent.go_on_sweeping(can, &mut walk);
    bench.set("web-2", json!({ "weight": 7 }));
    assert_eq!(bench.backend("web-2").weight, 7);
    sweep(&mut bench.agent, &mut walk).await;
    assert!(bench.backend("web-1").flows > 0);
}

#[tokio::test]
async fn a_backend_returns_only_after_its_records_are_swept() {
    let mut bench = bench(&WEB.replace("health = false", &format!("{CHECKED}\nhold = \"0s\"")));
    let update = |verdict| Update {
        said: crate::health::Said::default(),
        service: "web".to_owned(),
        backend: "web-1".to_owned(),
        address: "10.0.0.11".parse().unwrap(),
        verdict,
        previous: Verdict::Checking,
        last: Ok(()),
        elapsed: Duration::from_millis(1),
        probes: 1,
        failures: 0,
    };
    bench.agent.on_health(vec![update(Verdict::Up)]);
    assert_eq!(bench.backend("web-1").state, "up");
    bench.agent.on_health(vec![update(Verdict::Down)]);
    // The backend's flows were kept for its return, and now they are given up.
    let long_after = clock::since().wrapping_add(60) & 0x7fff;
    bench.agent.reconciler.sweep(long_after).unwrap();
    // It is not known yet how long it takes to look for the backend's records.
    bench.agent.on_health(vec![update(Verdict::Up)]);
    assert_eq!(bench.backend("web-1").state, "down");
    // If two verdicts wait, the later one counts.
    bench.agent.on_health(vec![update(Verdict::Down)]);
    bench.agent.on_health(vec![update(Verdict::Up)]);
    sweep(&mut bench.agent, &mut Walk::None).await;
    assert_eq!(bench.backend("web-1").state, "up");
    // Now it is known: almost no time.
    bench.agent.on_health(vec![update(Verdict::Down)]);
    bench.agent.reconciler.sweep(long_after).unwrap();
    bench.agent.on_health(vec![update(Verdict::Up)]);
    assert_eq!(bench.backend("web-1").state, "up");
}
