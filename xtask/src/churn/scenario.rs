//! Runs with one kind of trouble alone. Those that are lists of steps are here: a backend that flaps, the last backend of a
//! service, changes in quick succession. Every other one has a file of its own.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::{
    Progress, ack_flood, backscatter, flood, forge, half_close, handover, hiccup, lossy,
    report::Check,
    restart_blind,
    rig::Rig,
    script::{self, Act, Step},
    silent, starve, syn_flood,
    world::{LONE, LONE_BACKEND},
};

/// A scenario with a file of its own, given the time of `--minutes`: what to say about it, and what had to be so.
pub(super) type Own = fn(&mut Rig, &mut Progress, Duration) -> Result<(String, Vec<Check>)>;

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
    /// ACKs of ever other strangers while every slot learns: 60,000 a second
    AckFlood,
    /// Stray SYN-ACKs and RSTs arrive while a backend drains
    Backscatter,
    /// 70,000 segments with the addresses and ports of live connections, in each of six states
    Forge,
    /// Clients close their side and get their answer at the end of the time
    HalfClose,
    /// The agent is killed, and restarted, while the neighbours do not answer
    RestartBlind,
    /// 2,000 silent backends next to good services; 10,000, too, where the time is a minute or more
    Silent,
    /// SYNs of strangers while every slot learns, and handshakes with a round trip of 300 ms
    SynFlood,
    /// The agent is stopped for 20 s, then the processors are busy for 10 s
    Starve,
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
            Self::AckFlood => "ack-flood",
            Self::SynFlood => "syn-flood",
            Self::Backscatter => "backscatter",
            Self::Forge => "forge",
            Self::HalfClose => "half-close",
            Self::RestartBlind => "restart-blind",
            Self::Silent => "silent",
            Self::Starve => "starve",
        }
    }

    /// What it does where it is no list of steps.
    pub(super) fn own(self) -> Option<Own> {
        Some(match self {
            Self::Churn | Self::Flap | Self::Last | Self::Ten => return None,
            Self::Flood => flood::run,
            Self::Hiccup => hiccup::run,
            Self::Lossy => lossy::run,
            Self::Handover => handover::run,
            Self::AckFlood => ack_flood::run,
            Self::SynFlood => syn_flood::run,
            Self::Backscatter => backscatter::run,
            Self::Forge => forge::run,
            Self::HalfClose => half_close::run,
            Self::RestartBlind => restart_blind::run,
            Self::Silent => silent::run,
            Self::Starve => starve::run,
        })
    }

    /// What happens, and when.
    pub(super) fn steps(self, seed: u64, duration: Duration, per_minute: u32) -> Vec<Step> {
        match self {
            Self::Churn => script::script(seed, duration, per_minute),
            Self::Flap => flap(),
            Self::Last => last(),
            Self::Ten => ten(),
            _ => Vec::new(),
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
