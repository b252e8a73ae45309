//! `lb_clock`, by which the agent reads the clock that flow records are stamped with.

use std::time::{Duration, Instant};

use anyhow::Result;
use aya::{TestRun as _, TestRunOptions};
use lb_common::{hash::Seed, map::name};
use lb_tests::{
    need_bpf,
    world::{Sizes, World},
};

/// Jiffies, as `lb_clock` tells them.
pub(crate) fn now(world: &mut World) -> Result<u64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(&[0; 64]);
    assert_eq!(world.program("lb_clock")?.test_run(options)?.return_value, 2, "XDP_PASS");
    Ok(world.array::<u64>(name::CLOCK)?.get(&0, 0)?)
}

#[test]
fn the_clock_goes_as_fast_as_jiffies_do() -> Result<()> {
    need_bpf!();
    let mut world = World::new(Sizes::default(), Seed([1, 2]))?;
    let begin = Instant::now();
    let first = now(&mut world)?;
    std::thread::sleep(Duration::from_millis(200));
    let passed = now(&mut world)? - first;
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
    now(&mut world)?;
    assert_eq!(world.counters()?, before);
    Ok(())
}
