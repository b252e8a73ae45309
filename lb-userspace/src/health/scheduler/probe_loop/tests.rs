//! Which probes begin when.

use super::*;
use crate::health::scheduler::tests::{health, target};

/// With as many targets, all due.
fn driver(concurrency: usize, targets: u16) -> Driver {
    let (_, wanted) = watch::channel(Arc::from([]));
    let (updates, _) = mpsc::channel(1);
    let mut driver =
        Driver::new(Places::new(concurrency, 0), wanted, updates, Arc::default(), Arc::default());
    // Each of another question, so that no two share a probe.
    let all: Vec<_> = (0..targets).map(|n| target(&format!("b{n}"), health(1 + n))).collect();
    driver.retarget(&all);
    driver.due = (0..u64::from(targets)).map(|id| Reverse((Instant::now(), id))).collect();
    for entry in driver.entries.values_mut() {
        entry.due = Instant::now();
    }
    driver
}

#[tokio::test]
async fn probes_due_within_a_beat_start_together() {
    let mut driver = driver(10, 5);
    let later: Vec<_> = (0..4).filter_map(|_| driver.due.pop()).collect();
    let begun = Instant::now();
    driver.start_due();
    assert_eq!(driver.probes.len(), 1, "alone, it does not wait");
    assert!(driver.batch_end >= begun + BATCH_WINDOW);
    driver.due.extend(later);
    driver.batch_end = begun + Duration::from_secs(3600);
    driver.start_due();
    assert_eq!(driver.probes.len(), 1);
    driver.batch_end = Instant::now();
    driver.start_due();
    assert_eq!(driver.probes.len(), 5);
}

#[tokio::test]
async fn where_probes_wait_for_each_other_no_beat_holds_them_up() {
    let mut driver = driver(2, 5);
    driver.start_due();
    assert_eq!(driver.probes.len(), 2);
    assert!(driver.batch_end <= Instant::now());
    for done in 1..=3 {
        let ended = driver.probes.join_next().await.unwrap();
        assert!(ended.is_ok());
        driver.finish(ended);
        driver.start_due();
        assert_eq!(driver.probes.len(), 2, "the place is taken at once, the {done}. time");
    }
}
