//! The kernel half as the agent holds it: loads the object, makes or adopts its maps, attaches its program. The content of
//! the maps is written through [`crate::tables::Tables`], in `maps`.

pub mod egress;
mod hash_maps;
pub(crate) mod import;
pub mod losses;
mod map_io;
mod maps;
pub mod mend;
mod slots;
#[cfg(test)]
mod tests;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as Named},
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMapHash, HashMap, Map, MapData, PerCpuArray},
    programs::{Xdp, links::FdLink},
};
use lb_common::{
    Address,
    backend::Backend,
    elsewhere,
    flow_table::{Bucket as FlowBucket, buckets_for},
    known,
    map::{NameRecord, Node, TrafficCounters, name},
    owner::words_for,
    service::{Bucket, Service},
    service_cache::{self, Entry},
};
use nix::{fcntl::Flock, net::if_::if_nametoindex};

use self::{losses::Losses, slots::Slots, traffic::Owners};
use crate::{
    bpf::{
        kernel_version,
        link::{self, AttachError, Attached, Purpose},
        loader::{Globals, LoadError, chain, load, program, shapes, typed},
        log,
        map_shapes::{self, PINNED, Shape},
        mmap_array::Mapped,
        object::OBJECT,
        pin::{PinDirectory, PinError, remove_link},
        sys,
    },
    config::spec::{AttachMode, Limits},
    fault::{self, Kind},
    tables::{FlowTable, Sizes, TableError, Tables as _},
};

/// The loaded data path. Dropping it leaves everything in place: programs stay attached and maps pinned.
pub struct Kernel {
    ebpf: Ebpf,
    pins: PinDirectory,
    sizes: Sizes,
    /// Bytes that the kernel accounts for each map. It allocates every map in full when it makes the map.
    memory: Vec<(&'static str, u64)>,
    hz: u64,
    node: Mapped,
    index: Mapped,
    service_cache: Mapped,
    known: Mapped,
    services: Mapped,
    slots: Slots,
    backends: Mapped,
    live: Mapped,
    flows: FlowTable,
    /// The service of each backend, for packets that come to a full flow table.
    backend_services: Mapped,
    counters: PerCpuArray<MapData, u64>,
    service_tallies: PerCpuArray<MapData, TrafficCounters>,
    backend_tallies: PerCpuArray<MapData, TrafficCounters>,
    /// The service that each backend's traffic belongs to.
    owners: Owners,
    hosts: HashMap<MapData, Address, u32>,
    ingress: HashMap<MapData, u32, u32>,
    egress: DevMapHash<MapData>,
    service_metas: Array<MapData, NameRecord>,
    backend_metas: Array<MapData, NameRecord>,
    clock: Array<MapData, u64>,
    /// The pinned maps, by name. They are held open, so that they can be pinned again.
    pinned: Vec<(&'static str, MapData)>,
    /// The lock of the pin directory, where the directory had to be made again.
    relocked: Option<Flock<fs::File>>,
    /// By interface name.
    links: Named<String, FdLink>,
    /// Interfaces where `--force` may take another program of ours off, once each.
    taking_over: BTreeSet<String>,
    /// The packets that are lost after the program has sent them; `None` = they are not counted.
    losses: Option<Losses>,
}

impl Kernel {
    /// New maps, pinned in `pins`, and the programs over them.
    pub(crate) fn make(
        pins: &PinDirectory,
        limits: &Limits,
        bpf_log: Option<::log::Level>,
    ) -> Result<Self, LoadError> {
        let sizes = |loader: &mut EbpfLoader<'_>| {
            for (name, entries) in map_shapes::entries(limits) {
                loader.map_max_entries(name, entries);
            }
        };
        let globals = Globals {
            service_cache: service_cache::entries_for(limits.services),
            flow_buckets: buckets_for(limits.flows),
        };
        let ebpf = load(sizes, globals, bpf_log)?;
        // Pin `NODE` first: a directory without `NODE` was not made by this code.
        for name in PINNED {
            pin_map(&ebpf, name, pins)?;
        }
        Self::finish(ebpf, pins, &[], bpf_log)
    }

    /// The programs over the maps that are pinned in `pins`, which must be ours.
    pub(crate) fn adopt(pins: &PinDirectory, bpf_log: Option<::log::Level>) -> Result<Self, LoadError> {
        let entries = shapes(pins)?.into_iter().map(|(name, shape)| (name, shape.entries)).collect();
        Self::over(pins, &entries, &[], bpf_log)
    }

    /// The same where the maps `lacking` are not pinned there, or not as this build has them: they are made with `entries`,
    /// which has the sizes of all maps, and pinned in [`PinDirectory::additions`], unless they are pinned there already. They
    /// are empty, except those whose content only this module writes.
    pub(crate) fn over(
        pins: &PinDirectory,
        entries: &BTreeMap<&'static str, u32>,
        lacking: &[&'static str],
        bpf_log: Option<::log::Level>,
    ) -> Result<Self, LoadError> {
        let of = |map| entries.get(map).copied().unwrap_or(0);
        let globals = Globals { service_cache: of(name::SVC_FRONT), flow_buckets: of(name::FLOWS) };
        let added = pins.additions();
        let path = |name: &str| if lacking.contains(&name) { added.map(name) } else { pins.map(name) };
        let absent: Vec<_> = lacking.iter().copied().filter(|name| !path(name).exists()).collect();
        let sizes = |loader: &mut EbpfLoader<'_>| {
            for (name, entries) in entries {
                loader.map_max_entries(name, *entries);
            }
            for name in PINNED.into_iter().filter(|name| !absent.contains(name)) {
                loader.map_pin_path(name, path(name));
            }
        };
        let ebpf = load(sizes, globals, bpf_log)?;
        for name in &absent {
            pin_map(&ebpf, name, &added)?;
        }
        let kernel = Self::finish(ebpf, pins, lacking, bpf_log)?;
        let failed = |map| {
            move |error: TableError| LoadError::Memory { map, source: io::Error::other(error.to_string()) }
        };
        kernel.slots.derive().map_err(failed(name::SLOT_OWNERS))?;
        kernel.derive_backend_services().map_err(failed(name::BK_SERVICE))?;
        Ok(kernel)
    }

    fn finish(
        mut ebpf: Ebpf,
        pins: &PinDirectory,
        lacking: &[&str],
        bpf_log: Option<::log::Level>,
    ) -> Result<Self, LoadError> {
        for name in ["lb_xdp", "lb_clock"] {
            let program = program(&mut ebpf, name)?;
            program.load().map_err(|error| LoadError::Load(kernel_version::refused_program(name, &error)))?;
        }
        if bpf_log.is_some() {
            log::forward(&mut ebpf)
                .map_err(|error| LoadError::Load(format!("the program's log: {error}")))?;
        }
        Self::take(ebpf, pins.clone(), lacking)
    }

    /// Tells this kernel half that its pins were moved.
    pub(crate) fn moved_to(&mut self, pins: PinDirectory) {
        self.pins = pins;
    }

    fn take(mut ebpf: Ebpf, pins: PinDirectory, lacking: &[&str]) -> Result<Self, LoadError> {
        let mut entries = BTreeMap::new();
        let (mut memory, mut pinned) = (Vec::new(), Vec::new());
        for name in PINNED {
            let path = if lacking.contains(&name) { pins.additions().map(name) } else { pins.map(name) };
            let map = MapData::from_pin(path).map_err(|source| LoadError::Map { map: name, source })?;
            let info = map.info().map_err(|source| LoadError::Map { map: name, source })?;
            entries.insert(name, Shape::of(&info));
            memory.push((name, accounted(&map)));
            pinned.push((name, map));
        }
        let declared = map_shapes::declared(OBJECT).map_err(|error| LoadError::Load(error.to_string()))?;
        let sizes = map_shapes::check(&entries, &declared)
            .map_err(|mismatches| LoadError::Layout { pins: pins.path().into(), mismatches })?;
        let mut mapped = |map: &'static str, words: u64| mapped(&mut ebpf, map, words);
        let words = |record: usize| (record / size_of::<u64>()) as u64;
        let node = mapped(name::NODE, words(size_of::<Node>()))?;
        let index = mapped(name::SVC_INDEX, u64::from(sizes.buckets) * Bucket::WORDS as u64)?;
        let service_cache =
            mapped(name::SVC_FRONT, u64::from(sizes.service_cache) * words(size_of::<Entry>()))?;
        let known = mapped(name::KNOWN, known::WORDS.into())?;
        let services = mapped(name::SERVICES, u64::from(sizes.services) * words(size_of::<Service>()))?;
        let slots = mapped(name::RING, sizes.slots.into())?;
        let clocks = mapped(name::SLOT_ELSEWHERE, elsewhere::entries_for(sizes.slots).into())?;
        let slots = Slots::new(slots, mapped(name::SLOT_OWNERS, words_for(sizes.slots).into())?, clocks);
        let backends = mapped(name::BACKENDS, (u64::from(sizes.backends) + 1) * words(size_of::<Backend>()))?;
        let live = mapped(name::LIVE, u64::from(sizes.backends) + 1)?;
        let backend_services = mapped(name::BK_SERVICE, u64::from(sizes.backends) + 1)?;
        let buckets = u64::from(buckets_for(sizes.flows));
        let flows = mapped(name::FLOWS, buckets * words(size_of::<FlowBucket>()))?;
        let mut kernel = Self {
            pins,
            sizes,
            owners: Owners::default(),
            memory,
            hz: sys::jiffies_per_second().map_err(|source| LoadError::Memory { map: name::CLOCK, source })?,
            node,
            index,
            service_cache,
            known,
            services,
            slots,
            backends,
            live,
            flows: FlowTable::new(Arc::new(flows)),
            backend_services,
            counters: typed(&mut ebpf, name::COUNTERS)?,
            service_tallies: typed(&mut ebpf, name::SVC_TALLY)?,
            backend_tallies: typed(&mut ebpf, name::BK_TALLY)?,
            hosts: typed(&mut ebpf, name::HOST)?,
            ingress: typed(&mut ebpf, name::INGRESS)?,
            egress: typed(&mut ebpf, name::EGRESS)?,
            service_metas: typed(&mut ebpf, name::SVC_META)?,
            backend_metas: typed(&mut ebpf, name::BK_META)?,
            clock: typed(&mut ebpf, name::CLOCK)?,
            pinned,
            relocked: None,
            links: Named::new(),
            taking_over: BTreeSet::new(),
            losses: None,
            ebpf,
        };
        let metas = kernel.backend_metas().map_err(|error| LoadError::Memory {
            map: name::BK_META,
            source: io::Error::other(error.to_string()),
        })?;
        kernel.owners = Owners::of(&metas);
        Ok(kernel)
    }

    /// Attaches the program to an interface, or replaces the program of an earlier agent in place. It may be called
    /// repeatedly: an interface that was gone gets a new link.
    pub fn attach(&mut self, interface: &str, mode: AttachMode) -> Result<Attached, AttachError> {
        let pin = self.pins.link(interface);
        self.promote_pass(interface)?;
        let program =
            program(&mut self.ebpf, "lb_xdp").map_err(|error| AttachError::Other(error.to_string()))?;
        let purpose = Purpose::Balancer { force: self.taking_over.contains(interface) };
        let (attached, link) = link::attach(program, interface, mode, &pin, purpose)?;
        self.taking_over.remove(interface);
        self.links.insert(interface.to_owned(), link);
        Ok(attached)
    }

    /// From now on this program replaces another program of ours on these interfaces, but only at the first attachment to each:
    /// otherwise two agents would take the interface from each other in turns.
    pub fn take_over(&mut self, interfaces: impl IntoIterator<Item = String>) {
        self.taking_over.extend(interfaces);
    }

    /// Takes the program off an interface; not an error when it is not there.
    pub fn detach(&mut self, interface: &str) -> Result<(), PinError> {
        let pin = self.pins.link(interface);
        self.links.remove(interface);
        if pin.exists() { remove_link(&pin) } else { Ok(()) }
    }

    /// Whether the program that we attached to an interface is still there. Also true where the interface is gone, which the
    /// watcher reports, and where the pin is gone, which [`Kernel::mend_pins`] repairs.
    pub fn is_attached(&self, interface: &str) -> bool {
        match link::pinned(&self.pins.link(interface)) {
            Ok(Some(info)) => info.interface != 0 || if_nametoindex(interface).is_err(),
            Ok(None) | Err(_) => true,
        }
    }

    /// Interfaces with a link of this instance, with the interface number that the kernel reports for the link; 0 when the
    /// interface is gone.
    pub fn attached(&self) -> Vec<(String, u32)> {
        let index = |interface: &String| match link::pinned(&self.pins.link(interface)) {
            Ok(Some(info)) => info.interface,
            Ok(None) | Err(_) => 0,
        };
        let mut all: Vec<_> =
            self.links.keys().map(|interface| (interface.clone(), index(interface))).collect();
        all.sort();
        all
    }

    /// Bytes that the kernel accounts for each map.
    pub fn memory(&self) -> &[(&'static str, u64)] {
        &self.memory
    }

    /// The loaded `lb_xdp`, for test runs.
    pub fn program(&mut self) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, "lb_xdp")
    }
}

/// Takes the program off all interfaces and removes all pins of an instance, whether or not its agent runs. Returns the
/// numbers of links and maps that there were; zero is not an error.
pub fn detach(pins: &Path) -> Result<(usize, usize), PinError> {
    PinDirectory::new(pins).remove()
}

fn pin_map(ebpf: &Ebpf, name: &str, pins: &PinDirectory) -> Result<(), LoadError> {
    let map = ebpf.map(name).ok_or_else(|| LoadError::Load(format!("the object has no map {name}")))?;
    let path = pins.map(name);
    let failed = |source| PinError::Io { path: path.clone(), action: "pinning", source };
    fault::point(Kind::Pin).map_err(failed)?;
    map.pin(&path).map_err(|error| failed(io::Error::other(chain(&error))))?;
    Ok(())
}

fn mapped(ebpf: &mut Ebpf, map: &'static str, words: u64) -> Result<Mapped, LoadError> {
    let missing = || LoadError::Load(format!("the object has no array {map}"));
    let Some(Map::Array(data)) = ebpf.take_map(map) else { return Err(missing()) };
    let words = usize::try_from(words).map_err(|_| missing())?;
    Mapped::new(data.fd(), words).map_err(|source| LoadError::Memory { map, source })
}

/// Bytes that the kernel accounts for a map (`memlock` in fdinfo); 0 where the kernel does not report them.
fn accounted(map: &MapData) -> u64 {
    let fd = map.fd().as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
