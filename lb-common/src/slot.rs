//! Slot words and the rule of tracking on change: what a change of owner makes of a word, and what a packet
//! in a tracked slot does. One sentence carries it: *`previous` is whom unknown flows belong to.*
//!
//! | state | word | meaning |
//! |---|---|---|
//! | stable | not tracked | every flow of the slot is at `current`; no per-flow memory is touched |
//! | learning | tracked, `previous` set | flows from before the change are unknown and belong to `previous`; new ones are written down |
//! | remembering | tracked, no `previous` | old flows are written down; unknown ones belong to `current` |

/// `previous` of a slot in a ring that replaced one of another length: ask the old ring.
pub const PREVIOUS_RING: u32 = (1 << 24) - 1;

/// The largest backend number a slot word can hold.
pub const MAX_BACKEND: u32 = PREVIOUS_RING - 1;

/// Seconds in one step of a word's `since` clock. 15 bits of it wrap after 72 hours; windows are bounded
/// to a third of that by the configuration.
pub const SINCE_STEP: u64 = 8;

/// Which flows of a service are written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Track {
    /// None: the ring alone says where a packet goes.
    Never,
    /// Those of slots that changed owner, for as long as somebody may remember the owner before.
    #[default]
    OnChange,
    /// All of them: no slot is ever stable, and [`crate::service::Service::ALWAYS`] is set.
    Always,
}

/// One slot: read and written whole, 8 bytes.
///
/// Bits 0–23 `current`, 24–47 `previous`, 48–62 `since` (when `previous` was set, in steps of
/// [`SINCE_STEP`] seconds of the monotonic clock, modulo 2¹⁵; only the agent reads it), 63 `tracked`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(pub u64);

impl core::fmt::Debug for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match (self.is_tracked(), self.previous()) {
            (false, _) => write!(f, "stable({})", self.current()),
            (true, 0) => write!(f, "remembering({})", self.current()),
            (true, previous) => {
                write!(f, "learning({} from {previous} since {})", self.current(), self.since())
            }
        }
    }
}

const BACKEND_BITS: u32 = 24;
const BACKEND_MASK: u64 = (1 << BACKEND_BITS) - 1;
const SINCE_SHIFT: u32 = 48;
const SINCE_MASK: u64 = 0x7fff;
const TRACKED: u64 = 1 << 63;

impl Slot {
    /// A slot that nobody owns: its packets are dropped as `no_backend`.
    pub const EMPTY: Self = Self(0);

    #[inline(always)]
    pub const fn stable(current: u32) -> Self {
        Self(current as u64)
    }

    #[inline(always)]
    pub const fn remembering(current: u32) -> Self {
        Self(TRACKED | current as u64)
    }

    /// `since` in steps of the monotonic clock, see [`since`].
    #[inline(always)]
    pub const fn learning(current: u32, previous: u32, since: u16) -> Self {
        Self(
            TRACKED
                | (since as u64 & SINCE_MASK) << SINCE_SHIFT
                | (previous as u64) << BACKEND_BITS
                | current as u64,
        )
    }

    /// The backend that owns the slot; 0 = none.
    #[inline(always)]
    pub const fn current(self) -> u32 {
        (self.0 & BACKEND_MASK) as u32
    }

    /// The backend that unknown flows belong to; 0 = `current`, [`PREVIOUS_RING`] = ask the old ring.
    #[inline(always)]
    pub const fn previous(self) -> u32 {
        (self.0 >> BACKEND_BITS & BACKEND_MASK) as u32
    }

    /// When `previous` was set, see [`since`].
    #[inline(always)]
    pub const fn since(self) -> u16 {
        (self.0 >> SINCE_SHIFT & SINCE_MASK) as u16
    }

    #[inline(always)]
    pub const fn is_tracked(self) -> bool {
        self.0 & TRACKED != 0
    }

    /// Tracked, and unknown flows belong to `previous`.
    #[inline(always)]
    pub const fn is_learning(self) -> bool {
        self.is_tracked() && self.previous() != 0
    }

    /// Whom an unknown flow of this slot belongs to.
    #[inline(always)]
    pub const fn owner_of_unknown(self) -> u32 {
        if self.is_learning() { self.previous() } else { self.current() }
    }

    /// The word after the slot was given to `new` (0 = nobody), or after a backend it names went down.
    ///
    /// `alive` says whether established flows may go on at a backend: true for those that are up or
    /// draining, and for those down under `on_down = "hold"`. `now` comes from [`since`].
    ///
    /// Calling it again with the same arguments changes nothing.
    pub fn change(self, new: u32, alive: impl Fn(u32) -> bool, now: u16) -> Self {
        let unknown = self.owner_of_unknown();
        // The old ring's backends are asked one by one by the packet path; as a whole it never dies.
        let keeps = unknown != 0 && unknown != new && (unknown == PREVIOUS_RING || alive(unknown));
        if keeps {
            // A window that is already running for the same `previous` goes on: those flows began before it.
            let since = if self.is_learning() { self.since() } else { now };
            return Self::learning(new, unknown, since);
        }
        if self.is_tracked() {
            // Flows of other backends may be written down: keep asking the table.
            Self::remembering(new)
        } else {
            // Stable: every flow was at `unknown`, which is gone, nobody, or the new owner itself.
            Self::stable(new)
        }
    }

    /// What [`Slot::change`] is to a service that tracks on change, for any of the three. Also the word after the
    /// service's [`Track`] was set to another, its owner being the same.
    ///
    /// No change of the setting breaks a flow by itself. To `Always`: flows from before it are unknown and at their
    /// slot's owner, where unknown flows go. From it: slots go on being asked until nobody's record disagrees with
    /// them. To `Never`: what is written down and what is being learnt goes on; only a slot that gets *another owner*
    /// from then on gives it every flow it has not written down.
    pub fn next(self, track: Track, new: u32, alive: impl Fn(u32) -> bool, now: u16) -> Self {
        match track {
            Track::OnChange => self.change(new, alive, now),
            Track::Always => self.change(new, alive, now).tracked(),
            Track::Never if new == self.current() => self.change(new, alive, now),
            Track::Never if self.is_tracked() => Self::remembering(new),
            Track::Never => Self::stable(new),
        }
    }

    /// The word of a slot that nobody has used yet.
    #[inline(always)]
    pub const fn fresh(track: Track, new: u32) -> Self {
        match track {
            Track::Always => Self::remembering(new),
            Track::OnChange | Track::Never => Self::stable(new),
        }
    }

    /// The word of a slot in a ring that takes the place of one with another length: nothing is known of
    /// its flows, so every slot asks the old ring first.
    #[inline(always)]
    pub const fn after_resize(new: u32, now: u16) -> Self {
        Self::learning(new, PREVIOUS_RING, now)
    }

    #[inline(always)]
    const fn tracked(self) -> Self {
        Self(self.0 | TRACKED)
    }

    /// Whether learning has lasted `window` seconds at `now` (from [`since`]): whoever was silent that long
    /// counts as gone. Rounded up by one step, never down.
    pub const fn window_over(self, now: u16, window: u64) -> bool {
        let age = now.wrapping_sub(self.since()) as u64 & SINCE_MASK;
        self.is_learning() && age > window.div_ceil(SINCE_STEP)
    }

    /// The word when the window is over: unknown flows belong to `current` from now on.
    pub const fn end_learning(self) -> Self {
        Self::remembering(self.current())
    }

    /// The word when no record of a live flow disagrees with `current` any more.
    pub const fn settle(self) -> Self {
        if self.is_learning() { self } else { Self::stable(self.current()) }
    }
}

/// The `since` clock for a monotonic time in seconds.
pub const fn since(monotonic_seconds: u64) -> u16 {
    ((monotonic_seconds / SINCE_STEP) & SINCE_MASK) as u16
}

/// What the flow tables say of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing.
    No,
    /// A record of a backend that is down: as good as nothing, but it must not outlive the packet that is sent
    /// elsewhere, or the flow would move back when that backend returns.
    Dead,
    /// Confirmed: a packet other than a SYN was seen. `leaves` when its backend is draining or the client
    /// has closed (FIN or RST seen): then a SYN of the same tuple begins a new flow.
    Flow { backend: u32, leaves: bool },
    /// Unconfirmed: only its SYN was seen.
    Pending { backend: u32 },
}

/// What to do with the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Nothing,
    /// Note that the flow was seen now.
    Touch,
    /// Write the flow down as unconfirmed, and forget what was confirmed.
    InsertPending,
    /// Write the flow down as confirmed.
    Insert,
    /// Move it from unconfirmed to confirmed.
    Confirm,
    /// An old record of that tuple is dropped.
    Forget,
}

/// What a packet tells of its flow's age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// TCP with SYN and without ACK: the flow begins.
    Syn,
    /// Any other TCP segment: the flow began before.
    Established,
    /// UDP: nobody can tell.
    Datagram,
}

/// The answer for one packet in a tracked slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// 0 = nobody.
    pub backend: u32,
    pub action: Action,
}

/// The rule for a packet in a tracked slot.
///
/// `always`: the service writes every flow down ([`Track::Always`]). `unknown` is [`Slot::owner_of_unknown`] after
/// asking the old ring where it says so, and with a `previous` that is down already replaced by `current`.
///
/// A SYN of a tuple that a live record names goes where the record says: to the backend it is either a
/// retransmission or a challenge (RFC 9293, 3.10.7.4), and a forged SYN cannot move somebody's flow.
#[inline(always)]
pub fn decide(slot: Slot, always: bool, segment: Segment, known: Known, unknown: u32) -> Decision {
    let syn = matches!(segment, Segment::Syn);
    match known {
        Known::Flow { backend, leaves: false } => return Decision { backend, action: Action::Touch },
        Known::Flow { backend, leaves: true } if !syn => {
            return Decision { backend, action: Action::Touch };
        }
        Known::Pending { backend } if !syn => return Decision { backend, action: Action::Confirm },
        // A repeated SYN keeps the backend of the first: the handshake may be half done there.
        Known::Pending { backend } => return Decision { backend, action: Action::Touch },
        Known::Flow { .. } | Known::Dead | Known::No => {}
    }
    let backend = if slot.is_learning() && !syn { unknown } else { slot.current() };
    let action = match known {
        // Nobody gets it, so nothing is to be remembered or forgotten.
        _ if backend == 0 => Action::Nothing,
        _ if syn && (always || slot.is_learning()) => Action::InsertPending,
        _ if always || slot.is_learning() => Action::Insert,
        Known::No => Action::Nothing,
        _ => Action::Forget,
    };
    Decision { backend, action }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 1;
    const B: u32 = 2;
    const C: u32 = 3;
    const NOW: u16 = 100;

    fn all(_: u32) -> bool {
        true
    }

    fn segment(syn: bool) -> Segment {
        if syn { Segment::Syn } else { Segment::Established }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let slot = Slot::learning(MAX_BACKEND, PREVIOUS_RING, 0x7fff);
        assert_eq!((slot.current(), slot.previous(), slot.since()), (MAX_BACKEND, PREVIOUS_RING, 0x7fff));
        assert!(slot.is_tracked() && slot.is_learning());
        let slot = Slot::learning(A, B, 0xffff);
        assert_eq!((slot.current(), slot.previous(), slot.since()), (A, B, 0x7fff));
        assert!(!Slot::stable(MAX_BACKEND).is_tracked());
    }

    #[test]
    fn a_change_of_a_stable_slot_learns_from_its_owner() {
        assert_eq!(Slot::stable(A).change(B, all, NOW), Slot::learning(B, A, NOW));
    }

    #[test]
    fn a_second_change_keeps_whom_unknown_flows_belong_to_and_when_it_began() {
        let learning = Slot::stable(A).change(B, all, NOW);
        assert_eq!(learning.change(C, all, NOW + 9), Slot::learning(C, A, NOW));
    }

    #[test]
    fn a_change_back_remembers_what_was_learnt() {
        let learning = Slot::stable(A).change(B, all, NOW);
        assert_eq!(learning.change(A, all, NOW + 1), Slot::remembering(A));
    }

    #[test]
    fn a_change_of_a_remembering_slot_learns_from_its_owner() {
        assert_eq!(Slot::remembering(A).change(B, all, NOW), Slot::learning(B, A, NOW));
    }

    #[test]
    fn flows_of_a_dead_owner_go_to_the_new_one_at_once() {
        assert_eq!(Slot::stable(A).change(B, |b| b != A, NOW), Slot::stable(B));
        assert_eq!(Slot::learning(B, A, 7).change(B, |b| b != A, NOW), Slot::remembering(B));
        assert_eq!(Slot::learning(B, A, 7).change(C, |b| b != B, NOW), Slot::learning(C, A, 7));
        assert_eq!(Slot::remembering(A).change(B, |b| b != A, NOW), Slot::remembering(B));
    }

    #[test]
    fn a_slot_without_an_owner_has_no_flows_to_learn() {
        assert_eq!(Slot::EMPTY.change(A, all, NOW), Slot::stable(A));
        assert_eq!(Slot::stable(A).change(0, all, NOW), Slot::learning(0, A, NOW));
        assert_eq!(Slot::stable(A).change(0, |_| false, NOW), Slot::EMPTY);
    }

    #[test]
    fn the_same_change_twice_changes_nothing() {
        for slot in [
            Slot::EMPTY,
            Slot::stable(A),
            Slot::remembering(B),
            Slot::learning(A, B, 5),
            Slot::learning(C, A, 5),
        ] {
            for new in [0, A, B] {
                for dead in [0, A, B, C] {
                    let once = slot.change(new, |b| b != dead, NOW);
                    assert_eq!(
                        once.change(new, |b| b != dead, NOW + 50),
                        once,
                        "{slot:?} to {new}, {dead} dead"
                    );
                }
            }
        }
    }

    #[test]
    fn an_unchanged_owner_leaves_the_word_alone() {
        for slot in [Slot::stable(A), Slot::remembering(A), Slot::learning(A, B, 5)] {
            assert_eq!(slot.change(A, all, NOW), slot);
        }
    }

    #[test]
    fn the_window_ends_after_its_time_also_across_the_wrap_and_only_when_learning() {
        let slot = Slot::learning(A, B, 0x7ffe);
        assert!(!slot.window_over(since((0x7ffe + 10) * SINCE_STEP), 80));
        assert!(slot.window_over(since((0x7ffe + 11) * SINCE_STEP), 80));
        assert!(!Slot::remembering(A).window_over(NOW, 0));
        assert_eq!(slot.end_learning(), Slot::remembering(A));
        assert_eq!(slot.settle(), slot, "a learning slot never settles");
        assert_eq!(Slot::remembering(A).settle(), Slot::stable(A));
    }

    #[test]
    fn packets_in_a_learning_slot() {
        let slot = Slot::learning(B, A, 0);
        let decide = |syn, known| decide(slot, false, segment(syn), known, A);
        assert_eq!(decide(true, Known::No), Decision { backend: B, action: Action::InsertPending });
        assert_eq!(decide(false, Known::No), Decision { backend: A, action: Action::Insert });
        assert_eq!(
            decide(false, Known::Pending { backend: B }),
            Decision { backend: B, action: Action::Confirm }
        );
        assert_eq!(
            decide(true, Known::Pending { backend: C }),
            Decision { backend: C, action: Action::Touch }
        );
        let flow = Known::Flow { backend: C, leaves: false };
        assert_eq!(decide(false, flow), Decision { backend: C, action: Action::Touch });
        assert_eq!(
            decide(true, flow),
            Decision { backend: C, action: Action::Touch },
            "a forged SYN moves nobody"
        );
        let closed = Known::Flow { backend: C, leaves: true };
        assert_eq!(decide(false, closed), Decision { backend: C, action: Action::Touch });
        assert_eq!(decide(true, closed), Decision { backend: B, action: Action::InsertPending });
        assert_eq!(decide(false, Known::Dead), Decision { backend: A, action: Action::Insert });
        assert_eq!(decide(true, Known::Dead), Decision { backend: B, action: Action::InsertPending });
    }

    #[test]
    fn packets_in_a_remembering_slot() {
        let slot = Slot::remembering(B);
        let decide = |syn, known| decide(slot, false, segment(syn), known, B);
        assert_eq!(decide(true, Known::No), Decision { backend: B, action: Action::Nothing });
        assert_eq!(decide(false, Known::No), Decision { backend: B, action: Action::Nothing });
        let flow = Known::Flow { backend: A, leaves: false };
        assert_eq!(decide(false, flow), Decision { backend: A, action: Action::Touch });
        let closed = Known::Flow { backend: A, leaves: true };
        assert_eq!(decide(true, closed), Decision { backend: B, action: Action::Forget });
    }
    #[test]
    fn a_remembering_slot_forgets_the_record_of_a_dead_backend() {
        for syn in [false, true] {
            let decision = decide(Slot::remembering(B), false, segment(syn), Known::Dead, B);
            assert_eq!(decision, Decision { backend: B, action: Action::Forget });
        }
    }

    #[test]
    fn where_nobody_gets_the_packet_the_tables_stay_as_they_are() {
        let closed = Known::Flow { backend: C, leaves: true };
        for slot in [Slot::learning(0, A, 0), Slot::remembering(0)] {
            for known in [Known::No, Known::Dead, closed] {
                let decision = decide(slot, false, Segment::Syn, known, A);
                assert_eq!(decision, Decision { backend: 0, action: Action::Nothing }, "{slot:?}");
            }
            let decision = decide(slot, false, Segment::Established, Known::No, 0);
            assert_eq!(decision, Decision { backend: 0, action: Action::Nothing }, "{slot:?}");
        }
    }

    #[test]
    fn a_service_that_tracks_always_has_no_stable_slot() {
        assert_eq!(Slot::fresh(Track::Always, A), Slot::remembering(A));
        for slot in [Slot::EMPTY, Slot::stable(A), Slot::remembering(A), Slot::learning(A, B, 5)] {
            for new in [0, A, B] {
                let next = slot.next(Track::Always, new, all, NOW);
                assert!(next.is_tracked(), "{slot:?} to {new}");
                assert_eq!(next.owner_of_unknown(), slot.change(new, all, NOW).owner_of_unknown());
            }
        }
        assert_eq!(Slot::stable(A).next(Track::Always, A, all, NOW), Slot::remembering(A));
        assert_eq!(Slot::stable(A).next(Track::Always, B, all, NOW), Slot::learning(B, A, NOW));
    }

    #[test]
    fn a_service_that_never_tracks_gives_a_slot_away_with_its_flows() {
        assert_eq!(Slot::fresh(Track::Never, A), Slot::stable(A));
        assert_eq!(Slot::stable(A).next(Track::Never, B, all, NOW), Slot::stable(B));
    }

    #[test]
    fn tracking_set_to_never_lets_what_was_begun_end() {
        for slot in [Slot::stable(A), Slot::remembering(A), Slot::learning(A, B, 5)] {
            assert_eq!(slot.next(Track::Never, A, all, NOW), slot, "no flow moves because of the setting");
        }
        // What was written down would mislead later if nobody looked at it until it is swept.
        assert_eq!(Slot::learning(A, B, 5).next(Track::Never, C, all, NOW), Slot::remembering(C));
        assert_eq!(Slot::learning(A, B, 5).next(Track::Never, A, |b| b != B, NOW), Slot::remembering(A));
    }

    #[test]
    fn every_setting_is_idempotent() {
        for track in [Track::Never, Track::OnChange, Track::Always] {
            for slot in [Slot::EMPTY, Slot::stable(A), Slot::remembering(B), Slot::learning(A, B, 5)] {
                for (new, dead) in [(0, C), (A, B), (B, A), (C, A), (C, B), (A, C)] {
                    let once = slot.next(track, new, |b| b != dead, NOW);
                    assert_eq!(
                        once.next(track, new, |b| b != dead, NOW + 50),
                        once,
                        "{track:?} {slot:?} {new}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_remembering_slot_of_a_service_that_tracks_always_writes_every_flow_down() {
        let slot = Slot::remembering(B);
        let decide = |segment, known| decide(slot, true, segment, known, B);
        for known in [Known::No, Known::Dead] {
            assert_eq!(decide(Segment::Syn, known), Decision { backend: B, action: Action::InsertPending });
            for segment in [Segment::Established, Segment::Datagram] {
                assert_eq!(decide(segment, known), Decision { backend: B, action: Action::Insert });
            }
        }
        let flow = Known::Flow { backend: A, leaves: false };
        assert_eq!(decide(Segment::Established, flow), Decision { backend: A, action: Action::Touch });
    }
}
