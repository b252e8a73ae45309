//! Changes of names, addresses and listeners: what is known of an address stays known, and no change leaves a service
//! without a backend while an old backend works.

use std::collections::BTreeSet;

use super::*;
use crate::tables::memory::{Packet, Verdict as Went};

const CHECKED: &str = "health = { kind = \"tcp\", port = 80 }";

/// WEB with checks, its two backends up, and flows everywhere.
fn working() -> Bench {
    let mut bench = bench(&WEB.replace("health = false", CHECKED));
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up), ("web-2", "10.0.0.12", Verdict::Up)]);
    bench
}

fn packet(client: u16, port: u16) -> Packet {
    let mapped = |address: [u8; 4]| crate::tables::address::to_wire(IpAddr::from(address));
    Packet {
        source: mapped([198, 51, 100, 7]),
        destination: mapped([203, 0, 113, 10]),
        source_port: 10_000 + client,
        destination_port: port,
        protocol: 6,
        syn: false,
        closes: false,
        sequence: 1000,
    }
}

/// The address that a client's established connection to a port goes to; `None` = nowhere.
fn goes_to(bench: &Bench, client: u16, port: u16) -> Option<IpAddr> {
    let tables = bench.agent.reconciler.tables();
    let Went::Forwarded { backend, .. } = tables.peek(&packet(client, port)) else { return None };
    let meta = tables.backend_metas().unwrap()[backend as usize];
    Some(crate::tables::address::from_wire(&meta.address))
}

const CLIENTS: u16 = 200;

fn all(bench: &Bench, port: u16) -> Vec<Option<IpAddr>> {
    (0..CLIENTS).map(|client| goes_to(bench, client, port)).collect()
}

/// How many connections to `port` a change to `services` moves or cuts, and the forecast of the plan: how many it cuts,
/// and whether that number is complete.
fn cut(bench: &mut Bench, services: &str, port: u16) -> (usize, u64, bool) {
    let before = all(bench, port);
    let planned = plan(bench, services);
    let known = planned.services.iter().all(|service| service.flows_cut_known);
    let said = planned.services.iter().map(|service| service.flows_cut).sum();
    apply(bench, services);
    let after = all(bench, port);
    (before.iter().zip(&after).filter(|(before, after)| before != after).count(), said, known)
}

#[test]
fn a_plan_never_says_that_fewer_flows_are_cut_than_are() {
    let web = WEB.replace("health = false", CHECKED);
    let renamed = web.replace("\"web-1\"", "\"first\"").replace("name = \"web\"", "name = \"www\"");
    let elsewhere = web.replace("10.0.0.11", "10.0.0.13");
    let listen = web.replace("203.0.113.10:443", "203.0.113.10:444");
    for (what, services, cuts) in [
        ("other names", &renamed, false),
        ("a new address", &elsewhere, true),
        ("another listen", &listen, true),
    ] {
        let mut bench = working();
        let (cut, said, known) = cut(&mut bench, services, 443);
        assert_eq!(cut > 0, cuts, "{what}: {cut} of {CLIENTS} are cut");
        let honest = if known { said as usize == cut } else { said as usize <= cut };
        assert!(honest, "{what}: the plan says {said} (all: {known}), and {cut} are cut");
        assert!(cut == 0 || !known, "{what}: flows of slots that are not tracked are counted nowhere");
    }
}

#[test]
fn a_renamed_backend_keeps_number_verdict_and_flows() {
    let mut bench = working();
    let number = |bench: &Bench| -> BTreeSet<(IpAddr, u32)> {
        let running = bench.agent.reconciler.running(clock::since());
        running[0].backends.iter().map(|backend| (backend.address, backend.number)).collect()
    };
    let before = number(&bench);
    let services = WEB.replace("health = false", CHECKED).replace("\"web-1\"", "\"first\"");
    assert_eq!(cut(&mut bench, &services, 443), (0, 0, true));
    assert_eq!(number(&bench), before);
    assert_eq!(bench.backend("first").state, "up");
}

#[test]
fn equal_checks_of_two_services_share_verdicts() {
    let any = WEB.replace("health = false", CHECKED).replace("10:443", "10:0");
    let mut bench = bench(&any);
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up), ("web-2", "10.0.0.12", Verdict::Up)]);
    let one = WEB
        .replace("health = false", CHECKED)
        .replace("10:443", "10:7000")
        .replace("name = \"web\"", "name = \"one\"");
    assert_eq!(cut(&mut bench, &format!("{any}{one}"), 7000).0, 0, "the same backends have the same slots");
    let states: Vec<_> = bench.agent.effective.iter().flat_map(|s| &s.backends).map(|b| b.state).collect();
    assert_eq!(states, [State::Up; 4]);
    // A check with another question has no answer yet.
    let other = one.replace("port = 80", "port = 81").replace("7000", "7001").replace("\"one\"", "\"two\"");
    apply(&mut bench, &format!("{any}{one}{other}"));
    let two = bench.agent.effective.iter().find(|service| service.name == "two").unwrap();
    assert!(two.backends.iter().all(|b| b.state == State::Checking && b.in_ring), "{:?}", two.backends);
}

fn only(address: &str, name: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nlisten = \"tcp/203.0.113.10:443\"\nmax_backends = 3\n{CHECKED}\n{more}\n[[service.backend]]\nname = \
         \"{name}\"\naddress = \"{address}\"\n"
    )
}

#[test]
fn the_last_backend_serves_until_its_successor_is_up() {
    for name in ["web-1", "web-2"] {
        let mut bench = bench(&only("10.0.0.11", "web-1", ""));
        verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up)]);
        let before = all(&bench, 443);
        let planned = plan(&mut bench, &only("10.0.0.12", name, ""));
        assert!(
            planned.warnings.iter().any(|said| said.contains("serves on until")),
            "{:?}",
            planned.warnings
        );
        apply(&mut bench, &only("10.0.0.12", name, ""));
        assert_eq!(all(&bench, 443), before, "{name}: nothing has changed yet");
        assert_eq!(service(&mut bench).backends_in_ring, 1);
        let due = bench.agent.due().expect("it does not serve on for ever");
        assert!(due.saturating_sub(clock::milliseconds()) <= 30_000);
        verdicts(&mut bench, &[(name, "10.0.0.12", Verdict::Up)]);
        let new: IpAddr = [10, 0, 0, 12].into();
        assert!(all(&bench, 443).iter().all(|to| *to == Some(new)), "{name}");
        assert_eq!(service(&mut bench).backends.len(), 1);
        let kinds: Vec<_> = bench.agent.journal.since(0).into_iter().map(|event| event.kind).collect();
        assert!(kinds.iter().any(|k| k == "handover_begins") && kinds.iter().any(|k| k == "handover_ends"));
    }
}

#[tokio::test]
async fn what_serves_on_goes_when_its_time_is_over() {
    let mut bench = bench(&only("10.0.0.11", "web-1", ""));
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up)]);
    apply(&mut bench, &only("10.0.0.12", "web-2", "handover = \"1ms\""));
    crate::wait::until("the handover is over", crate::wait::LIMIT, async || {
        bench.agent.do_what_is_due();
        match service(&mut bench).backends.len() {
            1 => Ok(()),
            n => Err(format!("{n} backends")),
        }
    })
    .await;
    let new: IpAddr = [10, 0, 0, 12].into();
    assert!(all(&bench, 443).iter().all(|to| *to == Some(new)), "unchecked, it is better than none");
}

#[test]
fn what_the_operator_takes_out_does_not_serve_on() {
    let mut bench = working();
    bench.set("web-2", json!({ "state": "draining" }));
    let refused = bench.refuse(&remove("web-1", false));
    assert_eq!(refused.code, Code::Conflict);
    bench.ask(&remove("web-1", true));
    assert_eq!(service(&mut bench).backends_in_ring, 0, "none of those that stay is to take flows");
}

/// WEB on every port. [`one`] is the service that a file adds on port 7000, with its backends.
fn every() -> String {
    WEB.replace("10:443", "10:0").replace("name = \"web\"", "name = \"any\"")
}

fn one(backends: &[&str]) -> String {
    let listen = "listen = \"tcp/203.0.113.10:7000\"";
    let mut text = format!("[[service]]\nname = \"one\"\n{listen}\nmax_backends = 3\nhealth = false\n");
    for address in backends {
        text += &format!("[[service.backend]]\nname = \"b{address}\"\naddress = \"{address}\"\n");
    }
    text
}

/// The addresses that all connections go to; each connection sends a segment there.
fn speak(bench: &mut Bench, port: u16) -> Vec<Option<IpAddr>> {
    let before = all(bench, port);
    for client in 0..CLIENTS {
        bench.agent.reconciler.tables_mut().packet(&packet(client, port));
    }
    before
}

#[test]
fn a_service_that_takes_over_flows_asks_their_old_ring() {
    for backends in [&["10.0.0.11", "10.0.0.12"][..], &["10.0.0.12", "10.0.0.13"], &["10.0.0.13"]] {
        let mut bench = bench(&every());
        let before = speak(&mut bench, 7000);
        let services = format!("{}{}", every(), one(backends));
        assert_eq!(cut(&mut bench, &services, 7000), (0, 0, true), "{backends:?}");
        assert_eq!(speak(&mut bench, 7000), before, "and when they have spoken: {backends:?}");
        // Connections that begin from now on go to the backends of the new service.
        let own: BTreeSet<IpAddr> = backends.iter().map(|address| address.parse().unwrap()).collect();
        for client in CLIENTS..2 * CLIENTS {
            let tables = bench.agent.reconciler.tables_mut();
            tables.packet(&Packet { syn: true, ..packet(client, 7000) });
            let at = goes_to(&bench, client, 7000);
            assert!(at.is_some_and(|at| own.contains(&at)), "{at:?}");
        }
        assert_eq!(all(&bench, 7000), before);
        // The next sweeps leave the connections there, and so does a change of the other service.
        for _ in 0..3 {
            bench.agent.reconciler.sweep(clock::since()).unwrap();
        }
        let third = "[[service.backend]]\nname = \"web-9\"\naddress = \"10.0.0.13\"\n";
        let services = format!("{}{third}{}", every(), one(backends));
        assert_eq!(cut(&mut bench, &services, 7000).0, 0, "{backends:?}");
    }
}

#[test]
fn what_is_recorded_of_flows_goes_over_with_them() {
    let mut bench = bench(&every());
    let before = speak(&mut bench, 7000);
    // Slots learn, and flows are recorded where they were.
    let third = "[[service.backend]]\nname = \"web-9\"\naddress = \"10.0.0.13\"\n";
    let more = format!("{}{third}", every());
    assert_eq!(cut(&mut bench, &more, 7000).0, 0);
    assert_eq!(speak(&mut bench, 7000), before);
    let begun: Vec<_> = (CLIENTS..2 * CLIENTS)
        .map(|client| {
            for syn in [true, false] {
                bench.agent.reconciler.tables_mut().packet(&Packet { syn, ..packet(client, 7000) });
            }
            goes_to(&bench, client, 7000)
        })
        .collect();
    let others = all(&bench, 7001);
    let services = format!("{more}{}", one(&["10.0.0.13"]));
    assert_eq!(cut(&mut bench, &services, 7000).0, 0);
    let after: Vec<_> = (CLIENTS..2 * CLIENTS).map(|client| goes_to(&bench, client, 7000)).collect();
    assert_eq!(after, begun, "those that began since the first change, too");
    assert_eq!(all(&bench, 7001), others, "flows of other ports are none of its business");
}
