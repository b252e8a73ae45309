//! What failing checks do: to held flows, to many backends at once, to a service whose last backend fails.

use super::*;

/// WEB with checks, a third backend and `more` settings of the service.
fn checked(more: &str) -> Bench {
    let services = WEB.replace("health = false", &format!("health = {{ kind = \"tcp\" }}\n{more}"));
    let mut bench = bench(&(services + THIRD));
    let all: Vec<_> = ALL.iter().map(|(name, address)| (*name, *address, Verdict::Up)).collect();
    verdicts(&mut bench, &all);
    bench
}

const ALL: [(&str, &str); 3] = [("web-1", "10.0.0.11"), ("web-2", "10.0.0.12"), ("web-3", "10.0.0.13")];

fn judge(bench: &mut Bench, name: &str, verdict: Verdict) {
    let (_, address) = ALL.iter().find(|(known, _)| *known == name).unwrap();
    verdicts(bench, &[(name, address, verdict)]);
}

fn slots(bench: &mut Bench) -> [u32; 3] {
    ALL.map(|(name, _)| bench.backend(name).slots)
}

fn is_alive(bench: &Bench, name: &str) -> bool {
    let running = bench.agent.reconciler.running(clock::since());
    running[0].backends.iter().any(|backend| backend.name == name && backend.record.is_alive())
}

fn kinds(bench: &Bench) -> Vec<String> {
    bench.agent.journal.since(0).into_iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn new_flows_leave_at_once_established_ones_after_hold() {
    let mut held = checked("");
    judge(&mut held, "web-1", Verdict::Down);
    assert_eq!(slots(&mut held)[0], 0);
    assert!(is_alive(&held, "web-1"), "3 s by default");
    let due = held.agent.due().expect("the hold ends by itself");
    assert!(due.saturating_sub(clock::milliseconds()) <= 3_000);
    judge(&mut held, "web-1", Verdict::Up);
    assert!(held.agent.due().is_none() && slots(&mut held)[0] > 100);
    let mut given_away = checked("hold = \"0s\"");
    judge(&mut given_away, "web-1", Verdict::Down);
    assert!(!is_alive(&given_away, "web-1"));
    let mut short = checked("hold = \"1ms\"");
    judge(&mut short, "web-1", Verdict::Down);
    crate::wait::until("the hold is over", crate::wait::LIMIT, async || {
        short.agent.do_what_is_due();
        if is_alive(&short, "web-1") { Err("it is alive".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[test]
fn on_down_means_what_it_meant() {
    let mut moved = checked("on_down = \"move\"");
    judge(&mut moved, "web-1", Verdict::Down);
    assert!(!is_alive(&moved, "web-1"));
    let mut held = checked("on_down = \"hold\"");
    judge(&mut held, "web-1", Verdict::Down);
    assert!(is_alive(&held, "web-1") && held.agent.due().is_none());
}

#[test]
fn a_hiccup_of_all_checks_changes_no_slot() {
    let mut bench = checked("");
    let before: Vec<u64> = words(&bench);
    for order in [["web-1", "web-2", "web-3"], ["web-3", "web-1", "web-2"]] {
        order.iter().for_each(|name| judge(&mut bench, name, Verdict::Down));
        let all = slots(&mut bench);
        assert!(all.iter().all(|slots| *slots > 100), "the ring stays: {all:?}");
        let service = service(&mut bench);
        assert!(
            service.notes.iter().any(|note| note.starts_with("correlated_failure: ")),
            "{:?}",
            service.notes
        );
        assert!(order.iter().all(|name| is_alive(&bench, name)));
        for name in order.iter().rev() {
            judge(&mut bench, name, Verdict::Up);
        }
    }
    let current = |words: &[u64]| words.iter().map(|word| Slot(*word).owner_of_unknown()).collect::<Vec<_>>();
    assert_eq!(current(&words(&bench)), current(&before), "unknown flows are where they were");
    let kinds = kinds(&bench);
    for wanted in ["correlated_failure", "correlated_failure_over"] {
        assert!(kinds.iter().any(|kind| kind == wanted), "{kinds:?}");
    }
}

fn words(bench: &Bench) -> Vec<u64> {
    let slots = bench.agent.reconciler.tables().slots();
    slots.iter().map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).collect()
}

#[test]
fn one_death_counts_at_once_and_the_last_backend_stays() {
    let mut bench = checked("hold = \"0s\"");
    // Long apart, as far as the agent can know: the doubts are reset each time.
    for (name, _) in ALL {
        judge(&mut bench, name, Verdict::Down);
        bench.agent.doubts = Doubts::default();
        bench.agent.reconcile();
    }
    assert_eq!(slots(&mut bench), [0, 0, 509]);
    let notes = service(&mut bench).notes;
    assert!(notes.iter().any(|note| note.contains("no backend passes its check")), "{notes:?}");
    assert!(kinds(&bench).iter().any(|kind| kind == "service_failing"));
    judge(&mut bench, "web-1", Verdict::Up);
    assert_eq!(slots(&mut bench), [509, 0, 0], "one that works is better");
    assert!(kinds(&bench).iter().any(|kind| kind == "service_works"));
}

#[test]
fn a_service_that_wants_so_is_emptied_when_all_are_down() {
    let mut bench = checked("all_down = \"drop\"\nhold = \"0s\"");
    for (name, _) in ALL {
        judge(&mut bench, name, Verdict::Down);
        bench.agent.doubts = Doubts::default();
        bench.agent.reconcile();
    }
    assert_eq!(slots(&mut bench), [0, 0, 0]);
    assert!(kinds(&bench).iter().any(|kind| kind == "service_without_backend"));
}

#[test]
fn a_verdict_on_a_removed_backend_is_ignored() {
    let mut bench = checked("hold = \"0s\"");
    let before = slots(&mut bench);
    verdicts(&mut bench, &[("web-1", "10.0.0.99", Verdict::Down), ("web-9", "10.0.0.12", Verdict::Down)]);
    assert_eq!(slots(&mut bench), before);
    assert!(ALL.iter().all(|(name, _)| is_alive(&bench, name)));
    judge(&mut bench, "web-1", Verdict::Down);
    assert_eq!(slots(&mut bench)[0], 0, "and one that is does");
}
