//! The clocks the agent uses: the monotonic one, which the slots' `since` is made of and no operator can set.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of the monotonic clock, which stands still while the host sleeps, as the kernel's jiffies do.
pub fn milliseconds() -> u64 {
    // The clock exists on every kernel we run on.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

/// Now, as slot words have it.
pub fn since() -> u16 {
    lb_common::slot::since(milliseconds() / 1000)
}
