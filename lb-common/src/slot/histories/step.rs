//! What may happen to a service and its flows.

use proptest::{prelude::*, sample::select};

use super::{super::Track, clients::FLOWS, service::BACKENDS};
use crate::evidence::Segment;

/// What a forger sends.
pub(super) const FORGED: [Segment; 6] = [
    Segment::Syn,
    Segment::Syn,
    Segment::Ordinary { fin: false },
    Segment::Ordinary { fin: true },
    Segment::Reset,
    Segment::Stray,
];

/// One thing that happens. A step that cannot happen (to end a flow that does not exist) is an empty step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Seconds go by.
    Wait(u64),
    /// A flow's first packet, on a tuple that may have been used before.
    Begin(u16),
    /// A retransmit of a SYN.
    Repeat(u16),
    /// A packet of a flow.
    Send(u16),
    /// The client closes its flow.
    End(u16),
    /// The client sends FIN and waits for the other side's.
    HalfClose(u16),
    /// The client resets its flow.
    Reset(u16),
    /// An attacker sends a packet of a flow, with a number that is not the client's.
    Forge(u16, Segment, u32),
    /// The client goes away without a word.
    Abandon(u16),
    /// The agent reads the flow tables.
    Sweep,
    Change(Change),
}

/// One change of the service. Backends are numbered from 1.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Add(u32),
    Remove(u32),
    Drain(u32, bool),
    /// Whether its checks say that it is up.
    Health(u32, bool),
    /// All checks pass again.
    Recover,
    /// 0 to 3; a backend with weight 0 takes no new flows.
    Weight(u32, u8),
    /// Whether flows stay at a backend that is down (`on_down = "hold"`).
    Hold(bool),
    Track(Track),
    /// Whether the service gives new flows out in turns, which records every flow.
    Balance(bool),
    /// A ring of another length; the argument is the place of the length in the list of lengths.
    Resize(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let backend = || 1..=BACKENDS;
    let track = select(&[Track::OnChange, Track::OnChange, Track::Always, Track::Never][..]);
    prop_oneof![
        4 => backend().prop_map(Change::Add),
        2 => backend().prop_map(Change::Remove),
        4 => (backend(), any::<bool>()).prop_map(|(backend, draining)| Change::Drain(backend, draining)),
        4 => (backend(), any::<bool>()).prop_map(|(backend, up)| Change::Health(backend, up)),
        4 => Just(Change::Recover),
        4 => (backend(), 0..4_u8).prop_map(|(backend, weight)| Change::Weight(backend, weight)),
        1 => any::<bool>().prop_map(Change::Hold),
        1 => track.prop_map(Change::Track),
        1 => any::<bool>().prop_map(Change::Balance),
        1 => (0..3_usize).prop_map(Change::Resize),
    ]
}

/// A step; packets are more frequent than changes.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let flow = || 0..FLOWS;
    prop_oneof![
        8 => (1..60_u64).prop_map(Step::Wait),
        1 => (100..300_u64).prop_map(Step::Wait),
        12 => flow().prop_map(Step::Begin),
        2 => flow().prop_map(Step::Repeat),
        24 => flow().prop_map(Step::Send),
        2 => flow().prop_map(Step::End),
        1 => flow().prop_map(Step::HalfClose),
        1 => flow().prop_map(Step::Reset),
        12 => (flow(), select(&FORGED[..]), 0..8_u32).prop_map(|(flow, segment, number)| Step::Forge(flow, segment, number)),
        2 => flow().prop_map(Step::Abandon),
        6 => Just(Step::Sweep),
        8 => change().prop_map(Step::Change),
    ]
}
