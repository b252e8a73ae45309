//! Faults on purpose: the agent ends, or is refused, right before one of its writes. For tests of what a crash leaves
//! behind. Compiled only with the feature `fault` and in unit tests; elsewhere [`point`] is nothing.
//!
//! A program built with the feature looks at the variable `LBD_FAULT` once: `map:7` makes it kill itself (SIGKILL) before
//! its 7th store into a map; likewise `file:N`, `pin:N` and `link:N`, and `any:N` for all of them together. Unit tests
//! arm a thread instead: its points fail from the Nth on, as the writes of a process that is gone do not happen.

use std::io;

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
#[cfg(not(any(test, feature = "fault")))]
#[inline(always)]
pub(crate) const fn point(_: Kind) -> io::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "fault"))]
pub(crate) use injected::point;

#[cfg(any(test, feature = "fault"))]
mod injected {
    use std::{
        cell::Cell,
        env,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::{Kind, io};

    /// What `LBD_FAULT` says: which points count (`None` = all), and how many are still passed.
    struct Order {
        kind: Option<Kind>,
        left: AtomicU64,
    }

    #[derive(Clone, Copy)]
    struct Armed {
        /// By [`Kind`]: whether the point counts.
        counts: [bool; 4],
        left: u64,
        /// From here on nothing is written, whatever its kind.
        dead: bool,
        passed: u64,
    }

    static ORDER: OnceLock<Option<Order>> = OnceLock::new();

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
        let Some(order) = ORDER.get_or_init(from_environment) else { return Ok(()) };
        if order.kind.is_none_or(|wanted| wanted == kind) && order.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nothing runs behind this: no destructor, no clean-up, as when the machine's memory killer comes.
            kill(Pid::this(), Signal::SIGKILL)?;
            loop {
                std::thread::park();
            }
        }
        Ok(())
    }

    fn from_environment() -> Option<Order> {
        order(&env::var("LBD_FAULT").ok()?)
    }

    fn order(text: &str) -> Option<Order> {
        let (kind, count) = text.split_once(':')?;
        let kind = match kind {
            "map" => Some(Kind::Map),
            "file" => Some(Kind::File),
            "pin" => Some(Kind::Pin),
            "link" => Some(Kind::Link),
            "any" => None,
            _ => return None,
        };
        Some(Order { kind, left: AtomicU64::new(count.parse().ok()?) })
    }

    /// Lets `points` points of this thread pass and every later one fail, until [`disarm`].
    #[cfg(test)]
    pub(crate) fn arm(points: u64) {
        arm_for(&[Kind::Map, Kind::File, Kind::Pin, Kind::Link], points);
    }

    /// The same, counting points of these kinds only; the others fail from then on, too.
    #[cfg(test)]
    pub(crate) fn arm_for(kinds: &[Kind], points: u64) {
        let mut counts = [false; 4];
        kinds.iter().for_each(|kind| counts[*kind as usize] = true);
        ARMED.set(Some(Armed { counts, left: points, dead: false, passed: 0 }));
    }

    /// Ends it. Returns how many points were passed.
    #[cfg(test)]
    pub(crate) fn disarm() -> u64 {
        ARMED.take().map_or(0, |armed| armed.passed)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_armed_thread_fails_from_the_point_it_was_told_on() {
            arm(2);
            let outcomes: Vec<_> = (0..4).map(|_| point(Kind::Map).is_ok()).collect();
            assert_eq!((outcomes, disarm()), (vec![true, true, false, false], 2));
            assert!(point(Kind::File).is_ok());
        }

        #[test]
        fn the_variable_names_kind_and_number() {
            let order = |text| order(text).map(|order| (order.kind, order.left.into_inner()));
            assert_eq!(order("map:7"), Some((Some(Kind::Map), 7)));
            assert_eq!(order("any:1"), Some((None, 1)));
            assert_eq!((order("map"), order("door:1"), order("pin:x")), (None, None, None));
        }
    }
}

#[cfg(test)]
pub(crate) use injected::{arm, arm_for, disarm};
