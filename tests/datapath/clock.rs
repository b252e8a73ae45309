//! `lb_clock`: with it the agent reads the clock that stamps flow records.

use std::time::{Duration, Instant};

use anyhow::Result;
use lb_common::hash::Seed;
use lb_tests::{
    need_bpf,
    world::{Sizes, World},
};

#[test]
fn the_clock_goes_as_fast_as_jiffies_do() -> Result<()> {
    need_bpf!();
    let mut world = World::new(Sizes::default(), Seed([1, 2]))?;
    let begin = Instant::now();
    let first = world.clock()?;
    std::thread::sleep(Duration::from_millis(200));
    let passed = world.clock()? - first;
    let most = begin.elapsed().as_millis() as u64 + 1;
    // HZ is between 100 and 1000.
    assert!((19..=most).contains(&passed), "{passed} jiffies in {most} ms");
    Ok(())
}

#[test]
fn the_clock_counts_no_packet() -> Result<()> {
    need_bpf!();
    let mut world = World::new(Sizes::default(), Seed([1, 2]))?;
    let before = world.counters()?;
    world.clock()?;
    assert_eq!(world.counters()?, before);
    Ok(())
}
