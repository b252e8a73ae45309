//! Targets whose address is asked the same question, whatever their services and names: one probe answers for all of them. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{Target, places::Id};
use crate::config::spec::Probe;

/// What makes two questions the same: not how often they are asked, nor how many answers a verdict takes.
type Question<'a> = (IpAddr, u16, &'a Probe, Duration);

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Targets with the same question, two at least.
    groups: Vec<Vec<Id>>,
    /// The group of a target.
    of: HashMap<Id, usize>,
    /// Groups for which a probe is under way.
    asked: HashSet<usize>,
}

impl Shared {
    pub(super) fn new<'a>(targets: impl Iterator<Item = (Id, &'a Target)>) -> Self {
        let mut asked: HashMap<Question<'_>, Vec<Id>> = HashMap::new();
        for (id, target) in targets {
            let health = &*target.health;
            let question = (target.address, health.port, &health.probe, health.timeout);
            asked.entry(question).or_default().push(id);
        }
        let groups: Vec<Vec<Id>> = asked.into_values().filter(|ids| ids.len() > 1).collect();
        let of = groups.iter().enumerate().flat_map(|(group, ids)| ids.iter().map(move |id| (*id, group)));
        Self { of: of.collect(), asked: HashSet::new(), groups }
    }

    /// A probe for the group of `id` begins, or has ended.
    pub(super) fn ask(&mut self, id: Id, under_way: bool) {
        let Some(group) = self.of.get(&id) else { return };
        if under_way {
            self.asked.insert(*group);
        } else {
            self.asked.remove(group);
        }
    }

    /// Whether a probe is under way whose answer is for `id`, too.
    pub(super) fn is_asked(&self, id: Id) -> bool {
        self.of.get(&id).is_some_and(|group| self.asked.contains(group))
    }

    /// The others that an answer for `id` is for.
    pub(super) fn others(&self, id: Id) -> impl Iterator<Item = Id> {
        let group = self.of.get(&id).and_then(|group| self.groups.get(*group));
        group.into_iter().flatten().copied().filter(move |other| *other != id)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{
        config::spec::Health,
        health::scheduler::tests::{health, target},
    };

    #[test]
    fn the_same_question_to_the_same_address_is_shared() {
        let slow = Health { interval: Duration::from_secs(9), rise: 7, fall: 7, ..health(80) };
        let hasty = Health { timeout: Duration::from_millis(10), ..health(80) };
        let icmp = Health { probe: Probe::Icmp, ..health(80) };
        let elsewhere = Target { address: IpAddr::from([192, 0, 2, 1]), ..target("f", health(80)) };
        let targets = [
            target("a", health(80)),
            Target { service: "other".into(), health: Arc::new(slow), ..target("b", health(80)) },
            target("c", health(81)),
            target("d", hasty),
            target("e", icmp),
            elsewhere,
            target("g", health(80)),
        ];
        let shared = Shared::new((0..).zip(&targets));
        let others = |id| shared.others(id).collect::<BTreeSet<_>>();
        assert_eq!(others(0), BTreeSet::from([1, 6]));
        assert_eq!(others(6), BTreeSet::from([0, 1]));
        for alone in [2, 3, 4, 5, 99] {
            assert!(others(alone).is_empty(), "{alone}");
        }
        let mut shared = shared;
        let asked = |shared: &Shared| [0, 1, 2, 6].map(|id| shared.is_asked(id));
        shared.ask(2, true);
        assert_eq!(asked(&shared), [false; 4], "alone, it is for itself");
        shared.ask(1, true);
        assert_eq!(asked(&shared), [true, true, false, true]);
        shared.ask(1, false);
        assert_eq!(asked(&shared), [false; 4]);
    }
}
