//! Facts about what is in force, one fact for each test.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::config::spec::{
    Admin, AllDown, AttachMode, Health, Hold, Limits, Listen, MinHealthy, Node, Probe, Protocol,
};

mod said;

fn hop() -> Hop {
    Hop {
        interface: 2,
        interface_name: "eth0".into(),
        via: Ipv4Addr::new(10, 0, 0, 1).into(),
        mac: [2, 0, 0, 0, 0, 1],
        local_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        source: Ipv4Addr::new(10, 0, 0, 2).into(),
    }
}

fn spec(admin: Admin, weight: u16, hold: Hold, checked: bool) -> Spec {
    let health = Health {
        probe: Probe::Tcp,
        port: 80,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 2,
    };
    Spec {
        node: Node {
            interfaces: vec!["eth0".into()],
            seed: "s".into(),
            mode: AttachMode::Auto,
            unserved: spec::Unserved::Pass,
            ping: spec::Ping::Answer,
            too_big: spec::TooBig::Answer,
            source_v4: None,
            source_v6: None,
            health_concurrency: 1,
            socket_group: None,
            state_directory: PathBuf::from("/var/lib/lb"),
            metrics_of_backends: true,
            metrics: None,
        },
        limits: Limits { services: 1, backends: 2, slots: 251, flows: 1, pending_flows: None },
        services: vec![spec::Service {
            name: "web".into(),
            listen: Listen { protocol: Protocol::Tcp, address: Ipv4Addr::new(192, 0, 2, 1).into(), port: 80 },
            max_backends: spec::Planned::For(1),
            hold,
            all_down: AllDown::Drop,
            handover: Duration::ZERO,
            window: Duration::from_secs(3600),
            health: checked.then_some(health),
            backends: vec![spec::Backend {
                name: "web-1".into(),
                address: Ipv4Addr::new(10, 0, 0, 11).into(),
                weight,
                admin,
            }],
            ..spec::Service::default()
        }],
    }
}

fn one(spec: &Spec, verdict: Verdict, resolved: bool, before: Option<Before>) -> Backend {
    let services = effective(
        spec,
        Observed {
            health: &|_, _| verdict,
            hops: &|_| if resolved { Ok(hop()) } else { Err("no route".to_owned()) },
            before: &|_, _| before,
            doubted: &|_, _| None,
            said: &|_, _| Said::default(),
            failing: &|_, _| None,
            entered: &|_, _| None,
            now: 0,
        },
    );
    services[0].backends[0].clone()
}

fn enabled() -> Spec {
    spec(Admin::Enabled, 100, AT_ONCE, true)
}

const AT_ONCE: Hold = Hold::For(Duration::ZERO);

const RUNNING: Option<Before> = Some(Before { in_ring: true, alive: true, untried: false });

#[test]
fn up_and_resolved_is_in_the_ring_with_its_weight() {
    let backend = one(&enabled(), Verdict::Up, true, None);
    assert_eq!((backend.state, backend.reason.as_deref()), (State::Up, None));
    assert_eq!((backend.in_ring, backend.weight, backend.alive, backend.draining), (true, 100, true, false));
    assert_eq!(backend.hop, Some(hop()));
}

#[test]
fn down_gives_its_flows_away_unless_they_are_held() {
    let backend = one(&enabled(), Verdict::Down, true, RUNNING);
    assert_eq!((backend.state, backend.in_ring, backend.alive), (State::Down, false, false));
    let held = one(&spec(Admin::Enabled, 100, Hold::Forever, true), Verdict::Down, true, RUNNING);
    assert_eq!((held.state, held.in_ring, held.alive), (State::Down, false, true));
}

#[test]
fn l2_reaches_only_backends_that_are_their_own_next_hop() {
    let mut spec = enabled();
    spec.services[0].encapsulation = spec::Encapsulation::L2;
    let behind = one(&spec, Verdict::Up, true, None);
    assert_eq!((behind.state, behind.in_ring, behind.hop), (State::Unresolved, false, None));
    assert_eq!(
        behind.reason.as_deref(),
        Some(
            "no next hop: encapsulation l2 needs the backend on a network of this host, but the way to 10.0.0.11 leads over router 10.0.0.1"
        )
    );
    spec.services[0].backends[0].address = hop().via;
    assert_eq!(one(&spec, Verdict::Up, true, None).state, State::Up);
}

#[test]
fn draining_and_weight_0_keep_flows_and_take_no_new_ones() {
    for spec in [spec(Admin::Draining, 100, AT_ONCE, true), spec(Admin::Enabled, 0, AT_ONCE, true)] {
        let backend = one(&spec, Verdict::Up, true, RUNNING);
        assert_eq!((backend.state, backend.in_ring, backend.weight), (State::Draining, false, 0));
        assert!(backend.alive && backend.draining && backend.hop.is_some());
    }
}

#[test]
fn a_draining_backend_that_fails_is_down() {
    let backend = one(&spec(Admin::Draining, 100, AT_ONCE, true), Verdict::Down, true, RUNNING);
    assert_eq!((backend.state, backend.alive), (State::Down, false));
}

#[test]
fn disabled_loses_its_flows_and_is_not_resolved() {
    let services = effective(
        &spec(Admin::Disabled, 100, Hold::Forever, true),
        Observed {
            health: &|_, _| Verdict::Up,
            hops: &|_| panic!("asked for the next hop of a disabled backend"),
            before: &|_, _| RUNNING,
            doubted: &|_, _| None,
            said: &|_, _| Said::default(),
            failing: &|_, _| None,
            entered: &|_, _| None,
            now: 0,
        },
    );
    let backend = &services[0].backends[0];
    assert_eq!((backend.state, backend.in_ring, backend.alive), (State::Disabled, false, false));
}

#[test]
fn a_new_backend_waits_for_a_verdict_if_another_works() {
    let judge = |first| {
        let health = |_: &spec::Service, backend: &spec::Backend| match backend.name.as_str() {
            "web-1" => first,
            _ => Verdict::Checking,
        };
        effective(&pair(AllDown::Drop), Observed { health: &health, before: &|_, _| None, ..OBSERVED })
            .remove(0)
    };
    let service = judge(Verdict::Up);
    assert_eq!((service.backends[1].state, service.backends[1].in_ring), (State::Checking, false));
    for first in [Verdict::Down, Verdict::Checking] {
        let new = &judge(first).backends[1];
        assert!(new.in_ring && new.alive && new.untried, "it is better than none: {new:?}");
    }
}

/// A service with the backends web-1 and web-2.
fn pair(all_down: AllDown) -> Spec {
    let mut spec = enabled();
    let service = &mut spec.services[0];
    let second =
        spec::Backend { name: "web-2".into(), address: [10, 0, 0, 12].into(), ..service.backends[0].clone() };
    service.backends.push(second);
    service.all_down = all_down;
    spec
}

const OBSERVED: Observed<'_> = Observed {
    health: &|_, _| Verdict::Down,
    doubted: &|_, _| None,
    said: &|_, _| Said::default(),
    hops: &|_| Ok(hop()),
    before: &|_, _| RUNNING,
    failing: &|_, _| None,
    entered: &|_, _| None,
    now: 0,
};

#[test]
fn if_all_fail_the_ring_stays_unless_set_otherwise() {
    let kept = effective(&pair(AllDown::Keep), OBSERVED).remove(0);
    assert_eq!((kept.usable(), kept.failing), (2, true));
    assert!(kept.backends.iter().all(|b| b.state == State::Down && b.alive && b.held_until.is_none()));
    let emptied = effective(&pair(AllDown::Drop), OBSERVED).remove(0);
    assert_eq!((emptied.usable(), emptied.failing), (0, false));
    // A backend that was out before does not come in.
    let before = |_: &Listen, address: IpAddr| {
        let in_ring = address == IpAddr::from([10, 0, 0, 12]);
        Some(Before { in_ring, alive: in_ring, untried: false })
    };
    let one = effective(&pair(AllDown::Keep), Observed { before: &before, ..OBSERVED }).remove(0);
    assert_eq!(one.backends.iter().map(|b| b.in_ring).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_failure_that_is_doubted_takes_nothing_out() {
    let doubted = |_: &spec::Service, _: &spec::Backend| Some("2 of 2 failed at once".to_owned());
    let service = effective(&pair(AllDown::Drop), Observed { doubted: &doubted, ..OBSERVED }).remove(0);
    assert_eq!((service.usable(), service.doubted.as_deref()), (2, Some("2 of 2 failed at once")));
    assert!(service.backends[0].reason.as_deref().is_some_and(|why| why.contains("not believed")));
}

#[test]
fn established_flows_are_held_and_new_ones_leave() {
    let spec = spec(Admin::Enabled, 100, Hold::For(Duration::from_secs(3)), true);
    let at = |failing, now, before| {
        let failing = move |_: &Listen, _: IpAddr| failing;
        let before = move |_: &Listen, _: IpAddr| before;
        let observed = Observed { failing: &failing, before: &before, now, ..OBSERVED };
        let backend = effective(&spec, observed).remove(0).backends.remove(0);
        (backend.in_ring, backend.alive, backend.held_until)
    };
    assert_eq!(at(None, 5_000, RUNNING), (false, true, Some(8_000)));
    assert_eq!(at(Some(5_000), 7_999, RUNNING), (false, true, Some(8_000)));
    assert_eq!(at(Some(5_000), 8_000, RUNNING), (false, false, None));
    let given_away = Some(Before { in_ring: false, alive: false, untried: false });
    assert_eq!(at(None, 9_000, given_away), (false, false, None), "what is given away is not taken back");
}

#[test]
fn without_a_verdict_what_runs_stays_as_it_is() {
    let backend = one(&enabled(), Verdict::Checking, true, RUNNING);
    assert_eq!((backend.state, backend.in_ring, backend.alive), (State::Checking, true, true));
    let before = |_: &Listen, address: IpAddr| {
        let in_ring = address == IpAddr::from([10, 0, 0, 11]);
        Some(Before { in_ring, alive: in_ring, untried: false })
    };
    let observed = Observed { health: &|_, _| Verdict::Checking, before: &before, ..OBSERVED };
    let service = effective(&pair(AllDown::Keep), observed).remove(0);
    assert_eq!(service.backends.iter().map(|b| b.in_ring).collect::<Vec<_>>(), [true, false], "as it was");
}

#[test]
fn unresolved_takes_no_new_flows_and_keeps_its_old_ones() {
    let backend = one(&enabled(), Verdict::Up, false, RUNNING);
    assert_eq!((backend.state, backend.in_ring, backend.alive), (State::Unresolved, false, true));
    assert_eq!(backend.reason.as_deref(), Some("no next hop: no route"));
}

#[test]
fn without_a_health_check_a_backend_counts_as_up() {
    let spec = spec(Admin::Enabled, 100, AT_ONCE, false);
    assert_eq!(one(&spec, Verdict::Down, true, None).state, State::Up);
}

#[test]
fn entries_keep_every_backend_in_its_place() {
    let mut spec = enabled();
    let second = spec::Backend {
        name: "web-2".into(),
        address: Ipv4Addr::new(10, 0, 0, 12).into(),
        weight: 7,
        admin: Admin::Enabled,
    };
    spec.services[0].backends.push(second);
    let services = effective(
        &spec,
        Observed {
            health: &|_, backend| if backend.name == "web-1" { Verdict::Down } else { Verdict::Up },
            hops: &|_| Ok(hop()),
            before: &|_, _| None,
            doubted: &|_, _| None,
            said: &|_, _| Said::default(),
            failing: &|_, _| None,
            entered: &|_, _| None,
            now: 0,
        },
    );
    let entries = services[0].entries();
    assert_eq!(entries, [Entry { name: "web-1", weight: 0 }, Entry { name: "web-2", weight: 7 }]);
    assert_eq!(services[0].usable(), 1);
}

/// A service of `verdicts.len()` backends: an `Ok` one has that verdict and is enabled, an `Err` one is drained and down.
fn judged(least: MinHealthy, verdicts: &[Result<Verdict, ()>], checked: bool) -> Service {
    judged_after(least, verdicts, checked, 0)
}

/// The same, where the first `in_ring` backends were in the ring before.
fn judged_after(
    least: MinHealthy,
    verdicts: &[Result<Verdict, ()>],
    checked: bool,
    in_ring: usize,
) -> Service {
    let mut spec = spec(Admin::Enabled, 100, AT_ONCE, checked);
    let service = &mut spec.services[0];
    service.min_healthy = Some(least);
    service.backends = (0u8..)
        .zip(verdicts)
        .map(|(number, verdict)| spec::Backend {
            name: number.to_string(),
            address: Ipv4Addr::new(10, 0, 0, number).into(),
            weight: 100,
            admin: if verdict.is_ok() { Admin::Enabled } else { Admin::Draining },
        })
        .collect();
    let observed = Observed {
        health: &|_, backend| verdicts[backend.name.parse::<usize>().unwrap()].unwrap_or(Verdict::Down),
        hops: &|_| Ok(hop()),
        before: &|_, address| {
            let IpAddr::V4(v4) = address else { panic!("{address}") };
            RUNNING.filter(|_| usize::from(v4.octets()[3]) < in_ring)
        },
        doubted: &|_, _| None,
        said: &|_, _| Said::default(),
        failing: &|_, _| None,
        entered: &|_, _| None,
        now: 0,
    };
    effective(&spec, observed).remove(0)
}

const UP: Result<Verdict, ()> = Ok(Verdict::Up);
const DOWN: Result<Verdict, ()> = Ok(Verdict::Down);

#[test]
fn with_fewer_healthy_than_min_healthy_health_is_ignored() {
    let service = judged(MinHealthy::Count(2), &[UP, DOWN, DOWN], true);
    assert_eq!(service.usable(), 3);
    assert!(service.backends.iter().all(|backend| backend.alive));
    let reason = service.health_ignored.as_deref();
    assert_eq!(reason, Some("1 of 3 backends healthy, min_healthy is 2"));
    let down = &service.backends[1];
    assert_eq!((down.state, down.weight), (State::Down, 100));
    assert!(down.reason.as_deref().is_some_and(|why| why.contains("is ignored")), "{:?}", down.reason);
    let enough = judged(MinHealthy::Count(2), &[UP, UP, DOWN], true);
    assert_eq!((enough.usable(), enough.health_ignored), (2, None));
}

#[test]
fn a_share_is_of_usable_backends_and_rounded_up() {
    let ignored = |percent, verdicts: &[_]| {
        judged(MinHealthy::Percent(percent), verdicts, true).health_ignored.is_some()
    };
    assert!(!ignored(30, &[UP, DOWN, DOWN]) && ignored(34, &[UP, DOWN, DOWN]));
    assert!(!ignored(50, &[UP, DOWN, Err(()), Err(())]), "of drained ones nothing is expected");
    assert!(ignored(1, &[DOWN]), "without one that is up all are tried");
}

#[test]
fn missing_verdicts_do_not_make_health_ignored() {
    let starting = judged(MinHealthy::Percent(100), &[Ok(Verdict::Checking), Ok(Verdict::Checking)], true);
    assert_eq!(
        (starting.usable(), starting.health_ignored),
        (2, None),
        "unchecked ones are better than none"
    );
    assert_eq!(judged(MinHealthy::Percent(100), &[DOWN], false).health_ignored, None);
}

#[test]
fn an_unchecked_backend_does_not_replace_a_failed_one() {
    const WAITS: Result<Verdict, ()> = Ok(Verdict::Checking);
    // Two backends carry the flows of three. The backend that was just added carries none of them.
    let added = judged_after(MinHealthy::Count(3), &[UP, UP, DOWN, WAITS], true, 3);
    assert_eq!(added.health_ignored.as_deref(), Some("2 of 3 backends healthy, min_healthy is 3"));
    assert_eq!(added.usable(), 3, "the one that fails stays, the new one waits");
    // To add backends does not raise the number that must be healthy either.
    let many = judged_after(MinHealthy::Percent(50), &[UP, UP, DOWN, WAITS, WAITS, WAITS, WAITS], true, 3);
    assert_eq!((many.usable(), many.health_ignored), (2, None));
    // A backend that takes flows and gets a new health check counts as before.
    let asked = judged_after(MinHealthy::Count(3), &[UP, UP, WAITS], true, 3);
    assert_eq!((asked.usable(), asked.health_ignored), (3, None));
    // Where the service begins, all backends may still turn out to be healthy.
    let begins = judged_after(MinHealthy::Count(2), &[DOWN, WAITS, WAITS], true, 0);
    assert_eq!((begins.usable(), begins.health_ignored), (2, None));
}

#[test]
fn a_drained_backend_stays_drained_where_health_is_ignored() {
    let service = judged(MinHealthy::Count(3), &[UP, DOWN, Err(())], true);
    assert!(service.health_ignored.is_some() && service.usable() == 2);
    assert!(!service.backends[2].in_ring);
}

#[test]
fn a_backend_that_entered_the_ring_has_a_part_of_its_weight() {
    let mut spec = enabled();
    spec.services[0].slow_start = Some(Duration::from_secs(10));
    let weight = |entered, now| {
        let observed = Observed {
            health: &|_, _| Verdict::Up,
            hops: &|_| Ok(hop()),
            before: &|_, _| None,
            doubted: &|_, _| None,
            said: &|_, _| Said::default(),
            failing: &|_, _| None,
            entered: &|_, _| entered,
            now,
        };
        effective(&spec, observed)[0].backends[0].weight
    };
    assert_eq!([0, 2_512, 7_536, 10_000, 10_048].map(|now| weight(Some(0), now)), [20, 40, 80, 80, 100]);
    assert_eq!(weight(None, 0), 100);
}

proptest! {
    #[test]
    fn backends_outside_the_ring_have_a_reason(
        admin in prop::sample::select(vec![Admin::Enabled, Admin::Draining, Admin::Disabled]),
        weight in prop::sample::select(vec![0u16, 1, 1000]),
        hold: bool, checked: bool, resolved: bool, running in prop::option::of(any::<bool>()),
        verdict in prop::sample::select(vec![Verdict::Up, Verdict::Down, Verdict::Checking]),
    ) {
        let hold = if hold { Hold::Forever } else { AT_ONCE };
        let before = running.map(|running| Before { in_ring: running, alive: running, untried: false });
        let backend = one(&spec(admin, weight, hold, checked), verdict, resolved, before);
        if backend.in_ring {
            prop_assert!(backend.alive && backend.hop.is_some() && backend.weight > 0 && !backend.draining);
        } else {
            prop_assert_eq!(backend.weight, 0);
        }
        prop_assert_eq!(backend.reason.is_some(), backend.state != State::Up);
        prop_assert!(backend.state != State::Up || backend.in_ring);
    }
}
