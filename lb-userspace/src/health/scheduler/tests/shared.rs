//! One probe for all that ask the same of the same address.

use super::*;

#[tokio::test]
async fn one_probe_answers_for_every_service_that_asks_the_same() {
    let (address, count, task) = any_listener().await;
    let (scheduler, _updates) = Scheduler::new(8).unwrap();
    let of = |service: &str, results: u32| Target {
        service: service.into(),
        ..target("a", Health { rise: results, fall: results, ..health(address.port()) })
    };
    let other = Health { timeout: LIMIT / 2, ..health(address.port()) };
    let three = [of("one", 1), of("two", 2), of("five", 5)];
    scheduler.set_targets(three.to_vec());
    let all = |rows: &[Snapshot], verdict| rows.len() == 3 && rows.iter().all(|row| row.verdict == verdict);
    until(&scheduler, |rows| all(rows, Verdict::Up) && rows.iter().all(|row| row.probes >= 10)).await;
    let asked = count.load(Ordering::Relaxed) as u64;
    let answers: Vec<u64> = scheduler.snapshot().iter().map(|row| row.probes).collect();
    // A probe that is under way has no answer yet, and between the two looks one may have ended.
    assert!(
        answers.iter().all(|answers| answers.abs_diff(asked) <= 3),
        "{asked} probes, {answers:?} answers"
    );
    // Each service counts for itself how many failures it takes.
    task.abort();
    until(&scheduler, |rows| all(rows, Verdict::Down)).await;
    let failures: Vec<u64> = scheduler.snapshot().iter().map(|row| row.failures).collect();
    assert!(failures.iter().all(|failures| *failures >= 5), "{failures:?}");
    // The one that is left goes on.
    let mut left = of("five", 5);
    scheduler.set_targets(vec![left.clone(), Target { service: "other".into(), ..target("a", other) }]);
    until(&scheduler, |rows| rows.len() == 2 && rows[1].probes > 2).await;
    let before = scheduler.snapshot()[0].probes;
    until(&scheduler, |rows| rows[0].probes > before + 3).await;
    left.service = "new".into();
    scheduler.set_targets(vec![left]);
    until(&scheduler, |rows| rows.len() == 1 && rows[0].service == "new" && rows[0].probes > 3).await;
}
