//! Pinned maps of some version, opened read-only and read with the layout of that version.

use std::{
    collections::BTreeMap,
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
};

use aya::{Pod, util::nr_cpus};
use lb_common::{
    backend::Backend,
    counter::Counter,
    flow_table::{Bucket, room_of},
    map::{NameRecord, TrafficCounters, name},
    service::Service,
    slot::Slot,
};

use super::{
    abi_layout::{FlowMaps, Layout},
    content::Content,
    error::MigrateError,
    flows::{Hashes, OldFlows, Table},
};
use crate::{
    bpf::{
        map_shapes::{PENDING, Shape},
        mmap_array::{Mapped, ReadOnly},
        pin::PinDirectory,
        sys,
    },
    config::{spec::Limits, words::plural},
};

/// Running maps of any version.
pub(crate) trait Old {
    fn content(&self) -> Result<Content, MigrateError>;
    /// The limits that made maps of these sizes.
    fn limits(&self) -> Limits;
    fn slot(&self, at: u32) -> Slot;
    fn flows(&self) -> &OldFlows;
    /// Whether a service's tally is all of its traffic, and not only the part that the tallies of its backends do not have.
    fn counts_services(&self) -> bool;
    /// Summed over CPUs; so are the next two.
    fn service_tally(&self, number: u32) -> Result<TrafficCounters, MigrateError>;
    fn backend_tally(&self, number: u32) -> Result<TrafficCounters, MigrateError>;
    fn counters(&self) -> Result<Vec<(Counter, u64)>, MigrateError>;
}

struct Source<L> {
    maps: BTreeMap<&'static str, (OwnedFd, Shape)>,
    ring: ReadOnly,
    flows: OldFlows,
    layout: PhantomData<L>,
}

/// Opens the maps of a version. Every map must be of that version's shape.
pub(super) fn open<L: Layout>(
    pins: &PinDirectory,
    shapes: &BTreeMap<&'static str, Shape>,
) -> Result<Box<dyn Old>, MigrateError> {
    let mut maps = BTreeMap::new();
    for &(map, kind, key, value) in L::MAPS {
        let damaged = |what| MigrateError::Damaged { map, what };
        let shape = shapes.get(map).ok_or_else(|| damaged("it is missing".to_owned()))?;
        if (shape.kind, shape.key, shape.value) != (kind, key, value) {
            let what = format!(
                "found {shape}, version {} has type {kind}, keys of {}, values of {}",
                L::VERSION,
                plural(key.into(), "byte", "bytes"),
                plural(value.into(), "byte", "bytes")
            );
            return Err(damaged(what));
        }
        let read = |source| MigrateError::Read { map, version: L::VERSION, source };
        maps.insert(map, (sys::open_pin_read_only(&pins.map(map)).map_err(read)?, *shape));
    }
    let entries = |map: &str| maps.get(map).map_or(0, |(_, shape): &(OwnedFd, Shape)| shape.entries as usize);
    // The kernel refuses a shared mapping through a descriptor that cannot write, so such a pin is opened for writing. The
    // mapping itself is read-only.
    let mapped = |map: &'static str, words: usize| {
        let mapped = sys::open_pin(&pins.map(map)).and_then(|pin| Mapped::read_only(pin, words));
        mapped.map_err(|source| MigrateError::Read { map, version: L::VERSION, source })
    };
    let ring = mapped(name::RING, entries(name::RING))?;
    let descriptor = |map: &'static str| {
        let (fd, _) = &maps[map];
        fd.try_clone().map_err(|source| MigrateError::Read { map, version: L::VERSION, source })
    };
    let flows = match L::FLOWS {
        FlowMaps::Hashes(record) => OldFlows::Hashes(Hashes {
            version: L::VERSION,
            flows: descriptor(name::FLOWS)?,
            pending: descriptor(PENDING)?,
            record,
        }),
        FlowMaps::Table => {
            let buckets = entries(name::FLOWS);
            let words = mapped(name::FLOWS, buckets * (size_of::<Bucket>() / size_of::<u64>()))?;
            OldFlows::Table(Table { words, buckets: buckets as u32 })
        }
    };
    Ok(Box::new(Source::<L> { maps, ring, flows, layout: PhantomData }))
}

impl<L: Layout> Source<L> {
    fn failed(map: &'static str) -> impl Fn(io::Error) -> MigrateError {
        move |source| MigrateError::Read { map, version: L::VERSION, source }
    }

    fn entries(&self, map: &str) -> u32 {
        self.maps.get(map).map_or(0, |(_, shape)| shape.entries)
    }

    /// The values of a key of 4 bytes, `values` of them.
    fn values<T: Pod>(&self, map: &'static str, key: u32, values: usize) -> Result<Vec<T>, MigrateError> {
        let (fd, _) = &self.maps[map];
        let mut bytes = vec![0u8; size_of::<T>() * values];
        sys::lookup(fd.as_fd(), &key.to_ne_bytes(), &mut bytes).map_err(Self::failed(map))?;
        // SAFETY: every chunk has the size of a T, for which every bit pattern is a value.
        let read = |chunk: &[u8]| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() };
        Ok(bytes.chunks_exact(size_of::<T>()).map(read).collect())
    }

    fn value<T: Pod>(&self, map: &'static str, key: u32) -> Result<T, MigrateError> {
        let mut values = self.values(map, key, 1)?;
        values.pop().ok_or_else(|| Self::failed(map)(io::Error::other("an entry of no bytes")))
    }

    fn per_cpu<T: Pod>(&self, map: &'static str, key: u32) -> Result<Vec<T>, MigrateError> {
        let cpus = nr_cpus().map_err(|(_, error)| Self::failed(map)(error))?;
        self.values(map, key, cpus)
    }

    fn tally(&self, map: &'static str, key: u32) -> Result<TrafficCounters, MigrateError> {
        let tallies = self.per_cpu::<L::TrafficCounters>(map, key)?;
        Ok(tallies.iter().map(L::tally).fold(TrafficCounters::default(), |sum, tally| TrafficCounters {
            packets: sum.packets.wrapping_add(tally.packets),
            bytes: sum.bytes.wrapping_add(tally.bytes),
            new_connections: sum.new_connections.wrapping_add(tally.new_connections),
            ..sum
        }))
    }

    fn egress(&self) -> Result<Vec<u32>, MigrateError> {
        let (fd, _) = &self.maps[name::EGRESS];
        sys::keys(fd.as_fd()).map_err(Self::failed(name::EGRESS))
    }
}

impl<L: Layout> Old for Source<L> {
    fn content(&self) -> Result<Content, MigrateError> {
        let mut services = Vec::new();
        for number in 0..self.entries(name::SERVICES) {
            let record = L::service(&self.value(name::SERVICES, number)?);
            let meta = L::meta(&self.value(name::SVC_META, number)?);
            if record != Service::default() || meta.flags != 0 {
                services.push((number, record, meta));
            }
        }
        let mut backends = Vec::new();
        for number in 1..self.entries(name::BACKENDS) {
            let record = L::backend(&self.value(name::BACKENDS, number)?);
            let meta = L::meta(&self.value(name::BK_META, number)?);
            if record != Backend::default() || meta != NameRecord::FREE {
                backends.push((number, record, meta));
            }
        }
        let content = Content {
            flows: self.flows.count()?,
            node: L::node(&self.value(name::NODE, 0)?),
            services,
            backends,
            egress: self.egress()?,
            arena: self.entries(name::RING),
        };
        if let Some(ring) = content.ring_beyond_arena() {
            let what =
                format!("a ring of {} slots at {} reaches beyond the arena", ring.length(), ring.offset());
            return Err(MigrateError::Damaged { map: name::SERVICES, what });
        }
        Ok(content)
    }

    fn limits(&self) -> Limits {
        Limits {
            services: self.entries(name::SERVICES),
            backends: self.entries(name::BACKENDS).saturating_sub(1),
            slots: self.entries(name::RING),
            flows: match L::FLOWS {
                FlowMaps::Hashes(_) => self.entries(name::FLOWS).saturating_add(self.entries(PENDING)),
                FlowMaps::Table => room_of(self.entries(name::FLOWS)),
            },
            pending_flows: None,
        }
    }

    fn slot(&self, at: u32) -> Slot {
        self.ring.word(at as usize).map_or(Slot::EMPTY, L::slot)
    }

    fn flows(&self) -> &OldFlows {
        &self.flows
    }

    fn counts_services(&self) -> bool {
        L::COUNTS_SERVICES
    }

    fn service_tally(&self, number: u32) -> Result<TrafficCounters, MigrateError> {
        self.tally(name::SVC_TALLY, number)
    }

    fn backend_tally(&self, number: u32) -> Result<TrafficCounters, MigrateError> {
        self.tally(name::BK_TALLY, number)
    }

    fn counters(&self) -> Result<Vec<(Counter, u64)>, MigrateError> {
        let entries = self.entries(name::COUNTERS);
        let mut all = Vec::new();
        for counter in Counter::ALL {
            // An older map has fewer counters, and no room for those of a map before it.
            let places = [*counter as u32, counter.carried()].into_iter().filter(|place| *place < entries);
            let mut sum = 0u64;
            for place in places {
                let values = self.per_cpu::<u64>(name::COUNTERS, place)?;
                sum = values.into_iter().fold(sum, u64::wrapping_add);
            }
            all.push((*counter, sum));
        }
        Ok(all)
    }
}
