//! Traffic of services. Packets count for their backend only. A service's traffic is the sum of the traffic of its present
//! backends and that of its former backends, which is kept in `SVC_TALLY` (all modulo 2⁶⁴).
//!
//! A backend's traffic moves to `SVC_TALLY` when its number no longer belongs to the service: first the traffic is added
//! there, then the backend's count is set to 0, and only then the number gets its new owner. If an agent dies between the
//! first two steps, the traffic is counted twice.

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use lb_common::map::{NameRecord, TrafficCounters, name};

use super::{
    Kernel,
    map_io::{failed, os_error},
};
use crate::{
    fault::{self, Kind},
    tables::TableError,
};

/// The service of each backend number, from `BK_META`; `None` for a free number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Owners(Vec<Option<u32>>);

impl Owners {
    /// Made from the backends' `NameRecord` records, by number.
    pub(super) fn of(metas: &[NameRecord]) -> Self {
        Self(metas.iter().map(owner).collect())
    }

    fn get(&self, backend: u32) -> Option<u32> {
        self.0.get(backend as usize).copied().flatten()
    }

    fn backends(&self, service: u32) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.0).filter_map(move |(number, owner)| (*owner == Some(service)).then_some(number))
    }

    /// Adds the traffic of each backend, by number, to the traffic of its service.
    pub(super) fn add_up(&self, services: &mut [TrafficCounters], backends: &[TrafficCounters]) {
        for (owner, tally) in self.0.iter().zip(backends) {
            if let Some(service) = owner.and_then(|owner| services.get_mut(owner as usize)) {
                add(service, tally);
            }
        }
    }
}

fn owner(meta: &NameRecord) -> Option<u32> {
    (meta.flags != 0).then_some(meta.service)
}

/// Adds traffic.
pub(super) fn add(sum: &mut TrafficCounters, value: &TrafficCounters) {
    sum.packets = sum.packets.wrapping_add(value.packets);
    sum.bytes = sum.bytes.wrapping_add(value.bytes);
    sum.new_connections = sum.new_connections.wrapping_add(value.new_connections);
}

/// The tally of one number, summed over CPUs.
pub(super) fn one(
    map: &'static str,
    array: &PerCpuArray<MapData, TrafficCounters>,
    number: u32,
) -> Result<TrafficCounters, TableError> {
    let values = array.get(&number, 0).map_err(os_error);
    let values = values.map_err(failed(map, format!("reading entry {number}")))?;
    let mut sum = TrafficCounters::default();
    values.iter().for_each(|value| add(&mut sum, value));
    Ok(sum)
}

/// The traffic that added to `part` gives `total`.
fn rest(total: &TrafficCounters, part: &TrafficCounters) -> TrafficCounters {
    TrafficCounters {
        packets: total.packets.wrapping_sub(part.packets),
        bytes: total.bytes.wrapping_sub(part.bytes),
        new_connections: total.new_connections.wrapping_sub(part.new_connections),
        ..TrafficCounters::default()
    }
}

impl Kernel {
    /// The traffic of a backend, summed over CPUs.
    fn backend_tally(&self, number: u32) -> Result<TrafficCounters, TableError> {
        one(name::BK_TALLY, &self.backend_tallies, number)
    }

    /// Adds to the part of a service's traffic that is not in the counts of its backends. Packets that take balancing turns
    /// meanwhile may get the same turn twice, because the whole entry is written back.
    fn add_to_service(&mut self, number: u32, more: &TrafficCounters) -> Result<(), TableError> {
        let failed = || failed(name::SVC_TALLY, format!("setting entry {number}"));
        let values = self.service_tallies.get(&number, 0).map_err(os_error).map_err(failed())?;
        let mut values: Vec<TrafficCounters> = values.iter().copied().collect();
        if let Some(first) = values.first_mut() {
            add(first, more);
        }
        let values = PerCpuValues::try_from(values).map_err(failed())?;
        fault::point(Kind::Map).map_err(failed())?;
        self.service_tallies.set(number, values, 0).map_err(os_error).map_err(failed())
    }

    /// The sum of the traffic of a service's backends.
    pub(super) fn traffic_of_backends(&self, service: u32) -> Result<TrafficCounters, TableError> {
        let mut sum = TrafficCounters::default();
        for number in self.owners.backends(service) {
            add(&mut sum, &self.backend_tally(number)?);
        }
        Ok(sum)
    }

    /// Sets a service's traffic to `total`, whatever its backends have counted.
    pub(crate) fn put_service_total(
        &mut self,
        number: u32,
        total: &TrafficCounters,
    ) -> Result<(), TableError> {
        let rest = rest(total, &self.traffic_of_backends(number)?);
        self.put_service_tally(number, &rest)
    }

    /// Sets a backend's traffic to 0; the traffic that it has counted stays with its service.
    pub(super) fn retire_traffic(&mut self, number: u32) -> Result<(), TableError> {
        let counted = self.backend_tally(number)?;
        if counted == TrafficCounters::default() {
            return Ok(());
        }
        if let Some(service) = self.owners.get(number) {
            self.add_to_service(service, &counted)?;
        }
        self.put_backend_tally(number, &TrafficCounters::default())
    }

    /// To be called before a backend's number is given to the owner in `meta`.
    pub(super) fn change_owner(&mut self, number: u32, meta: &NameRecord) -> Result<(), TableError> {
        match self.owners.get(number) {
            // A free number has no traffic.
            None => Ok(()),
            Some(before) if owner(meta) == Some(before) => Ok(()),
            Some(_) => self.retire_traffic(number),
        }
    }

    /// To be called after the number was given to the owner in `meta`.
    pub(super) fn owner_changed(&mut self, number: u32, meta: &NameRecord) {
        if let Some(place) = self.owners.0.get_mut(number as usize) {
            *place = owner(meta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(packets: u64) -> TrafficCounters {
        TrafficCounters {
            packets,
            bytes: 10 * packets,
            new_connections: packets / 2,
            ..TrafficCounters::default()
        }
    }

    #[test]
    fn service_traffic_includes_former_backends() {
        let owners = Owners(vec![None, Some(0), Some(1), Some(0), None, Some(7)]);
        let mut services = [tally(100), TrafficCounters::default()];
        owners.add_up(&mut services, &[tally(9), tally(1), tally(2), tally(4), tally(8), tally(16)]);
        assert_eq!(
            services,
            [tally(100 + 1 + 4), tally(2)]
                .map(|tally| TrafficCounters { new_connections: tally.packets / 2, ..tally })
        );
    }

    #[test]
    fn the_rest_makes_the_total_also_where_the_part_is_larger() {
        for (total, part) in [(tally(10), tally(4)), (tally(4), tally(10))] {
            let mut sum = rest(&total, &part);
            add(&mut sum, &part);
            assert_eq!(sum, total);
        }
    }
}
