//! What the agent reports to the service manager (sd_notify(3)): that it is ready, that it reloads its configuration,
//! what it does in one line, and that it lives. Decides what to report and when; without a service manager that listens,
//! it reports nothing.

use std::{env, sync::Arc, time::Duration};

use sd_notify::NotifyState;

use super::{Agent, clock, interfaces::Host};
use crate::{config::words::plural, health::scheduler::Pulse, tables::Tables};

/// Milliseconds between two updates of the status line: the line is for people.
const LOOK: u64 = 1_000;
/// A start that waits for an interface asks the service manager for this much more time, in microseconds, …
const MORE_TIME: u32 = 30_000_000;
/// … at this interval, in milliseconds.
const ASK_FOR_TIME: u64 = 5_000;
/// At most this many services are named in the line.
const NAMED: usize = 3;
/// At most this many characters are in the line: a screen's width or two.
const LONGEST: usize = 240;

/// What was reported, and what is to be reported next.
pub(super) struct Manager {
    /// A service manager listens.
    listens: bool,
    ready: bool,
    /// The line that the service manager got last.
    said: String,
    /// When the line is computed again; `pending` = something may have changed since.
    look_at: u64,
    pending: bool,
    more_time_at: u64,
    watchdog: Option<Watchdog>,
}

/// A service manager that ends the agent unless the agent reports regularly.
struct Watchdog {
    /// Half the time after which it ends the agent, in milliseconds: the interval of the agent's reports.
    half: u64,
    next: u64,
    /// The pulse of the thread that runs the checks.
    pulse: Arc<Pulse>,
    /// The log already says that this thread does not answer.
    complained: bool,
}

/// What the service manager gets to know of the agent.
pub(super) struct Seen {
    /// Every interface of the configuration has the program.
    pub(super) attached: bool,
    /// What the agent does, in one line.
    pub(super) line: String,
}

impl Manager {
    /// Reads from the environment what the service manager wants, at `now` of the monotonic clock.
    pub(super) fn of_environment(pulse: Arc<Pulse>, now: u64) -> Self {
        let listens = env::var_os("NOTIFY_SOCKET").is_some();
        Self::new(listens, sd_notify::watchdog_enabled(), pulse, now)
    }

    fn new(listens: bool, watchdog: Option<Duration>, pulse: Arc<Pulse>, now: u64) -> Self {
        let watchdog = watchdog.filter(|_| listens).map(|time| Watchdog {
            half: (time.as_millis() as u64 / 2).max(1),
            next: now,
            pulse,
            complained: false,
        });
        Self {
            listens,
            ready: false,
            said: String::new(),
            look_at: now,
            pending: true,
            more_time_at: now,
            watchdog,
        }
    }

    /// When [`Self::turn`] has something to do without any input of the loop.
    pub(super) fn due(&self) -> Option<u64> {
        let line = (self.listens && self.pending).then_some(self.look_at);
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
        line.into_iter().chain(watchdog).min()
    }

    /// What to report in this turn of the loop; the call itself shows that the loop lives.
    pub(super) fn turn(&mut self, now: u64, seen: impl FnOnce() -> Seen) -> Vec<String> {
        if !self.listens {
            return Vec::new();
        }
        let mut words: Vec<String> =
            self.watchdog.iter_mut().filter_map(|watchdog| watchdog.turn(now)).collect();
        self.pending = true;
        if now < self.look_at {
            return words;
        }
        self.pending = false;
        self.look_at = now + LOOK;
        let Seen { attached, line } = seen();
        if line != self.said {
            words.push(NotifyState::Status(&line).to_string());
            self.said = line;
        }
        if !self.ready && attached {
            self.ready = true;
            words.push(NotifyState::Ready.to_string());
        } else if !self.ready && now >= self.more_time_at {
            // Without this, the service manager would end an agent that waits for one interface, and no agent would serve
            // the other ones.
            self.more_time_at = now + ASK_FOR_TIME;
            words.push(NotifyState::ExtendTimeoutUsec(MORE_TIME).to_string());
        }
        words
    }

    /// The agent reads a configuration: reported before it begins, and again when the configuration is in force or
    /// refused.
    pub(super) fn reloading(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.listens && self.ready {
            words.push(NotifyState::Reloading.to_string());
            words.extend(NotifyState::monotonic_usec_now().map(|time| time.to_string()));
        }
        words
    }

    /// Ends what [`Self::reloading`] began; the status line follows at once.
    pub(super) fn reloaded(&mut self, now: u64) -> Vec<String> {
        self.look_at = now;
        if self.listens && self.ready { vec![NotifyState::Ready.to_string()] } else { Vec::new() }
    }
}

impl Watchdog {
    /// A sign of life, if it is due and the thread of the checks has answered since the last one.
    fn turn(&mut self, now: u64) -> Option<String> {
        if now < self.next {
            return None;
        }
        if self.pulse.is_answered() {
            self.complained = false;
            self.pulse.ask();
            self.next = now + self.half;
            return Some(NotifyState::Watchdog.to_string());
        }
        // Soon again: a thread that answers late must not cost the agent its life.
        self.next = now + (self.half / 8).max(1);
        if !self.complained {
            self.complained = true;
            log::error!(
                "the health checks have been stuck for {} ms: the watchdog of the service manager is not fed until they go on",
                self.half
            );
        }
        None
    }
}

/// Sends all words in one message. What cannot be sent is lost: a service manager that is gone ends the agent soon
/// enough.
pub(super) fn say(words: &[String]) {
    if !words.is_empty() {
        let words: Vec<_> = words.iter().map(|word| NotifyState::Custom(word)).collect();
        if let Err(error) = sd_notify::notify(&words) {
            log::debug!("the service manager does not listen: {error}");
        }
    }
}

impl<T: Tables + Host> Agent<T> {
    /// One turn of the loop, for the service manager.
    pub(super) fn report_to(&self, manager: &mut Manager) {
        let seen = || Seen { attached: self.interfaces.are_attached(), line: self.line() };
        say(&manager.turn(clock::milliseconds(), seen));
    }

    /// What the agent does, in one line: what is missing comes first.
    fn line(&self) -> String {
        let mut parts = self.interfaces.troubles();
        if let Some(error) = &self.last_error {
            parts.push(format!("refused: {error}"));
        }
        if self.store.unconfirmed().is_some() {
            parts.push("the configuration waits for `lbctl config confirm`".to_owned());
        }
        let unusable =
            self.effective.iter().filter(|service| service.usable() == 0 && !service.backends.is_empty());
        let names: Vec<&str> = unusable.map(|service| &*service.name).collect();
        if !names.is_empty() {
            let more = match names.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named = names.get(..NAMED).unwrap_or(&names).join(", ");
            parts.push(format!("no usable backend: {named}{more}"));
        }
        let (services, backends) = (
            self.effective.len(),
            self.effective.iter().map(|service| service.backends.len()).sum::<usize>(),
        );
        let usable: usize = self.effective.iter().map(crate::state::Service::usable).sum();
        let attached = self.interfaces.attached();
        let at = if attached.is_empty() { String::new() } else { format!(" at {}", attached.join(", ")) };
        parts.push(format!(
            "{}, {usable} of {} usable{at}",
            plural(services as u64, "service", "services"),
            plural(backends as u64, "backend", "backends")
        ));
        one_line(&parts.join("; "))
    }
}

/// Any text, on one line of bounded length.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).collect();
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(attached: bool, line: &str) -> impl FnOnce() -> Seen {
        let line = line.to_owned();
        move || Seen { attached, line }
    }

    fn manager(watchdog: Option<u64>) -> (Manager, Arc<Pulse>) {
        let pulse = Arc::new(Pulse::default());
        (Manager::new(true, watchdog.map(Duration::from_millis), Arc::clone(&pulse), 0), pulse)
    }

    #[test]
    fn ready_means_attached_and_waiting_extends_the_start() {
        let (mut manager, _) = manager(None);
        let more = "EXTEND_TIMEOUT_USEC=30000000";
        assert_eq!(manager.turn(0, seen(false, "eth1 is missing")), ["STATUS=eth1 is missing", more]);
        assert!(manager.turn(LOOK, seen(false, "eth1 is missing")).is_empty(), "said once");
        assert_eq!(manager.turn(ASK_FOR_TIME, seen(false, "eth1 is missing")), [more]);
        assert!(manager.reloading().is_empty() && manager.reloaded(ASK_FOR_TIME).is_empty(), "not ready yet");
        let words = manager.turn(ASK_FOR_TIME + LOOK, seen(true, "1 service"));
        assert_eq!(words, ["STATUS=1 service", "READY=1"]);
        // The agent cannot take READY back; the line says what is missing.
        let words = manager.turn(ASK_FOR_TIME + 2 * LOOK, seen(false, "eth1 is gone"));
        assert_eq!(words, ["STATUS=eth1 is gone"]);
    }

    #[test]
    fn the_line_is_looked_at_once_a_second_and_never_forgotten() {
        let (mut manager, _) = manager(None);
        manager.turn(0, seen(true, "a"));
        assert_eq!(manager.due(), None, "nothing happened since");
        assert!(manager.turn(10, || unreachable!("too soon")).is_empty());
        assert_eq!(manager.due(), Some(LOOK));
        assert_eq!(manager.turn(LOOK, seen(true, "b")), ["STATUS=b"]);
    }

    #[test]
    fn a_reload_is_said_at_its_beginning_and_its_end() {
        let (mut manager, _) = manager(None);
        manager.turn(0, seen(true, "a"));
        let words = manager.reloading();
        assert!(words[0] == "RELOADING=1" && words[1].starts_with("MONOTONIC_USEC="), "{words:?}");
        assert_eq!(manager.reloaded(5), ["READY=1"]);
        assert_eq!(manager.turn(5, seen(true, "refused: x")), ["STATUS=refused: x"], "at once");
    }

    #[test]
    fn a_sign_of_life_needs_one_of_the_checks_since_the_last() {
        let (mut manager, pulse) = manager(Some(8_000));
        let mut turn = |now| {
            let words = manager.turn(now, seen(true, "a"));
            (words.contains(&"WATCHDOG=1".to_owned()), manager.due())
        };
        assert_eq!(turn(0), (true, Some(4_000)));
        // The loop lives, but the checks have not answered.
        assert_eq!(turn(4_000), (false, Some(4_500)));
        assert_eq!(turn(4_500), (false, Some(5_000)));
        pulse.answer();
        assert_eq!(turn(5_000), (true, Some(9_000)), "late, but before the end");
        assert!(!turn(5_001).0, "not before half the time");
        pulse.answer();
        assert!(turn(9_000).0);
    }

    #[test]
    fn without_a_service_manager_nothing_is_due() {
        let pulse = Arc::new(Pulse::default());
        let mut manager = Manager::new(false, Some(Duration::from_secs(1)), pulse, 0);
        assert!(manager.turn(0, || unreachable!("not asked for")).is_empty());
        assert!(manager.due().is_none() && manager.reloading().is_empty() && manager.reloaded(0).is_empty());
    }

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        assert_eq!(one_line("refused: a\n  b\u{1b}[2Jc"), "refused: a b[2Jc");
        let long = one_line(&"ä".repeat(1000));
        assert_eq!(long.chars().count(), LONGEST + 1);
    }
}
