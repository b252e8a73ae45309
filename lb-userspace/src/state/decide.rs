//! The rule for one backend.

use super::{Before, State};
use crate::{
    config::spec::{Admin, OnDown},
    health::Verdict,
};

pub(super) struct Input<'a> {
    pub(super) admin: Admin,
    pub(super) weight: u16,
    pub(super) on_down: OnDown,
    pub(super) verdict: Verdict,
    /// Too few are healthy for a failing check to say anything.
    pub(super) health_ignored: bool,
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
}

pub(super) fn decide(input: &Input<'_>) -> Decision {
    if input.admin == Admin::Disabled {
        let reason = Some("disabled by the operator".to_owned());
        return Decision { state: State::Disabled, reason, in_ring: false, alive: false, draining: false };
    }
    let before = input.before.unwrap_or(Before { in_ring: false, alive: false });
    let (works, alive) = match input.verdict {
        Verdict::Up => (true, true),
        Verdict::Down if input.health_ignored => (true, true),
        Verdict::Down => (false, input.on_down == OnDown::Hold),
        Verdict::Checking => (before.in_ring, before.alive),
    };
    let draining = input.admin == Admin::Draining || input.weight == 0;
    // A next hop that is lost for a moment breaks nothing: new flows go elsewhere, and those that are here wait for it
    // (dropped as `no_next_hop` meanwhile) for as long as health has not given the backend up.
    let in_ring = works && !draining && input.unresolved.is_none();
    let state = match input.verdict {
        Verdict::Down => State::Down,
        _ if draining => State::Draining,
        Verdict::Checking => State::Checking,
        Verdict::Up if input.unresolved.is_some() => State::Unresolved,
        Verdict::Up => State::Up,
    };
    Decision { state, reason: reason(input, state, in_ring), in_ring, alive, draining }
}

/// Everything that keeps the backend from being plainly up, the weightiest first.
fn reason(input: &Input<'_>, state: State, in_ring: bool) -> Option<String> {
    let mut parts = Vec::new();
    if state == State::Down {
        parts.push(match input.on_down {
            _ if input.health_ignored => {
                "its health check fails, which is ignored: fewer backends than min_healthy are up".to_owned()
            }
            OnDown::Move => "its health check fails".to_owned(),
            OnDown::Hold => "its health check fails, its flows are held (on_down = \"hold\")".to_owned(),
        });
    }
    if input.admin == Admin::Draining {
        parts.push("draining by the operator's word".to_owned());
    } else if input.weight == 0 {
        parts.push("its weight is 0".to_owned());
    }
    if input.verdict == Verdict::Checking {
        parts.push(match in_ring {
            true => "no verdict of its health check yet, stays in the ring as before".to_owned(),
            false => "no verdict of its health check yet".to_owned(),
        });
    }
    if let Some(why) = input.unresolved {
        parts.push(format!("no next hop: {why}"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
