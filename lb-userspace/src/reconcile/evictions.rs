//! How many records the kernel has evicted from the flow tables, at least. An LRU hash reports no eviction, so the number is
//! computed from what went in and out: records that packets made (`M`), less records that packets and the agent took out
//! (`G`), less records that are in the table, are the evicted records (`E`). Pure.
//!
//! Both numbers change while a table is read. So there are two bounds, each with the ends of the walk that make it safe:
//!
//! - A record that was in the table when the reading began was met, or was taken out or evicted since. So at its end
//!   `E ≥ M(begin) − G(end) − met`.
//! - A record that was met was in the table when the reading began, or was made since. So at its beginning
//!   `E ≤ M(end) − G(begin) − met`.
//!
//! The agent reports the first bound less the second one. `E` never becomes less, so the second bound of a later walk also
//! holds for the agent's first walk, and the agent takes the smallest one. Both bounds need that every packet has counted
//! what it did when the walk ends: `M(end)` and `G(end)` are read behind a barrier.

use lb_common::map::FlowTableStats;

use crate::tables::FlowTable;

/// The evictions of both tables, since the agent was started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evictions {
    pending: Count,
    confirmed: Count,
}

impl Evictions {
    /// Begins to count. The arguments are what packets did to the tables until now.
    pub fn new(pending: FlowTableStats, confirmed: FlowTableStats) -> Self {
        Self { pending: Count::new(pending), confirmed: Count::new(confirmed) }
    }

    /// Records that the kernel evicted from a table, at least. Never becomes less.
    pub fn at_least(&self, table: FlowTable) -> u64 {
        self.of(table).reported
    }

    pub(super) fn of(&self, table: FlowTable) -> &Count {
        match table {
            FlowTable::Pending => &self.pending,
            FlowTable::Confirmed => &self.confirmed,
        }
    }

    pub(super) fn of_mut(&mut self, table: FlowTable) -> &mut Count {
        match table {
            FlowTable::Pending => &mut self.pending,
            FlowTable::Confirmed => &mut self.confirmed,
        }
    }
}

/// The evictions of one table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Records that the agent took out.
    own: u64,
    /// An upper bound of `E` at some moment of the present epoch.
    base: i64,
    /// What was reported before the present epoch; evictions since `base` are added to it.
    before: u64,
    reported: u64,
    /// How often `own` became unknown.
    epoch: u32,
}

/// What went in and out of a table until a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    turnover: FlowTableStats,
    own: u64,
    epoch: u32,
}

impl Count {
    fn new(turnover: FlowTableStats) -> Self {
        // No more can have been evicted than were made.
        Self { base: signed(turnover.made), ..Self::default() }
    }

    /// The agent took records out.
    pub(super) fn taken_out(&mut self, records: u64) {
        self.own += records;
    }

    /// The agent took out an unknown number of records, since something failed in between. Counting begins again with the next
    /// walk, and what was reported stays.
    pub(super) fn lose_count(&mut self) {
        self.before = self.reported;
        self.base = i64::MAX;
        self.epoch += 1;
    }

    pub(super) fn reading(&self, turnover: FlowTableStats) -> Reading {
        Reading { turnover, own: self.own, epoch: self.epoch }
    }

    /// A walk that began at `begin` has read the table to its end and `met` records; `turnover` is the one of now.
    pub(super) fn walked(&mut self, begin: Reading, turnover: FlowTableStats, met: u64) {
        if begin.epoch != self.epoch {
            return;
        }
        let evicted = |made: u64, gone: u64, own: u64| {
            signed(made).saturating_sub(signed(gone)).saturating_sub(signed(own)).saturating_sub(signed(met))
        };
        let most_then = evicted(turnover.made, begin.turnover.gone, begin.own);
        let least_now = evicted(begin.turnover.made, turnover.gone, self.own);
        self.base = self.base.min(most_then);
        let since = least_now.saturating_sub(self.base).max(0).unsigned_abs();
        self.reported = self.reported.max(self.before + since);
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with room for so many records, as the kernel keeps it: the table alone knows what it evicts.
    struct Table {
        room: u64,
        there: u64,
        turnover: FlowTableStats,
        evicted: u64,
    }

    impl Table {
        fn make(&mut self, records: u64) {
            self.turnover.made += records;
            self.there += records;
            self.evicted += self.there.saturating_sub(self.room);
            self.there = self.there.min(self.room);
        }

        /// A packet (`count` is `None`) or the agent takes one record out.
        fn take(&mut self, count: Option<&mut Count>) {
            if self.there == 0 {
                return;
            }
            self.there -= 1;
            match count {
                Some(count) => count.taken_out(1),
                None => self.turnover.gone += 1,
            }
        }
    }

    fn table() -> Table {
        Table { room: 100, there: 0, turnover: FlowTableStats::default(), evicted: 0 }
    }

    fn walk(table: &Table, count: &mut Count) -> u64 {
        let begin = count.reading(table.turnover);
        count.walked(begin, table.turnover, table.there);
        count.reported
    }

    #[test]
    fn a_table_at_rest_is_counted_exactly() {
        let (mut table, mut count) = (table(), Count::default());
        table.make(90);
        table.take(None);
        table.take(Some(&mut count));
        assert_eq!(walk(&table, &mut count), 0);
        table.make(30);
        assert_eq!((walk(&table, &mut count), table.evicted), (18, 18));
    }

    #[test]
    fn what_was_evicted_before_the_agent_came_does_not_count() {
        let mut table = table();
        table.make(500);
        let mut count = Count::new(table.turnover);
        assert_eq!(walk(&table, &mut count), 0);
        table.make(7);
        assert_eq!(walk(&table, &mut count), 7);
    }

    #[test]
    fn unknown_deletions_keep_the_count() {
        let (mut table, mut count) = (table(), Count::default());
        table.make(105);
        assert_eq!(walk(&table, &mut count), 5);
        let begin = count.reading(table.turnover);
        table.there -= 50;
        count.lose_count();
        count.walked(begin, table.turnover, table.there);
        assert_eq!((count.reported, walk(&table, &mut count)), (5, 5));
        table.make(53);
        assert_eq!(walk(&table, &mut count), 8);
    }

    #[test]
    fn no_more_than_was_evicted_is_ever_reported() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..500 {
            let (mut table, mut reported) = (table(), 0);
            table.make(random(300));
            let (mut count, before) = (Count::new(table.turnover), table.evicted);
            for _ in 0..20 {
                let begin = count.reading(table.turnover);
                // A record that is in the table throughout is met. A record that comes or goes in between may be met.
                let (mut least, mut most) = (table.there, table.there);
                for _ in 0..random(60) {
                    let evicted = table.evicted;
                    match random(3) {
                        0 => table.take(None),
                        1 => table.take(Some(&mut count)),
                        _ => {
                            table.make(1);
                            most += 1;
                        }
                    }
                    least = least.min(table.there).saturating_sub(table.evicted - evicted);
                }
                count.walked(begin, table.turnover, least + random(most - least + 1));
                assert!(count.reported >= reported, "it became less");
                reported = count.reported;
                let evicted = table.evicted - before;
                assert!(reported <= evicted, "{reported} reported of {evicted}");
            }
        }
    }
}
