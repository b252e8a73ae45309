//! What may happen to a service and its flows.

use proptest::{collection::vec, prelude::*};

use super::{agent, client};

/// One thing that happens. Numbers that name nothing (an open flow that is opened, a dead backend that is killed) make
/// the step an empty one.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A new flow, on a tuple that may have been used before.
    Open(u16),
    /// A packet of a flow.
    Send(u16),
    /// The client ends a flow.
    Close(u16),
    /// The client goes away without a word.
    Abandon(u16),
    /// Another ring: new owners for some slots (by their place, modulo the length), as places in the list of backends
    /// that take new flows.
    Change(Vec<(usize, usize)>),
    /// A backend goes down, with its flows.
    Kill(u32),
    /// Its checks fail for a moment: new flows leave it, and those that send something do; it keeps its state.
    Fail(u32),
    /// It comes back: without its flows, or with those that sent nothing since its checks failed.
    Revive(u32),
    /// A backend leaves the ring and keeps its flows.
    Drain(u32),
    Undrain(u32),
    /// A ring of another length.
    Resize(usize),
    /// The time for which slots learn is over.
    EndWindow,
    /// The agent looks at the flow tables.
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
