//! The script of a run, made from its seed alone: what happens when. Nothing that is measured while it runs flows back
//! into it, so that the same seed does the same again.

use std::time::Duration;

use fastrand::Rng;

use super::world::{BACKENDS, LONE, LONE_BACKEND, SERVICES, World};

/// One thing that is done to the load balancer or its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Add {
        service: usize,
        backend: u8,
        weight: u16,
    },
    Drain {
        service: usize,
        backend: u8,
    },
    Undrain {
        service: usize,
        backend: u8,
    },
    /// The client ends its connections to a draining backend; no event of its own, [`Act::Remove`] follows.
    Finish {
        service: usize,
        backend: u8,
    },
    Remove {
        service: usize,
        backend: u8,
    },
    Weight {
        service: usize,
        backend: u8,
        weight: u16,
    },
    /// SIGKILL to the backend's server.
    Kill {
        backend: u8,
    },
    Revive {
        backend: u8,
    },
    /// The file is written again with some backends changed, and SIGHUP sent.
    Reload(Vec<Edit>),
    /// SIGKILL to the agent.
    AgentKill,
    /// SIGTERM to the agent.
    AgentStop,
    /// A new agent adopts what runs and replaces the program through its link.
    AgentStart,
    /// The ring gets another length.
    Resize {
        service: usize,
        max_backends: u32,
    },
}

/// What a reload changes of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) service: usize,
    pub(super) backend: u8,
    pub(super) weight: u16,
    pub(super) draining: bool,
}

/// An act and when it is due, counted from the start of the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) act: Act,
}

impl Act {
    /// The kind of event it counts as; `None` = none.
    pub(super) fn label(&self) -> Option<&'static str> {
        Some(match self {
            Self::Add { service: LONE, .. } => "last backend returns",
            Self::Remove { service: LONE, .. } => "last backend removed",
            Self::Add { .. } => "backend added",
            Self::Drain { .. } => "backend drained",
            Self::Undrain { .. } => "drain ended",
            Self::Finish { .. } => return None,
            Self::Remove { .. } => "backend removed",
            Self::Weight { .. } => "weight changed",
            Self::Kill { .. } => "backend killed",
            Self::Revive { .. } => "backend revived",
            Self::Reload(_) => "configuration reloaded",
            Self::AgentKill => "agent killed",
            Self::AgentStop => "agent stopped",
            Self::AgentStart => "agent started, program replaced",
            Self::Resize { .. } => "ring resized",
        })
    }
}

const WEIGHTS: [u16; 7] = [20, 50, 100, 100, 150, 200, 300];
/// Values of `max_backends` that make rings of different lengths.
const SIZES: [u32; 3] = [16, 30, 60];
/// From the time the client is asked to end its connections to a backend until that is removed.
const FAREWELL: Duration = Duration::from_secs(3);
/// A ring cannot change its length a second time while a slot asks the old one: window, a step of its clock, sweeps.
const RESIZE_SLACK: Duration = Duration::from_secs(45);
/// So many backends are dead at most.
const MOST_DEAD: usize = 2;

/// The script of `duration` with about `per_minute` events a minute.
pub(super) fn script(seed: u64, duration: Duration, per_minute: u32) -> Vec<Step> {
    let mut maker = Maker {
        rng: Rng::with_seed(seed),
        world: World::first(),
        steps: Vec::new(),
        waiting: Vec::new(),
        resizable: [Some(Duration::ZERO); SERVICES.len()],
    };
    let pause = Duration::from_secs(60) / per_minute.max(1);
    let mut now = pause;
    while now < duration {
        maker.flush(now);
        maker.random(now);
        now += pause.mul_f64(0.6 + 0.8 * maker.rng.f64());
    }
    // What was begun comes to its end: a removal, the agent's return.
    maker.flush(Duration::MAX);
    maker.steps
}

struct Maker {
    rng: Rng,
    world: World,
    steps: Vec<Step>,
    /// What has to follow, in its order.
    waiting: Vec<Step>,
    /// From when on a service's ring may change its length; `None` = not again.
    resizable: [Option<Duration>; SERVICES.len()],
}

impl Maker {
    fn flush(&mut self, until: Duration) {
        self.waiting.sort_by_key(|step| step.at);
        while self.waiting.first().is_some_and(|step| step.at <= until) {
            let step = self.waiting.remove(0);
            self.push(step.at, step.act);
        }
    }

    fn push(&mut self, at: Duration, act: Act) {
        self.world.apply(&act);
        self.steps.push(Step { at, act });
    }

    /// Something that may happen now. Tried again when what was drawn is not possible.
    fn random(&mut self, now: Duration) {
        for _ in 0..100 {
            let Some(act) = self.draw(now) else { continue };
            let mut after = self.world.clone();
            after.apply(&act);
            if !after.is_served() {
                continue;
            }
            self.follow(now, &act);
            self.push(now, act);
            return;
        }
    }

    /// What has to come after an act.
    fn follow(&mut self, now: Duration, act: &Act) {
        match act {
            Act::AgentKill | Act::AgentStop => {
                let away = Duration::from_millis(self.rng.u64(300..3000));
                self.waiting.push(Step { at: now + away, act: Act::AgentStart });
            }
            Act::Finish { service, backend } => {
                let act = Act::Remove { service: *service, backend: *backend };
                self.waiting.push(Step { at: now + FAREWELL, act });
            }
            Act::Resize { service, .. } => {
                // With the default window of hours, once in a run.
                let window = SERVICES.get(*service).and_then(|kind| kind.window);
                if let Some(entry) = self.resizable.get_mut(*service) {
                    *entry = window.map(|window| now + Duration::from_secs(window) + RESIZE_SLACK);
                }
            }
            _ => {}
        }
    }

    fn draw(&mut self, now: Duration) -> Option<Act> {
        let dice = self.rng.u32(0..100);
        if !self.world.agent {
            // Without an agent nothing can be asked for, but backends may still die and return.
            return if dice < 50 { self.kill() } else { self.revive() };
        }
        match dice {
            0..14 => self.add(),
            14..28 => self.pick(|place| !place).map(|(service, backend)| Act::Drain { service, backend }),
            28..43 => {
                self.pick(|draining| draining).map(|(service, backend)| Act::Undrain { service, backend })
            }
            43..49 => {
                self.pick(|draining| draining).map(|(service, backend)| Act::Finish { service, backend })
            }
            49..71 => {
                let (service, backend) = self.pick(|_| true)?;
                Some(Act::Weight { service, backend, weight: self.weight() })
            }
            71..75 => self.kill(),
            75..83 => self.revive(),
            83..90 => self.reload(),
            90..95 if self.waiting.is_empty() => {
                Some(if self.rng.u32(0..3) < 2 { Act::AgentKill } else { Act::AgentStop })
            }
            95..98 => self.resize(now),
            98..100 => Some(match self.world.place(LONE, LONE_BACKEND) {
                Some(_) => Act::Remove { service: LONE, backend: LONE_BACKEND },
                None => Act::Add { service: LONE, backend: LONE_BACKEND, weight: 100 },
            }),
            _ => None,
        }
    }

    fn weight(&mut self) -> u16 {
        // 0 is a drain by another name.
        if self.rng.u32(0..12) == 0 { 0 } else { WEIGHTS[self.rng.usize(..WEIGHTS.len())] }
    }

    /// A backend of some service that is not about to be removed, by whether it is draining.
    fn pick(&mut self, draining: impl Fn(bool) -> bool) -> Option<(usize, u8)> {
        let (service, backend) = (self.rng.usize(..LONE), self.rng.u8(..BACKENDS));
        let place = self.world.place(service, backend)?;
        (!place.leaving && draining(place.draining)).then_some((service, backend))
    }

    fn add(&mut self) -> Option<Act> {
        let (service, backend) = (self.rng.usize(..LONE), self.rng.u8(..BACKENDS));
        let weight = self.weight().max(20);
        self.world.place(service, backend).is_none().then_some(Act::Add { service, backend, weight })
    }

    fn kill(&mut self) -> Option<Act> {
        let backend = self.rng.u8(..BACKENDS);
        let leaving = (0..LONE).any(|service| self.world.place(service, backend).is_some_and(|p| p.leaving));
        let dead = self.world.dead.iter().filter(|dead| **dead).count();
        (!leaving && !self.world.is_dead(backend) && dead < MOST_DEAD).then_some(Act::Kill { backend })
    }

    fn revive(&mut self) -> Option<Act> {
        let backend = self.rng.u8(..BACKENDS);
        self.world.is_dead(backend).then_some(Act::Revive { backend })
    }

    fn reload(&mut self) -> Option<Act> {
        let mut edits: Vec<Edit> = Vec::new();
        for _ in 0..self.rng.u32(1..5) {
            let Some((service, backend)) = self.pick(|_| true) else { continue };
            if edits.iter().any(|edit| (edit.service, edit.backend) == (service, backend)) {
                continue;
            }
            let edit = Edit { service, backend, weight: self.weight(), draining: self.rng.u32(0..4) == 0 };
            edits.push(edit);
        }
        (!edits.is_empty()).then_some(Act::Reload(edits))
    }

    fn resize(&mut self, now: Duration) -> Option<Act> {
        let service = self.rng.usize(..LONE);
        let max_backends = SIZES[self.rng.usize(..SIZES.len())];
        let other = self.world.services.get(service)?.max_backends != max_backends;
        let may = self.resizable.get(service).copied().flatten().is_some_and(|from| from <= now);
        (other && may).then_some(Act::Resize { service, max_backends })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

    #[test]
    fn a_seed_makes_the_same_script_again_and_another_another() {
        let minute = Duration::from_secs(60);
        assert_eq!(script(7, minute, 35), script(7, minute, 35));
        assert_ne!(script(7, minute, 35), script(8, minute, 35));
    }

    #[test]
    fn half_an_hour_has_a_thousand_events_of_every_kind() {
        for seed in 0..20 {
            let labels: Vec<&str> =
                script(seed, HALF_AN_HOUR, 35).iter().filter_map(|step| step.act.label()).collect();
            assert!(labels.len() >= 1000, "seed {seed}: {}", labels.len());
            let kinds: BTreeSet<&str> = labels.into_iter().collect();
            assert_eq!(kinds.len(), 14, "seed {seed}: {kinds:?}");
        }
    }

    #[test]
    fn steps_come_in_their_order_and_leave_every_service_served() {
        for seed in 0..200 {
            let mut world = World::first();
            let mut before = Duration::ZERO;
            for Step { at, act } in script(seed, Duration::from_secs(600), 60) {
                assert!(at >= before, "seed {seed}");
                before = at;
                let needs_agent = !matches!(
                    act,
                    Act::Kill { .. } | Act::Revive { .. } | Act::AgentStart | Act::Finish { .. }
                );
                assert!(world.agent || !needs_agent, "seed {seed}: {act:?} without an agent");
                world.apply(&act);
                assert!(world.is_served(), "seed {seed}: {act:?}");
            }
            assert!(world.agent, "seed {seed}: the agent is back at the end");
        }
    }

    #[test]
    fn what_is_removed_was_drained_and_its_connections_ended_before() {
        for seed in 0..50 {
            let mut world = World::first();
            for Step { act, .. } in script(seed, Duration::from_secs(600), 60) {
                if let Act::Remove { service, backend } = act
                    && service != LONE
                {
                    let place = world.place(service, backend);
                    assert!(place.is_some_and(|place| place.draining && place.leaving), "seed {seed}");
                }
                world.apply(&act);
            }
        }
    }
}
