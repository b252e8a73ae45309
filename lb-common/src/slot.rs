//! Slot words and the rule of tracking on change: what a change of owner makes of a word. What a packet in a tracked
//! slot does is in [`crate::evidence`]. One sentence says it all: *`previous` is the backend that unknown flows belong
//! to.*
//!
//! | state | word | meaning |
//! |---|---|---|
//! | stable | not tracked | every flow of the slot is at `current`; no per-flow memory is touched |
//! | learning | tracked, `previous` set | flows from before the change are unknown and belong to `previous`; new flows are recorded |
//! | remembering | tracked, no `previous` | old flows are recorded; unknown flows belong to `current` |

/// `previous` of a slot in a ring that replaced a ring of another length: ask the old ring.
pub const PREVIOUS_RING: u32 = (1 << 24) - 1;

/// The largest backend number a slot word can hold.
pub const MAX_BACKEND: u32 = PREVIOUS_RING - 1;

/// Seconds in one step of a word's `since` clock. The clock has 15 bits and wraps after 72 hours; the configuration
/// bounds windows to a third of that.
pub const SINCE_STEP: u64 = 8;

/// Which flows of a service are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Track {
    /// None: the ring alone says where a packet goes.
    Never,
    /// Those of slots that changed owner, for as long as some flow may still be at the owner before.
    #[default]
    OnChange,
    /// All of them: no slot is ever stable, and [`crate::service::Service::ALWAYS`] is set.
    Always,
}

/// One slot: 8 bytes, read and written whole.
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
    /// A slot that no backend owns: its packets are dropped as `no_backend`.
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

    /// The owner of a slot that is stable and has one.
    #[inline(always)]
    pub const fn stable_owner(self) -> Option<u32> {
        // The word of a stable slot holds nothing but the owner.
        if self.0.wrapping_sub(1) < BACKEND_MASK { Some(self.0 as u32) } else { None }
    }

    /// The backend that an unknown flow of this slot belongs to.
    #[inline(always)]
    pub const fn owner_of_unknown(self) -> u32 {
        if self.is_learning() { self.previous() } else { self.current() }
    }

    /// The word after the agent gave the slot to `new` (0 = no backend), or after a backend that the word names went
    /// down.
    ///
    /// `keeps` says whether a backend's flows may still be found there. True for backends that are up, draining or held,
    /// and for those that have been down for less than the grace: a check that fails for a moment says nothing of
    /// connections, and until the grace is over packets of unknown flows go to `new`, which records them. False for
    /// backends that have been down for longer, are disabled or removed. `now` comes from [`since`].
    ///
    /// Calling it again with the same arguments changes nothing.
    pub fn change(self, new: u32, keeps: impl Fn(u32) -> bool, now: u16) -> Self {
        let unknown = self.owner_of_unknown();
        // The packet path asks the old ring's backends one by one; the old ring as a whole never goes down.
        let learns = unknown != 0 && unknown != new && (unknown == PREVIOUS_RING || keeps(unknown));
        if learns {
            // A window that is already running for the same `previous` goes on: the unknown flows began before it.
            let since = if self.is_learning() { self.since() } else { now };
            return Self::learning(new, unknown, since);
        }
        if self.is_tracked() {
            // Flows of other backends may be recorded: keep asking the table.
            Self::remembering(new)
        } else {
            // Stable: every flow was at `unknown`, which is gone, no backend, or the new owner itself.
            Self::stable(new)
        }
    }

    /// What [`Slot::change`] does for a service that tracks on change, for any of the three settings. Also the word
    /// after the service's [`Track`] was set to another value while the owner stayed the same.
    ///
    /// No change of the setting breaks a flow by itself. A change to `Always`: flows from before it are unknown and at
    /// their slot's owner, where unknown flows go. A change from `Always`: packets go on asking the table in a slot
    /// until no record disagrees with the slot. A change to `Never`: recorded flows stay recorded and learning goes on;
    /// only a slot that gets *another owner* from then on gives the new owner every flow that is not recorded.
    pub fn next(self, track: Track, new: u32, keeps: impl Fn(u32) -> bool, now: u16) -> Self {
        match track {
            Track::OnChange => self.change(new, keeps, now),
            Track::Always => self.change(new, keeps, now).tracked(),
            Track::Never if new == self.current() => self.change(new, keeps, now),
            Track::Never if self.is_tracked() => Self::remembering(new),
            Track::Never => Self::stable(new),
        }
    }

    /// What [`Slot::change`] does for a service that balances by something other than the hash and records every flow;
    /// `before`: the service did so already when the word was written.
    ///
    /// If it did, there are no unknown flows from before, and an unknown datagram is a new flow for the balancing. When
    /// the service begins to balance, there are unknown flows: so the slot learns, even where its owner stays, for the
    /// time in which every one of them shows itself.
    pub fn next_balanced(self, before: bool, new: u32, keeps: impl Fn(u32) -> bool, now: u16) -> Self {
        let unknown = self.owner_of_unknown();
        let waits = self.is_learning() || !before;
        if waits && unknown != 0 && (unknown == PREVIOUS_RING || keeps(unknown)) {
            let since = if self.is_learning() { self.since() } else { now };
            return Self::learning(new, unknown, since);
        }
        Self::remembering(new)
    }

    /// The first word of a slot that was not in use.
    #[inline(always)]
    pub const fn fresh(track: Track, new: u32) -> Self {
        match track {
            Track::Always => Self::remembering(new),
            Track::OnChange | Track::Never => Self::stable(new),
        }
    }

    /// The word of a slot in a ring that replaces a ring of another length: nothing is known of its flows, so every slot
    /// asks the old ring first.
    #[inline(always)]
    pub const fn after_resize(new: u32, now: u16) -> Self {
        Self::learning(new, PREVIOUS_RING, now)
    }

    #[inline(always)]
    const fn tracked(self) -> Self {
        Self(self.0 | TRACKED)
    }

    /// Whether learning has lasted `window` seconds at `now` (from [`since`]): a flow that was silent for so long counts
    /// as gone. Rounded up by one step, never down.
    pub const fn window_over(self, now: u16, window: u64) -> bool {
        let age = now.wrapping_sub(self.since()) as u64 & SINCE_MASK;
        self.is_learning() && age > window.div_ceil(SINCE_STEP)
    }

    /// The word when the window is over: unknown flows belong to `current` from now on.
    pub const fn end_learning(self) -> Self {
        Self::remembering(self.current())
    }

    /// The word when no record of a live flow disagrees with `current` any longer.
    pub const fn settle(self) -> Self {
        if self.is_learning() { self } else { Self::stable(self.current()) }
    }
}

/// The `since` clock for a monotonic time in seconds.
pub const fn since(monotonic_seconds: u64) -> u16 {
    ((monotonic_seconds / SINCE_STEP) & SINCE_MASK) as u16
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;
