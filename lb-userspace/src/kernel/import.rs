//! Operations that carrying maps over needs in addition to [`crate::tables::Tables`].

use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    counter::Counter,
    flow::{Key, Record},
    map::{TrafficCounters, name},
};

use super::{
    Kernel,
    map_io::{failed, fd, os_error, put},
};
use crate::{
    bpf::sys,
    fault::{self, Kind},
    tables::{FlowTable, TableError},
};

/// Whether `one` is before `other`. The clock wraps: the two must be less than half of its range apart.
fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

impl Kernel {
    /// Writes flow records into a table that packets do not use yet.
    pub(crate) fn put_flows(
        &mut self,
        table: FlowTable,
        keys: &[Key],
        records: &[Record],
    ) -> Result<(), TableError> {
        let (map, flows) = self.flow_table_mut(table);
        fault::point(Kind::Map).map_err(failed(map, "writing records"))?;
        let batched = sys::update_batch(fd(flows), keys, records).map_err(failed(map, "writing records"))?;
        if !batched {
            for (key, record) in keys.iter().zip(records) {
                flows.insert(key, record, 0).map_err(os_error).map_err(failed(map, "writing a record"))?;
            }
        }
        Ok(())
    }

    /// Writes a record where the table has no record of its key, or an older one.
    pub(crate) fn put_younger_flow(
        &mut self,
        table: FlowTable,
        key: &Key,
        record: &Record,
    ) -> Result<(), TableError> {
        const NO_EXIST: u64 = 1;
        const EXIST: u64 = 2;
        let (map, flows) = self.flow_table_mut(table);
        let failed = || failed(map, "writing a record");
        fault::point(Kind::Map).map_err(failed())?;
        let flags = match flows.get(key, 0) {
            Ok(there) if !is_before(there.last_seen, record.last_seen) => return Ok(()),
            Ok(_) => EXIST,
            Err(MapError::KeyNotFound) => NO_EXIST,
            Err(error) => return Err(failed()(os_error(error))),
        };
        match flows.insert(key, record, flags).map_err(os_error) {
            // A packet has written or removed the record meanwhile: its state is newer than ours.
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EEXIST | nix::libc::ENOENT)) => {
                Ok(())
            }
            written => written.map_err(failed()),
        }
    }

    /// Deletes the record of a key if it is older than `before`, in the lower half of jiffies.
    pub(crate) fn forget_flow_before(
        &mut self,
        table: FlowTable,
        key: &Key,
        before: u32,
    ) -> Result<(), TableError> {
        let (map, flows) = self.flow_table_mut(table);
        let failed = || failed(map, "deleting a record");
        fault::point(Kind::Map).map_err(failed())?;
        match flows.get(key, 0) {
            Ok(there) if is_before(there.last_seen, before) => {}
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(failed()(os_error(error))),
        }
        match flows.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed()(os_error(error))),
        }
    }

    /// Sets the part of a service's traffic that is not in the counts of its backends. One CPU's entry holds it all.
    pub(crate) fn put_service_tally(
        &mut self,
        number: u32,
        tally: &TrafficCounters,
    ) -> Result<(), TableError> {
        put(name::SVC_TALLY, &mut self.service_tallies, number, tally)
    }

    pub(crate) fn put_backend_tally(
        &mut self,
        number: u32,
        tally: &TrafficCounters,
    ) -> Result<(), TableError> {
        put(name::BK_TALLY, &mut self.backend_tallies, number, tally)
    }

    pub(crate) fn put_counter(&mut self, counter: Counter, value: u64) -> Result<(), TableError> {
        put(name::COUNTERS, &mut self.counters, counter as u32, &value)
    }

    fn flow_table_mut(&mut self, table: FlowTable) -> (&'static str, &mut HashMap<MapData, Key, Record>) {
        match table {
            FlowTable::Pending => (name::PENDING, &mut self.pending),
            FlowTable::Confirmed => (name::FLOWS, &mut self.flows),
        }
    }
}
