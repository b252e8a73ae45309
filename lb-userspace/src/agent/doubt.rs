//! Many failures at once: which failing checks the agent does not believe. It is less likely that several backends die
//! in one moment than that this host cannot check them. So rings stay until something shows the difference: the failing
//! backends answer again, or some backends answer all the time and the others never do. Pure; the caller supplies
//! verdicts and the clock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use crate::{
    config::{
        spec::{Admin, Listen, Spec},
        words::plural,
    },
    health::Verdict,
};

/// Where other backends answer, failures are believed after this many milliseconds at the earliest.
const PATIENCE: u64 = 10_000;

/// Milliseconds between two looks while there is a doubt.
const PAUSE: u64 = 250;

/// A backend of a service.
type Key = (Listen, IpAddr);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Doubt {
    since: u64,
    /// Failures from before this time are not part of the doubt.
    from: u64,
    why: String,
}

/// The failures that are not believed.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// When backends failed that had worked before, in milliseconds of the monotonic clock.
    failing: HashMap<Key, u64>,
    /// The doubts by service; `None` = the node as a whole.
    doubts: BTreeMap<Option<Listen>, Doubt>,
    next: u64,
}

/// The result of a look, by service; `None` = the node as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// From now on failures are doubted, and the reason.
    Begins(Option<Listen>, String),
    /// Failures are believed again.
    Ends(Option<Listen>),
}

/// The backends of a service, or of the node.
#[derive(Debug, Default)]
struct Group {
    members: usize,
    answering: usize,
    failing: usize,
    window: u64,
}

impl Group {
    /// Whether so many backends fail as seldom die in one moment: more than half of a service, or a third of the node.
    /// On a node, two addresses are not many: one host may have an address of each family.
    fn is_suspicious(&self, whole_node: bool) -> bool {
        match whole_node {
            false => self.failing >= 2 && 2 * self.failing > self.members,
            true => self.failing >= 3 && 3 * self.failing >= self.members,
        }
    }
}

impl Doubts {
    /// Why the failing checks of a backend are not believed; `None` = they are.
    pub(super) fn of(&self, listen: &Listen, address: IpAddr) -> Option<&str> {
        let at = *self.failing.get(&(*listen, address))?;
        let doubts = [Some(*listen), None].into_iter().filter_map(|of| self.doubts.get(&of));
        let mut doubts = doubts.filter(|doubt| at >= doubt.from);
        doubts.next().map(|doubt| doubt.why.as_str())
    }

    /// Whether the checks of a service should run more often, so that the doubt ends soon.
    pub(super) fn concern(&self, listen: &Listen) -> bool {
        self.doubts.contains_key(&Some(*listen)) || self.doubts.contains_key(&None)
    }

    /// When to look again, if no verdict changes before then.
    pub(super) fn due(&self) -> Option<u64> {
        (!self.doubts.is_empty()).then_some(self.next)
    }

    /// Takes in what the checks say of the backends of `spec` at `now`. `worked` says of a failing backend whether it
    /// worked before: a backend that never worked is not a new failure.
    pub(super) fn look(
        &mut self,
        spec: &Spec,
        verdict: &dyn Fn(&Listen, IpAddr) -> Verdict,
        worked: &dyn Fn(&Listen, IpAddr) -> bool,
        now: u64,
    ) -> Vec<Change> {
        self.next = now + PAUSE;
        let (mut known, mut counted) = (HashSet::new(), HashSet::new());
        let (mut all, mut answering) = (HashSet::new(), HashSet::new());
        let mut groups: BTreeMap<Option<Listen>, Group> = BTreeMap::new();
        for service in &spec.services {
            let Some(health) = &service.health else { continue };
            let group = groups.entry(Some(service.listen)).or_default();
            group.window = milliseconds(2 * health.interval + health.timeout);
            for backend in service.backends.iter().filter(|backend| backend.admin != Admin::Disabled) {
                let key = (service.listen, backend.address);
                let is = verdict(&service.listen, backend.address);
                if is != Verdict::Down {
                    self.failing.remove(&key);
                } else if worked(&service.listen, backend.address) {
                    self.failing.entry(key).or_insert(now);
                }
                known.insert(key);
                // A backend that is leaving does not count, but its failure is doubted with the rest, so that its flows
                // stay.
                if backend.admin == Admin::Enabled && backend.weight > 0 {
                    counted.insert(key);
                    all.insert(backend.address);
                    group.members += 1;
                    if is == Verdict::Up {
                        answering.insert(backend.address);
                        group.answering += 1;
                    }
                }
            }
        }
        self.failing.retain(|key, _| known.contains(key));
        self.doubts.retain(|of, _| of.is_none() || groups.contains_key(of));
        let window = groups.values().map(|group| group.window).max().unwrap_or(0);
        groups.insert(None, Group { members: all.len(), answering: answering.len(), failing: 0, window });
        let mut failing: HashMap<Option<Listen>, HashSet<IpAddr>> = HashMap::new();
        for ((listen, address), at) in self.failing.iter().filter(|(key, _)| counted.contains(*key)) {
            for of in [Some(*listen), None] {
                let window = groups.get(&of).map_or(0, |group| group.window);
                let from = self.doubts.get(&of).map_or(now.saturating_sub(window), |doubt| doubt.from);
                if *at >= from {
                    failing.entry(of).or_default().insert(*address);
                }
            }
        }
        for (of, group) in &mut groups {
            group.failing = failing.get(of).map_or(0, HashSet::len);
        }
        groups.into_iter().filter_map(|(of, group)| self.judge(of, &group, now)).collect()
    }

    fn judge(&mut self, of: Option<Listen>, group: &Group, now: u64) -> Option<Change> {
        let suspicious = group.is_suspicious(of.is_none());
        let Some(doubt) = self.doubts.get(&of) else {
            if !suspicious {
                return None;
            }
            let whose = if of.is_none() { "of the node's" } else { "of" };
            let members = plural(group.members as u64, "backend", "backends");
            let why = format!("{} {whose} {members} failed at once", group.failing);
            let doubt = Doubt { since: now, from: now.saturating_sub(group.window), why: why.clone() };
            self.doubts.insert(of, doubt);
            return Some(Change::Begins(of, why));
        };
        let proven = group.answering > 0 && now.saturating_sub(doubt.since) >= PATIENCE.max(2 * group.window);
        (proven || !suspicious).then(|| {
            self.doubts.remove(&of);
            Change::Ends(of)
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing;

    /// Three services with two, three and one of the same backends, given by the last byte of their addresses.
    fn spec() -> Spec {
        let service = |name: &str, port: u16, backends: &[u8]| {
            let backends =
                backends.iter().map(|n| format!("[[service.backend]]\naddress = \"10.0.0.{n}\"\n"));
            let backends: String = backends.collect();
            format!("[[service]]\nname = \"{name}\"\nlisten = \"tcp/192.0.2.1:{port}\"\n{backends}")
        };
        let (two, three, one) =
            (service("a", 1, &[1, 2]), service("b", 2, &[3, 4, 5]), service("c", 3, &[6]));
        testing::spec(&format!("[node]\ninterface = \"eth0\"\nseed = \"s\"\n{two}{three}{one}"))
    }

    fn listen(port: u16) -> Listen {
        spec().services.iter().find(|service| service.listen.port == port).expect("it is there").listen
    }

    /// The result of a look at `now` while these backends fail.
    fn look(doubts: &mut Doubts, down: &[u8], now: u64) -> Vec<Change> {
        let is = |_: &Listen, address: IpAddr| {
            let IpAddr::V4(v4) = address else { panic!("{address}") };
            if down.contains(&v4.octets()[3]) { Verdict::Down } else { Verdict::Up }
        };
        doubts.look(&spec(), &is, &|_, _| true, now)
    }

    fn is_doubted(doubts: &Doubts, port: u16, backend: u8) -> bool {
        doubts.of(&listen(port), [10, 0, 0, backend].into()).is_some()
    }

    #[test]
    fn a_single_or_an_older_failure_is_believed() {
        let mut doubts = Doubts::default();
        assert_eq!(look(&mut doubts, &[3], 1_000), []);
        assert!(!is_doubted(&doubts, 2, 3) && doubts.due().is_none());
        // Two more fail long after that, each alone.
        assert_eq!(look(&mut doubts, &[3, 4], 60_000), []);
        assert_eq!(look(&mut doubts, &[3, 4, 1], 120_000), []);
        assert!(!is_doubted(&doubts, 2, 4) && !is_doubted(&doubts, 1, 1));
    }

    #[test]
    fn sudden_failure_of_more_than_half_is_doubted() {
        let mut doubts = Doubts::default();
        look(&mut doubts, &[3], 1_000);
        let begins = look(&mut doubts, &[3, 4], 1_900);
        assert!(begins.contains(&Change::Begins(Some(listen(2)), "2 of 3 backends failed at once".into())));
        assert!(is_doubted(&doubts, 2, 3) && is_doubted(&doubts, 2, 4), "the first one, too");
        assert!(doubts.concern(&listen(2)) && doubts.due() == Some(2_150));
        let ends = look(&mut doubts, &[4], 2_500);
        assert!(ends.contains(&Change::Ends(Some(listen(2)))));
        assert!(!is_doubted(&doubts, 2, 4), "alone again, it is believed");
    }

    #[test]
    fn sudden_failure_of_a_third_of_the_node_is_doubted() {
        let mut doubts = Doubts::default();
        assert_eq!(look(&mut doubts, &[1, 3], 900), [], "two may be one host");
        let begins = look(&mut doubts, &[1, 3, 6], 1_000);
        assert_eq!(begins, [Change::Begins(None, "3 of the node's 6 backends failed at once".into())]);
        assert!(is_doubted(&doubts, 1, 1) && is_doubted(&doubts, 2, 3) && !is_doubted(&doubts, 2, 4));
        assert_eq!(look(&mut doubts, &[1], 1_500), [Change::Ends(None)]);
    }

    #[test]
    fn failure_is_believed_after_a_while_if_others_answer() {
        let mut doubts = Doubts::default();
        look(&mut doubts, &[3, 4], 1_000);
        assert_eq!(look(&mut doubts, &[3, 4], 10_900), []);
        assert!(is_doubted(&doubts, 2, 3));
        assert_eq!(look(&mut doubts, &[3, 4], 11_000), [Change::Ends(Some(listen(2)))]);
        assert!(!is_doubted(&doubts, 2, 3) && !is_doubted(&doubts, 2, 4));
        assert_eq!(look(&mut doubts, &[3, 4], 11_500), [], "and it stays so");
    }

    #[test]
    fn where_none_answers_nothing_is_proven() {
        let mut doubts = Doubts::default();
        let all = [1, 2, 3, 4, 5, 6];
        look(&mut doubts, &all, 1_000);
        assert_eq!(look(&mut doubts, &all, 9_000_000), []);
        assert!((1..=2).all(|backend| is_doubted(&doubts, 1, backend)) && is_doubted(&doubts, 3, 6));
    }

    #[test]
    fn draining_backends_do_not_count_but_keep_their_flows() {
        let mut doubts = Doubts::default();
        let mut drained = spec();
        let service =
            drained.services.iter_mut().find(|service| service.listen.port == 2).expect("it is there");
        service.backends[0].admin = Admin::Draining;
        let mut fail = |backends: &[u8], now| {
            let down = |_: &Listen, address: IpAddr| {
                let fails = backends.iter().any(|n| address == IpAddr::from([10, 0, 0, *n]));
                if fails { Verdict::Down } else { Verdict::Up }
            };
            doubts.look(&drained, &down, &|_, _| true, now).len()
        };
        assert_eq!(fail(&[3, 4], 1_000), 0, "one of the two that take flows");
        assert_eq!(fail(&[3, 4, 5], 1_100), 1, "both of them");
        assert!([3, 4, 5].into_iter().all(|backend| is_doubted(&doubts, 2, backend)));
    }

    #[test]
    fn a_backend_that_never_worked_is_no_news() {
        let mut doubts = Doubts::default();
        let looked = doubts.look(&spec(), &|_, _| Verdict::Down, &|_, _| false, 1_000);
        assert_eq!(looked, []);
    }
}
