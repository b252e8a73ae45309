//! Live flows of backends whose service balances by them. Packets count when a flow begins and when its client closes it.
//! Nothing subtracts flows that fall silent, are evicted or expire, or adds flows from before the service balanced so. A walk
//! over `FLOWS` meets the flows that there are.

use std::{collections::HashMap, sync::atomic::Ordering};

use lb_common::{balance::Balance, map::NameRecord};

use super::counted::Counted;
use crate::{
    reconcile::{mirror::Mirror, write_log::WriteLog},
    tables::Tables,
};

/// By backend number.
#[derive(Debug, Default)]
pub(super) struct Live(HashMap<u32, Backend>);

#[derive(Clone, Copy, Debug)]
struct Backend {
    service: u32,
    /// What packets had counted when the walk began.
    before: i64,
}

impl Live {
    pub(super) fn of(tables: &impl Tables, mirror: &Mirror) -> Self {
        let mut all = HashMap::new();
        for (number, meta) in (0u32..).zip(&mirror.backend_metas) {
            let service = mirror.services.get(meta.service as usize);
            let asks = service.is_some_and(|service| service.balance() == Balance::LeastConnections);
            if asks && meta.flags & NameRecord::USED != 0 {
                all.insert(number, Backend { service: meta.service, before: count(tables, number) });
            }
        }
        Self(all)
    }

    /// The change to add to each backend's count. A flow that came or went during the walk was met or was not. The code takes
    /// the mean of both cases, so that the error has no direction, and the next walk corrects it.
    pub(super) fn corrections(
        &self,
        tables: &impl Tables,
        counted: &Counted,
        changed: &WriteLog,
    ) -> Vec<(u32, i64)> {
        let settled = self.0.iter().filter(|(_, backend)| !changed.services.contains(&backend.service));
        let corrections = settled.map(|(&number, backend)| {
            let mean = backend.before.midpoint(count(tables, number));
            (number, counted.live(number).saturating_sub(mean))
        });
        let mut all: Vec<_> = corrections.filter(|(_, change)| *change != 0).collect();
        all.sort_unstable();
        all
    }
}

fn count(tables: &impl Tables, number: u32) -> i64 {
    tables.live().get(number as usize).map_or(0, |live| live.load(Ordering::Relaxed).cast_signed())
}
