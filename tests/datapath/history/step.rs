//! What may happen to a service and its flows.

use proptest::{collection::vec, prelude::*};

use super::{agent, client};

/// One step. A step does nothing when its number does not fit (a flow to open is open already, a backend to kill is dead
/// already).
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A new flow, on a tuple that may have been in use before.
    Open(u16),
    /// A packet of a flow.
    Send(u16),
    /// The client ends a flow.
    Close(u16),
    /// The client goes away without closing its flow.
    Abandon(u16),
    /// Another ring: new owners for some slots. A pair is the place of a slot, modulo the length, and a place in the list of
    /// backends that take new flows.
    Change(Vec<(usize, usize)>),
    /// A backend goes down, with its flows.
    Kill(u32),
    /// Its checks fail for a moment: new flows leave it, and so do flows that send something; the backend keeps its state.
    Fail(u32),
    /// It comes back: without its flows, or with those that sent nothing since its checks failed.
    Revive(u32),
    /// A backend leaves the ring and keeps its flows.
    Drain(u32),
    Undrain(u32),
    /// A ring of another length.
    Resize(usize),
    /// The time is over during which slots learn.
    EndWindow,
    /// The agent sweeps the flow tables.
    Sweep,
}

/// A step; packets are more frequent than changes.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let flow = || 0..client::FLOWS;
    let backend = || 1..=agent::BACKENDS;
    prop_oneof![
        12 => flow().prop_map(Step::Open),
        16 => flow().prop_map(Step::Send),
        3 => flow().prop_map(Step::Close),
        2 => flow().prop_map(Step::Abandon),
        6 => vec((0..agent::LONGEST, 0..64usize), 1..12).prop_map(Step::Change),
        2 => backend().prop_map(Step::Kill),
        4 => backend().prop_map(Step::Fail),
        4 => backend().prop_map(Step::Revive),
        2 => backend().prop_map(Step::Drain),
        2 => backend().prop_map(Step::Undrain),
        1 => (0..agent::LENGTHS.len()).prop_map(Step::Resize),
        2 => Just(Step::EndWindow),
        4 => Just(Step::Sweep),
    ]
}
