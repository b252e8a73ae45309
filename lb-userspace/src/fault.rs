//! Faults on purpose: right before one of its writes the agent dies. In programs [`point`] is nothing, but in one: built
//! with the feature `fault-injection`, which no release has, `lbd-fault` kills itself by SIGKILL (`kill`).
//!
//! In unit tests it is as good as dead. A test arms its thread: points fail from the Nth on, as the writes of a process
//! that is gone do not happen.

#[cfg(all(feature = "fault-injection", not(test)))]
mod kill;

#[cfg(all(feature = "fault-injection", not(test)))]
pub(crate) use kill::point;

#[cfg(all(feature = "fault-injection", not(debug_assertions)))]
compile_error!("the feature fault-injection is for tests: an agent built with it can be made to kill itself");

/// What is about to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A word of a mapped array, or an entry of a map.
    Map,
    /// A file, its name or its directory.
    File,
    /// A pin in the bpf file system.
    Pin,
    /// A program put on an interface, or into the place of another one.
    Link,
}

/// To be called right before each write.
///
/// # Errors
/// Only in tests, when the point was armed.
#[cfg(not(any(test, feature = "fault-injection")))]
#[inline(always)]
pub(crate) const fn point(_: Kind) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use injected::{arm, arm_for, disarm, point};

#[cfg(test)]
mod injected {
    use std::{cell::Cell, io};

    use super::Kind;

    #[derive(Clone, Copy)]
    struct Armed {
        /// By [`Kind`]: whether the point counts.
        counts: [bool; 4],
        left: u64,
        /// From here on nothing is written, whatever its kind.
        dead: bool,
        passed: u64,
    }

    thread_local! {
        /// What was ordered for this thread; `None` = every point is passed.
        static ARMED: Cell<Option<Armed>> = const { Cell::new(None) };
    }

    pub(crate) fn point(kind: Kind) -> io::Result<()> {
        if let Some(mut armed) = ARMED.get() {
            let counts = armed.counts[kind as usize];
            armed.dead |= counts && armed.left == 0;
            if counts && !armed.dead {
                armed.left -= 1;
                armed.passed += 1;
            }
            ARMED.set(Some(armed));
            if armed.dead {
                return Err(io::Error::other("the fault that a test asked for"));
            }
        }
        Ok(())
    }

    /// Lets `points` points of this thread pass and every later one fail, until [`disarm`].
    pub(crate) fn arm(points: u64) {
        arm_for(&[Kind::Map, Kind::File, Kind::Pin, Kind::Link], points);
    }

    /// The same, counting points of these kinds only; the others fail from then on, too.
    pub(crate) fn arm_for(kinds: &[Kind], points: u64) {
        let mut counts = [false; 4];
        kinds.iter().for_each(|kind| counts[*kind as usize] = true);
        ARMED.set(Some(Armed { counts, left: points, dead: false, passed: 0 }));
    }

    /// Ends it. Returns how many points were passed.
    pub(crate) fn disarm() -> u64 {
        ARMED.take().map_or(0, |armed| armed.passed)
    }

    mod tests {
        use super::*;

        #[test]
        fn an_armed_thread_fails_from_the_point_it_was_armed_with() {
            arm(2);
            let outcomes: Vec<_> = (0..4).map(|_| point(Kind::Map).is_ok()).collect();
            assert_eq!((outcomes, disarm()), (vec![true, true, false, false], 2));
            assert!(point(Kind::File).is_ok());
        }
    }
}
