//! The clock that the agent uses: the monotonic one, from which slots get their `since` and which no operator can set.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of the monotonic clock, which does not advance while the host sleeps, as the kernel's jiffies do not.
pub fn milliseconds() -> u64 {
    // The clock exists on every kernel we run on.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

/// The current time, in the steps that slot words use.
pub fn since() -> u16 {
    lb_common::slot::since(milliseconds() / 1000)
}
