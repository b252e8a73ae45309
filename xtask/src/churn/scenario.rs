//! Runs with one kind of trouble alone: a backend that flaps, the last backend of a service, changes in quick succession,
//! a flood of SYNs. Those with a file of their own: [`super::hiccup`], [`super::lossy`], [`super::handover`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::{
    Progress, flood,
    report::Check,
    rig::Rig,
    script::{self, Act, Step},
    world::{LONE, LONE_BACKEND, SERVICES},
};
use crate::lab::{CLIENT, ROUTER};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// The script of the seed
    Churn,
    /// A backend dies and returns every second, for a minute
    Flap,
    /// The last backend of a service is removed and comes back, ten times
    Last,
    /// Two changes of a service within a window, then ten
    Ten,
    /// A flood of SYNs while every slot learns
    Flood,
    /// All checks fail for 1.5 s, and for 5 s, while every backend works
    Hiccup,
    /// The way of the checks loses 1, 5, 10 and 20 % of packets, for a quarter of the time each
    Lossy,
    /// Names change, and files replace backends by others
    Handover,
}

impl Scenario {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Churn => "script",
            Self::Flap => "flap",
            Self::Last => "last",
            Self::Ten => "ten",
            Self::Flood => "flood",
            Self::Hiccup => "hiccup",
            Self::Lossy => "lossy",
            Self::Handover => "handover",
        }
    }

    /// What happens, and when.
    pub(super) fn steps(self, seed: u64, duration: Duration, per_minute: u32) -> Vec<Step> {
        match self {
            Self::Churn => script::script(seed, duration, per_minute),
            Self::Flap => flap(),
            Self::Last => last(),
            Self::Ten => ten(),
            Self::Flood | Self::Hiccup | Self::Lossy | Self::Handover => Vec::new(),
        }
    }
}

/// One after the other, `pause` apart.
fn paced(start: Duration, pause: Duration, acts: impl IntoIterator<Item = Act>) -> Vec<Step> {
    (0..).zip(acts).map(|(number, act)| Step { at: start + pause * number, act }).collect()
}

fn flap() -> Vec<Step> {
    const BACKEND: u8 = 2;
    let acts = (0..120).map(|half| {
        if half % 2 == 0 { Act::Kill { backend: BACKEND } } else { Act::Revive { backend: BACKEND } }
    });
    paced(Duration::from_secs(2), Duration::from_millis(500), acts)
}

fn last() -> Vec<Step> {
    let acts = (0..20).map(|half| {
        if half % 2 == 0 {
            Act::Remove { service: LONE, backend: LONE_BACKEND }
        } else {
            Act::Add { service: LONE, backend: LONE_BACKEND, weight: 100 }
        }
    });
    // Longer than what may pass between its return and the first request that must not fail.
    paced(Duration::from_secs(2), Duration::from_secs(4), acts)
}

/// All on services 0 and 1, whose windows are 16 s and the default, hours.
fn ten() -> Vec<Step> {
    let mut steps = Vec::new();
    for (turn, service) in [0, 1].into_iter().enumerate() {
        let start = Duration::from_secs(2 + 15 * turn as u64);
        let two = [Act::Weight { service, backend: 0, weight: 300 }, Act::Drain { service, backend: 1 }];
        steps.extend(paced(start, Duration::from_secs(1), two));
        let ten = [
            Act::Add { service, backend: 6, weight: 200 },
            Act::Weight { service, backend: 0, weight: 20 },
            Act::Undrain { service, backend: 1 },
            Act::Drain { service, backend: 2 },
            Act::Weight { service, backend: 3, weight: 300 },
            Act::Add { service, backend: 7, weight: 100 },
            Act::Drain { service, backend: 6 },
            Act::Undrain { service, backend: 2 },
            Act::Weight { service, backend: 0, weight: 100 },
            Act::Drain { service, backend: 3 },
        ];
        steps.extend(paced(start + Duration::from_secs(5), Duration::from_millis(500), ten));
    }
    steps
}

/// SYNs in a second, and all together: more than twice what the table of unconfirmed flows holds.
const RATE: u32 = 10_000;
const SYNS: u64 = 150_000;

/// Makes every slot learn, then floods, then looks on for a while; what to say about it, and
/// what had to be so.
pub(super) fn flood(rig: &mut Rig, progress: &mut Progress) -> Result<(String, Check)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    // Slots are to learn for as long as it lasts.
    rig.agent.ctl(&["service", "set", SERVICES[0].name, "--track-window", "1h"])?;
    for service in [0, 1] {
        rig.carry_out(&Act::Resize { service, max_backends: 30 })?;
        rig.carry_out(&Act::Drain { service, backend: 1 })?;
    }
    // Answers to addresses that nobody has end here.
    let mut route = rig.lab.node(ROUTER)?.command("ip");
    crate::run::capture(route.args(["route", "add", "blackhole", flood::SOURCES]))?;
    rig.load.book().begin("flood of SYNs");
    let client = rig.lab.node(CLIENT)?.clone();
    let thread = std::thread::spawn(move || client.enter(|| flood::send(RATE, SYNS)));
    let (began, mut most) = (Instant::now(), 0);
    while !thread.is_finished() {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
        most = most.max(pending(rig)?.0);
    }
    thread.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))???;
    let took = began.elapsed().as_secs();
    let (_, size) = pending(rig)?;
    let during = rig.load.book().moments.last().map(|moment| moment.seen).unwrap_or_default();
    rig.carry_out(&Act::Undrain { service: 0, backend: 1 })?;
    progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
    let note = format!(
        "{SYNS} SYNs of nobody in {took} s; {most} of {size} unconfirmed flows at the most; handshakes beside it: \
         {} made, {} of them slow, {} failed",
        during.requests,
        during.slow,
        during.failed + during.failed_with_reason,
    );
    let full = format!("the flood filled the table of unconfirmed flows: {most} of {size}");
    Ok((note, Check { what: full, good: most * 10 >= size * 9 }))
}

/// Unconfirmed flows that are written down, and room for them.
fn pending(rig: &Rig) -> Result<(u64, u64)> {
    let stats = rig.agent.ctl(&["stats"])?;
    let now = stats["pending_flows"].as_u64().context("no pending_flows in the statistics")?;
    let status = rig.agent.ctl(&["status"])?;
    let limits = status["limits"].as_array().into_iter().flatten();
    let size =
        limits.filter(|limit| limit["name"] == "pending_flows").find_map(|limit| limit["size"].as_u64());
    Ok((now, size.context("no limit of pending_flows")?))
}

#[cfg(test)]
mod tests {
    use super::{super::world::World, *};

    #[test]
    fn every_scenario_leaves_the_services_served() {
        for scenario in [Scenario::Flap, Scenario::Last, Scenario::Ten] {
            let mut world = World::first();
            let mut before = Duration::ZERO;
            for Step { at, act } in scenario.steps(1, Duration::from_secs(60), 35) {
                assert!(at >= before, "{scenario:?}");
                before = at;
                world.apply(&act);
                assert!(world.is_served(), "{scenario:?}: {act:?}");
            }
            assert!(world.place(LONE, LONE_BACKEND).is_some(), "{scenario:?}");
        }
    }

    #[test]
    fn a_backend_flaps_every_second_for_a_minute() {
        let steps = flap();
        let kills = steps.iter().filter(|step| matches!(step.act, Act::Kill { .. })).count();
        assert_eq!(kills, 60);
    }
}
