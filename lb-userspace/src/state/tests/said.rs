//! What follows of what backends say of themselves.

use super::*;
use crate::health::said::Leave;

const DRAIN: Said = Said { leave: Some(Leave::Drain), percent: None };
const MAINT: Said = Said { leave: Some(Leave::Maint), percent: None };

fn part(percent: u16) -> Said {
    Said { leave: None, percent: Some(percent) }
}

/// The pair of backends, both in the ring, with what each says and its verdict.
fn said(spec: &Spec, says: [Said; 2], verdicts: [Verdict; 2]) -> Service {
    let number = |backend: &spec::Backend| usize::from(backend.name == "web-2");
    let said = |_: &spec::Service, backend: &spec::Backend| says[number(backend)];
    let health = |_: &spec::Service, backend: &spec::Backend| verdicts[number(backend)];
    effective(spec, Observed { said: &said, health: &health, ..OBSERVED }).remove(0)
}

const BOTH_UP: [Verdict; 2] = [Verdict::Up; 2];

#[test]
fn a_backend_that_wants_no_new_flows_keeps_those_that_it_has() {
    for (says, reason) in
        [(DRAIN, "its check says drain"), (MAINT, "its check says maint"), (part(0), "its check says 0%")]
    {
        let service = said(&pair(AllDown::Keep), [says, Said::default()], BOTH_UP);
        let [leaves, stays] = &service.backends[..] else { panic!("{service:?}") };
        assert_eq!((leaves.state, leaves.in_ring, leaves.alive), (State::Draining, false, true));
        assert_eq!((leaves.draining, leaves.weight, leaves.reason.as_deref()), (true, 0, Some(reason)));
        assert_eq!((stays.state, stays.weight, stays.reason.as_deref()), (State::Up, 100, None));
    }
}

#[test]
fn an_operators_drain_holds_whatever_the_backend_says() {
    let mut spec = pair(AllDown::Keep);
    spec.services[0].backends[0].admin = Admin::Draining;
    let ready = said(&spec, [part(100), Said::default()], BOTH_UP).backends.remove(0);
    assert_eq!((ready.state, ready.in_ring), (State::Draining, false));
    assert_eq!(ready.reason.as_deref(), Some("draining (set by operator)"));
    let both = said(&spec, [DRAIN, Said::default()], BOTH_UP).backends.remove(0);
    assert_eq!(both.reason.as_deref(), Some("draining (set by operator); its check says drain"));
    spec.services[0].backends[0].admin = Admin::Disabled;
    let disabled = said(&spec, [part(100), Said::default()], BOTH_UP).backends.remove(0);
    assert_eq!((disabled.state, disabled.alive), (State::Disabled, false));
    // Nor do the other's flows come back where only the operator's backend is left.
    spec.services[0].backends[0].admin = Admin::Draining;
    let last = said(&spec, [Said::default(), DRAIN], BOTH_UP);
    assert_eq!(last.backends.iter().map(|b| b.in_ring).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_weight_is_a_part_of_the_configured_one() {
    let mut spec = pair(AllDown::Keep);
    spec.services[0].backends[1].weight = 40;
    let service = said(&spec, [part(75), part(50)], BOTH_UP);
    assert_eq!(service.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [75, 20]);
    assert!(service.backends.iter().all(|b| b.state == State::Up && b.reason.is_none()));
    spec.services[0].backends[0].weight = 0;
    assert_eq!(said(&spec, [part(75), part(50)], BOTH_UP).backends[0].state, State::Draining);
}

#[test]
fn slow_start_ends_at_the_part_that_was_asked_for() {
    let mut spec = pair(AllDown::Keep);
    spec.services[0].slow_start = Some(Duration::from_secs(10));
    let at = |now| {
        let observed = Observed {
            health: &|_, _| Verdict::Up,
            said: &|_, _| part(50),
            entered: &|_, _| Some(0),
            now,
            ..OBSERVED
        };
        effective(&spec, observed)[0].backends[0].weight
    };
    assert_eq!([at(0), at(20_000)], [10, 50]);
}

#[test]
fn the_last_ones_that_could_take_flows_take_them_unless_set_otherwise() {
    let kept = said(&pair(AllDown::Keep), [DRAIN, part(0)], BOTH_UP);
    assert_eq!((kept.usable(), kept.failing), (2, false));
    for backend in &kept.backends {
        assert_eq!((backend.state, backend.draining, backend.weight), (State::Draining, false, 100));
        assert!(backend.reason.as_deref().is_some_and(|why| why.contains("which is ignored")), "{backend:?}");
    }
    assert_eq!(said(&pair(AllDown::Drop), [DRAIN, part(0)], BOTH_UP).usable(), 0);
}

#[test]
fn a_backend_that_works_and_drains_is_better_than_one_that_fails() {
    let service = said(&pair(AllDown::Keep), [DRAIN, Said::default()], [Verdict::Up, Verdict::Down]);
    assert_eq!(service.backends.iter().map(|b| b.in_ring).collect::<Vec<_>>(), [true, false]);
    assert!(!service.failing);
    let both = said(&pair(AllDown::Keep), [DRAIN, Said::default()], [Verdict::Down, Verdict::Down]);
    assert_eq!(both.backends.iter().map(|b| b.in_ring).collect::<Vec<_>>(), [false, true], "none works");
    assert!(both.failing);
}

#[test]
fn one_that_wants_no_flows_is_left_out_of_min_healthy() {
    let mut spec = pair(AllDown::Keep);
    spec.services[0].min_healthy = Some(MinHealthy::Percent(60));
    let ignored = |says, verdicts| said(&spec, says, verdicts).health_ignored;
    assert_eq!(ignored([DRAIN, Said::default()], [Verdict::Down, Verdict::Up]), None);
    assert!(ignored([Said::default(); 2], [Verdict::Down, Verdict::Up]).is_some());
}
