//! The rule for one backend.

use std::time::Duration;

use super::{Before, State, Trust};
use crate::{
    config::spec::Admin,
    health::{Said, Verdict},
};

/// How long the established flows of a backend that is down stay there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The flows are given away.
    No,
    /// The flows stay until then, in milliseconds of the monotonic clock.
    Until(u64),
    Forever,
}

impl Held {
    /// For a backend that takes no flows since `failing`, both in milliseconds of the monotonic clock.
    pub(super) fn until(failing: u64, hold: Duration, now: u64) -> Self {
        let until = failing.saturating_add(u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
        if now < until { Self::Until(until) } else { Self::No }
    }
}

pub(super) struct Input<'a> {
    pub(super) admin: Admin,
    pub(super) weight: u16,
    pub(super) said: Said,
    /// Its wish to take no new flows counts.
    pub(super) heard: bool,
    pub(super) hold: Held,
    pub(super) verdict: Verdict,
    /// Too few backends are healthy for a failing check to say anything.
    pub(super) health_ignored: bool,
    /// Too many backends fail at once for this failure to be believed.
    pub(super) doubted: bool,
    pub(super) trust: Trust,
    /// Why the next hop is not known; `None` = it is known.
    pub(super) unresolved: Option<&'a str>,
    pub(super) before: Option<Before>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) state: State,
    pub(super) reason: Option<String>,
    pub(super) in_ring: bool,
    pub(super) alive: bool,
    pub(super) draining: bool,
    pub(super) held_until: Option<u64>,
    pub(super) untried: bool,
}

pub(super) fn decide(input: &Input<'_>) -> Decision {
    if input.admin == Admin::Disabled {
        let reason = Some("disabled by the operator".to_owned());
        return Decision {
            state: State::Disabled,
            reason,
            in_ring: false,
            alive: false,
            draining: false,
            held_until: None,
            untried: false,
        };
    }
    let before = input.before.unwrap_or(Before { in_ring: false, alive: false, untried: false });
    let (works, alive) = match input.verdict {
        Verdict::Up => (true, true),
        Verdict::Down if input.health_ignored || input.doubted => (true, true),
        // While no other backend works, flows would be no better elsewhere.
        Verdict::Down if input.trust == Trust::Failing => (before.in_ring, before.in_ring || before.alive),
        Verdict::Down => (
            false,
            match input.hold {
                Held::Forever => true,
                Held::Until(_) => before.alive,
                Held::No => false,
            },
        ),
        Verdict::Checking if input.trust != Trust::Verdicts && input.unresolved.is_none() => (true, true),
        Verdict::Checking => (before.in_ring, before.alive),
    };
    let leaves = input.said.leaves().is_some();
    let draining = input.admin == Admin::Draining || input.weight == 0 || (leaves && input.heard);
    // A next hop that is lost for a moment breaks nothing. New flows go elsewhere. The flows that are here wait for the next
    // hop (dropped as `no_next_hop` meanwhile) for as long as health has not given the backend up.
    let in_ring = works && !draining && input.unresolved.is_none();
    let state = match input.verdict {
        Verdict::Down => State::Down,
        _ if draining || leaves => State::Draining,
        Verdict::Checking => State::Checking,
        Verdict::Up if input.unresolved.is_some() => State::Unresolved,
        Verdict::Up => State::Up,
    };
    let held_until = match input.hold {
        Held::Until(until) if state == State::Down && alive && !works => Some(until),
        _ => None,
    };
    let untried = in_ring && input.verdict == Verdict::Checking && (before.untried || !before.in_ring);
    let reason = reason(input, state, in_ring, untried, held_until.is_some());
    Decision { state, reason, in_ring, alive, draining, held_until, untried }
}

/// Everything that keeps the backend from being simply up, the most important reason first.
fn reason(input: &Input<'_>, state: State, in_ring: bool, untried: bool, held: bool) -> Option<String> {
    let mut parts = Vec::new();
    if state == State::Down {
        parts.push(
            match input.hold {
                _ if input.health_ignored => {
                    "its health check fails, which is ignored: fewer backends than min_healthy are up"
                }
                _ if input.doubted => {
                    "its health check fails, which is not believed yet: too many fail at once"
                }
                _ if in_ring => {
                    "its health check fails; it stays in the ring, since no backend passes its check"
                }
                Held::Forever => "its health check fails, its flows are held (hold = \"forever\")",
                Held::Until(_) if held => "its health check fails, its flows are held for a moment",
                Held::Until(_) | Held::No => "its health check fails",
            }
            .to_owned(),
        );
    }
    if input.admin == Admin::Draining {
        parts.push("draining (set by operator)".to_owned());
    } else if input.weight == 0 {
        parts.push("its weight is 0".to_owned());
    }
    if let Some(word) = input.said.leaves() {
        let ignored = if input.heard { "" } else { ", which is ignored: no other backend takes new flows" };
        parts.push(format!("its check says {word}{ignored}"));
    }
    if input.verdict == Verdict::Checking {
        parts.push(
            match (in_ring, untried) {
                (true, true) => {
                    "no verdict of its health check yet, in the ring since no backend is known to work"
                }
                (true, false) => "no verdict of its health check yet, stays in the ring as before",
                (false, _) => "no verdict of its health check yet",
            }
            .to_owned(),
        );
    }
    if let Some(why) = input.unresolved {
        parts.push(format!("no next hop: {why}"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
