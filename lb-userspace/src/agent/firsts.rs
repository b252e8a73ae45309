//! Backends that pass their first check: this is expected at a start, so one event a second reports all of them.

use std::mem;

use crate::api::kind::Kind;

/// Milliseconds from the first such backend to the event.
const WINDOW: u64 = 1_000;
/// This many events follow each other a [`WINDOW`] apart; those after them are [`LONG_WINDOW`] apart.
const SHORT_WINDOWS: u32 = 10;
/// Milliseconds.
const LONG_WINDOW: u64 = 10_000;
/// The event names at most this many backends.
const NAMED: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Firsts {
    count: u64,
    /// The objects of the first [`NAMED`] backends.
    objects: Vec<String>,
    /// The message of the first backend.
    message: String,
    /// Milliseconds of the monotonic clock.
    ends: u64,
    /// How many events have followed each other.
    events: u32,
}

impl Firsts {
    pub(super) fn add(&mut self, object: String, message: String, now: u64) {
        if self.count == 0 {
            self.message = message;
            if self.ends <= now {
                // The window before has been over for a while.
                (self.ends, self.events) = (now + WINDOW, 0);
            }
        }
        self.count += 1;
        if self.objects.len() < NAMED {
            self.objects.push(object);
        }
    }

    /// When the next event is due, in milliseconds of the monotonic clock.
    pub(super) fn due(&self) -> Option<u64> {
        (self.count > 0).then_some(self.ends)
    }

    /// Kind, object and message of the event for all backends so far; `unchecked` backends have no verdict yet.
    pub(super) fn take(&mut self, now: u64, unchecked: usize) -> Option<(Kind, String, String)> {
        let Self { count, mut objects, message, events, .. } = mem::take(self);
        self.events = events + 1;
        self.ends = now + if self.events < SHORT_WINDOWS { WINDOW } else { LONG_WINDOW };
        if count == 1 {
            return Some((Kind::BackendUp, objects.pop()?, message));
        }
        let mut said = match count {
            0 => return None,
            _ if count as usize <= NAMED => format!("{count} backends up: {}", objects.join(", ")),
            _ => format!("{} backends up", thousands(count)),
        };
        match unchecked {
            0 => {}
            1 => said.push_str(", 1 has no verdict yet"),
            _ => said.push_str(&format!(", {} have no verdict yet", thousands(unchecked as u64))),
        }
        Some((Kind::BackendsUp, String::new(), said))
    }
}

/// A number with separators: `12,345`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(firsts: &mut Firsts, count: usize, now: u64) {
        for n in 1..=count {
            firsts.add(format!("web/web-{n}"), format!("answered in {n} ms"), now);
        }
    }

    #[test]
    fn one_backend_has_an_event_of_its_own() {
        let mut firsts = Firsts::default();
        assert_eq!(firsts.due(), None);
        add(&mut firsts, 1, 5_000);
        assert_eq!(firsts.due(), Some(6_000));
        let event = (Kind::BackendUp, "web/web-1".to_owned(), "answered in 1 ms".to_owned());
        assert_eq!(firsts.take(6_000, 0), Some(event));
        assert_eq!((firsts.due(), firsts.take(6_000, 0)), (None, None));
    }

    #[test]
    fn a_few_are_named_and_many_are_counted() {
        let mut firsts = Firsts::default();
        let mut said = |count, unchecked| {
            add(&mut firsts, count, 0);
            firsts.take(1_000, unchecked).unwrap().2
        };
        assert_eq!(said(2, 0), "2 backends up: web/web-1, web/web-2");
        assert_eq!(said(3, 1), "3 backends up: web/web-1, web/web-2, web/web-3, 1 has no verdict yet");
        assert_eq!(said(2_300, 7_700), "2,300 backends up, 7,700 have no verdict yet");
        assert_eq!(said(1_234_567, 0), "1,234,567 backends up");
    }

    #[test]
    fn ten_thousand_within_a_minute_are_less_than_twenty_events() {
        let mut firsts = Firsts::default();
        let mut events = 0;
        for n in 0..10_000 {
            let now = n * 6;
            if firsts.due().is_some_and(|due| due <= now) {
                events += usize::from(firsts.take(now, 1).is_some());
            }
            add(&mut firsts, 1, now);
        }
        assert!((10..20).contains(&events), "{events}");
        // A backend that comes an hour later is reported after a second.
        firsts.take(70_000, 0);
        add(&mut firsts, 1, 4_000_000);
        assert_eq!(firsts.due(), Some(4_001_000));
    }
}
