//! Traffic of services. Packets count for their backend alone; a service's traffic is that of the backends that are its,
//! and what was counted by those that are not any more, which lies in `SVC_TALLY` (all modulo 2⁶⁴).
//!
//! A backend's traffic moves there when its number ceases to be the service's: first it is added, then the backend's is
//! set to 0, and only then the number changes hands. An agent that dies between the first two counts it twice.

use aya::maps::PerCpuValues;
use lb_common::map::{Meta, Tally, name};

use super::{
    TableError,
    kernel::Kernel,
    tables::{failed, one, os_error},
};
use crate::fault::{self, Kind};

/// The service of each backend by number, as `BK_META` says; `None` for a free number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Owners(Vec<Option<u32>>);

impl Owners {
    /// As the names of the backends say, by number.
    pub(super) fn of(metas: &[Meta]) -> Self {
        Self(metas.iter().map(owner).collect())
    }

    fn get(&self, backend: u32) -> Option<u32> {
        self.0.get(backend as usize).copied().flatten()
    }

    fn backends(&self, service: u32) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.0).filter_map(move |(number, owner)| (*owner == Some(service)).then_some(number))
    }

    /// Adds the traffic of backends, by number, to that of their services.
    pub(super) fn add_up(&self, services: &mut [Tally], backends: &[Tally]) {
        for (owner, tally) in self.0.iter().zip(backends) {
            if let Some(service) = owner.and_then(|owner| services.get_mut(owner as usize)) {
                add(service, tally);
            }
        }
    }
}

fn owner(meta: &Meta) -> Option<u32> {
    (meta.flags != 0).then_some(meta.service)
}

/// Adds traffic.
pub(super) fn add(sum: &mut Tally, value: &Tally) {
    sum.packets = sum.packets.wrapping_add(value.packets);
    sum.bytes = sum.bytes.wrapping_add(value.bytes);
    sum.new_connections = sum.new_connections.wrapping_add(value.new_connections);
}

/// What makes `total` of `part`.
fn rest(total: &Tally, part: &Tally) -> Tally {
    Tally {
        packets: total.packets.wrapping_sub(part.packets),
        bytes: total.bytes.wrapping_sub(part.bytes),
        new_connections: total.new_connections.wrapping_sub(part.new_connections),
        ..Tally::default()
    }
}

impl Kernel {
    /// What a backend has counted, over all CPUs.
    fn backend_tally(&self, number: u32) -> Result<Tally, TableError> {
        one(name::BK_TALLY, &self.backend_tallies, number)
    }

    /// Adds to what a service's traffic has beside that of its backends. Turns that packets take meanwhile may be taken
    /// twice.
    fn add_to_service(&mut self, number: u32, more: &Tally) -> Result<(), TableError> {
        let failed = || failed(name::SVC_TALLY, format!("setting entry {number}"));
        let values = self.service_tallies.get(&number, 0).map_err(os_error).map_err(failed())?;
        let mut values: Vec<Tally> = values.iter().copied().collect();
        if let Some(first) = values.first_mut() {
            add(first, more);
        }
        let values = PerCpuValues::try_from(values).map_err(failed())?;
        fault::point(Kind::Map).map_err(failed())?;
        self.service_tallies.set(number, values, 0).map_err(os_error).map_err(failed())
    }

    /// Traffic of the backends that are a service's.
    pub(super) fn traffic_of_backends(&self, service: u32) -> Result<Tally, TableError> {
        let mut sum = Tally::default();
        for number in self.owners.backends(service) {
            add(&mut sum, &self.backend_tally(number)?);
        }
        Ok(sum)
    }

    /// Makes a service's traffic what `total` says, whatever its backends have counted.
    pub(super) fn put_service_total(&mut self, number: u32, total: &Tally) -> Result<(), TableError> {
        let rest = rest(total, &self.traffic_of_backends(number)?);
        self.put_service_tally(number, &rest)
    }

    /// A backend's traffic begins at 0; what it has counted stays its service's.
    pub(super) fn retire_traffic(&mut self, number: u32) -> Result<(), TableError> {
        let counted = self.backend_tally(number)?;
        if counted == Tally::default() {
            return Ok(());
        }
        if let Some(service) = self.owners.get(number) {
            self.add_to_service(service, &counted)?;
        }
        self.put_backend_tally(number, &Tally::default())
    }

    /// To be called before a backend's number is given to whom `meta` says.
    pub(super) fn change_owner(&mut self, number: u32, meta: &Meta) -> Result<(), TableError> {
        match self.owners.get(number) {
            // A free number has no traffic.
            None => Ok(()),
            Some(before) if owner(meta) == Some(before) => Ok(()),
            Some(_) => self.retire_traffic(number),
        }
    }

    /// To be called after that.
    pub(super) fn owner_changed(&mut self, number: u32, meta: &Meta) {
        if let Some(place) = self.owners.0.get_mut(number as usize) {
            *place = owner(meta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(packets: u64) -> Tally {
        Tally { packets, bytes: 10 * packets, new_connections: packets / 2, ..Tally::default() }
    }

    #[test]
    fn a_services_traffic_is_that_of_its_backends_and_of_those_it_had() {
        let owners = Owners(vec![None, Some(0), Some(1), Some(0), None, Some(7)]);
        let mut services = [tally(100), Tally::default()];
        owners.add_up(&mut services, &[tally(9), tally(1), tally(2), tally(4), tally(8), tally(16)]);
        assert_eq!(
            services,
            [tally(100 + 1 + 4), tally(2)].map(|tally| Tally { new_connections: tally.packets / 2, ..tally })
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
