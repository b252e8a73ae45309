//! Who is asked next, and of which service how many at once. What is silent keeps its place until its time is over, so places
//! that everyone draws from would be all taken by somebody else's outage: services take turns, and the last places are for those
//! that hold few. Pure; times, sockets and results are the driver's.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::Semaphore;

/// Numbers a target from one (re)start to the next: what still names an old number is out of date.
pub(super) type Id = u64;

/// Further attempts under way at once, of the probes of a service, at most: where more are wanted it is no lost packet.
const MOST_SPARE: usize = 256;

/// One service.
struct Group {
    /// Due, in the order in which it became so.
    waiting: VecDeque<Id>,
    in_flight: usize,
    spare: Arc<Semaphore>,
}

pub(super) struct Places {
    /// Probes in flight at once.
    most: usize,
    /// Further attempts in flight at once.
    spare: usize,
    in_flight: usize,
    groups: Vec<Group>,
    /// Groups in which something waits, in the order of their turns.
    turns: VecDeque<usize>,
}

impl Places {
    /// `most` of 0 counts as 1.
    pub(super) fn new(most: usize, spare: usize) -> Self {
        Self { most: most.max(1), spare, in_flight: 0, groups: Vec::new(), turns: VecDeque::new() }
    }

    /// Forgets everything, for that many groups to come.
    pub(super) fn begin(&mut self, groups: usize) {
        self.in_flight = 0;
        self.turns.clear();
        let spare = (self.spare / groups.max(1)).min(MOST_SPARE);
        let group =
            || Group { waiting: VecDeque::new(), in_flight: 0, spare: Arc::new(Semaphore::new(spare)) };
        self.groups = (0..groups).map(|_| group()).collect();
    }

    /// One of the group's is under way.
    pub(super) fn runs(&mut self, group: usize) {
        self.in_flight += 1;
        self.groups[group].in_flight += 1;
    }

    /// One that was under way has ended.
    pub(super) fn ended(&mut self, group: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let group = &mut self.groups[group];
        group.in_flight = group.in_flight.saturating_sub(1);
    }

    /// One of the group's is due.
    pub(super) fn wait(&mut self, group: usize, id: Id) {
        let waiting = &mut self.groups[group].waiting;
        if waiting.is_empty() {
            self.turns.push_back(group);
        }
        waiting.push_back(id);
    }

    /// Places of the group's probes for further attempts.
    pub(super) fn spare(&self, group: usize) -> Arc<Semaphore> {
        Arc::clone(&self.groups[group].spare)
    }

    pub(super) fn anyone_waits(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether [`Self::next`] has one.
    pub(super) fn may_start(&self) -> bool {
        self.turns.iter().any(|group| self.may(*group))
    }

    /// The next one that may start now.
    pub(super) fn next(&mut self) -> Option<Id> {
        let turn = self.turns.iter().position(|group| self.may(*group))?;
        let group = self.turns.remove(turn)?;
        let waiting = &mut self.groups[group].waiting;
        let id = waiting.pop_front();
        if !waiting.is_empty() {
            self.turns.push_back(group);
        }
        id
    }

    /// The last quarter of the places is for groups that hold less than an equal share.
    fn may(&self, group: usize) -> bool {
        let share = (self.most / self.groups.len().max(1)).max(1);
        let few = self.groups[group].in_flight < share;
        let kept = if self.groups.len() > 1 { self.most / 4 } else { 0 };
        self.in_flight < if few { self.most } else { self.most - kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts all that may start; the groups they are of, in order. Ids say their group in hundreds.
    fn start(places: &mut Places) -> Vec<usize> {
        let mut started = Vec::new();
        while let Some(id) = places.next() {
            let group = (id / 100) as usize;
            places.runs(group);
            started.push(group);
        }
        started
    }

    fn with(most: usize, groups: usize, waiting: &[(usize, u64)]) -> Places {
        let mut places = Places::new(most, 8);
        places.begin(groups);
        for &(group, count) in waiting {
            for n in 0..count {
                places.wait(group, 100 * group as u64 + n);
            }
        }
        places
    }

    #[test]
    fn services_take_turns_however_many_of_one_are_due() {
        let mut places = with(6, 2, &[(0, 50), (1, 2)]);
        assert_eq!(places.next(), Some(0));
        places.runs(0);
        assert_eq!(places.next(), Some(100), "the other one's, though it became due last");
    }

    #[test]
    fn a_service_that_falls_silent_leaves_places_to_the_others() {
        let mut places = with(16, 4, &[(0, 50)]);
        assert_eq!(start(&mut places).len(), 12, "a quarter is kept");
        assert!(places.anyone_waits() && !places.may_start());
        places.wait(3, 300);
        assert_eq!(start(&mut places), [3]);
        for n in 0..3 {
            places.wait(2, 200 + n);
        }
        assert_eq!(start(&mut places), [2, 2, 2]);
        places.ended(2);
        assert_eq!(start(&mut places), Vec::<usize>::new(), "the one that has many waits on");
        assert_eq!((places.in_flight, places.groups[0].in_flight), (15, 12));
    }

    #[test]
    fn a_service_that_is_alone_may_take_every_place() {
        let mut places = with(8, 1, &[(0, 50)]);
        assert_eq!(start(&mut places).len(), 8);
        places.ended(0);
        assert!(places.may_start());
        assert_eq!(start(&mut places), [0], "a place that is free is taken");
    }

    #[test]
    fn places_for_further_attempts_are_shared_out_by_service() {
        let places = with(8, 4, &[]);
        let one = places.spare(0);
        let taken = one.try_acquire_many(2).unwrap();
        assert!(one.try_acquire().is_err() && places.spare(1).try_acquire().is_ok());
        drop(taken);
    }

    #[test]
    fn with_one_place_everyone_gets_it_in_turn() {
        let mut places = with(0, 3, &[(0, 2), (1, 2), (2, 2)]);
        let mut order = Vec::new();
        while places.anyone_waits() {
            for group in start(&mut places) {
                order.push(group);
                places.ended(group);
            }
        }
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }
}
