//! The kernel half as the agent holds it: loads the object, makes or adopts its maps, attaches its program. The content of
//! the maps is written through [`super::Tables`], in `tables`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as Named},
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{Xdp, links::FdLink},
};
use lb_common::{
    ABI_VERSION, Address,
    backend::Backend,
    flow::{Key, Record},
    known,
    map::{FlowTableStats, NameRecord, Node, TrafficCounters, name},
    owner::words_for,
    service::{Bucket, Service},
    service_cache::{self, Entry, loaded_shift},
};
use nix::{fcntl::Flock, net::if_::if_nametoindex};

use super::{
    Sizes, Tables as _,
    found::{Found, found, shapes},
    layout::{self, Mismatch, PINNED, Shape},
    link::{self, AttachError, Attached, Purpose},
    log,
    losses::Losses,
    mapped::Mapped,
    migrate::{self, MigrateError},
    owner::{self, OtherNamespace, Owner, OwnerError},
    owners::Owners,
    pin::{PinDirectory, PinError},
    privileges, release,
    slots::Slots,
    sys,
};
use crate::{
    config::spec::{AttachMode, Limits},
    fault::{self, Kind},
    object::OBJECT,
};

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The instance's pin directory, for example `/sys/fs/bpf/lb/main`.
    pub pins: PathBuf,
    /// Sizes of the maps. Running maps of other sizes are replaced, if their content fits.
    pub limits: Limits,
    /// Level of the program's own log; `None` = level 0, and the verifier removes the logging code.
    pub bpf_log: Option<::log::Level>,
}

/// How the data path was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The maps of an earlier agent stay in use.
    pub adopted: bool,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Why it could not be opened. Running maps and programs are as they were.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error(
        "{0}; give this agent another --instance, or, if that one is not wanted any more, take it off with \
         `lbd --detach --force`"
    )]
    OtherNamespace(OtherNamespace),
    #[error(
        "the maps pinned in {pins} are of ABI version {found}, this agent speaks version {ABI_VERSION}: not adopted \
         (it can take over {}); run the agent they belong to or a younger one, or take them off with `lbd --detach` \
         (established flows may move then)",
        migrate::versions()
    )]
    Version { pins: PathBuf, found: u32 },
    #[error(
        "the maps pinned in {pins} are of ABI version {found}, this agent speaks version {ABI_VERSION}, and taking them \
         over failed: {source}; run the agent they belong to, or take them off with `lbd --detach` (established flows \
         may move then)"
    )]
    Migrate { pins: PathBuf, found: u32, source: MigrateError },
    #[error(
        "the maps pinned in {pins} are not laid out as this agent reads them: {}; \
         run the agent they belong to, or take them off with `lbd --detach` (established flows may move then)",
        list(.mismatches)
    )]
    Layout { pins: PathBuf, mismatches: Vec<Mismatch> },
    #[error(
        "{pins}: maps are missing ({}) although a program is attached; take it off with `lbd --detach` and start again",
        .missing.join(", ")
    )]
    Incomplete { pins: PathBuf, missing: Vec<&'static str> },
    #[error("loading the programs: {0}")]
    Load(String),
    #[error("map {map}: {source}")]
    Map { map: &'static str, source: MapError },
    #[error("map {map}: {source}")]
    Memory { map: &'static str, source: io::Error },
}

fn list(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The loaded data path. Dropping it leaves everything in place: programs stay attached and maps pinned.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) pins: PinDirectory,
    pub(super) sizes: Sizes,
    /// Bytes that the kernel accounts for each map. It allocates every map in full when it makes the map.
    memory: Vec<(&'static str, u64)>,
    pub(super) hz: u64,
    pub(super) node: Mapped,
    pub(super) index: Mapped,
    pub(super) service_cache: Mapped,
    pub(super) known: Mapped,
    pub(super) services: Mapped,
    pub(super) slots: Slots,
    pub(super) backends: Mapped,
    pub(super) live: Mapped,
    pub(super) flows: HashMap<MapData, Key, Record>,
    pub(super) pending: HashMap<MapData, Key, Record>,
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) service_tallies: PerCpuArray<MapData, TrafficCounters>,
    pub(super) backend_tallies: PerCpuArray<MapData, TrafficCounters>,
    /// The service that each backend's traffic belongs to.
    pub(super) owners: Owners,
    pub(super) turnover: PerCpuArray<MapData, FlowTableStats>,
    pub(super) hosts: HashMap<MapData, Address, u32>,
    pub(super) ingress: HashMap<MapData, u32, u32>,
    pub(super) egress: DevMapHash<MapData>,
    pub(super) service_metas: Array<MapData, NameRecord>,
    pub(super) backend_metas: Array<MapData, NameRecord>,
    pub(super) clock: Array<MapData, u64>,
    /// The pinned maps, by name. They are held open, so that they can be pinned again.
    pub(super) pinned: Vec<(&'static str, MapData)>,
    /// The lock of the pin directory, where the directory had to be made again.
    pub(super) relocked: Option<Flock<fs::File>>,
    /// By interface name.
    pub(super) links: Named<String, FdLink>,
    /// Interfaces where `--force` may take another program of ours off, once each.
    taking_over: BTreeSet<String>,
    /// The packets that are lost after the program has sent them; `None` = they are not counted.
    pub(super) losses: Option<Losses>,
}

impl Kernel {
    /// First checks whose pins these are, see [`super::owner`]: pins that another network namespace uses are refused
    /// before a map is opened.
    ///
    /// Adopts the pinned maps, carries them over into new maps where they are of another version or of other sizes (see
    /// [`super::migrate`]), or makes new maps, and loads the programs. Attaches nothing that was not attached.
    ///
    /// New maps are not valid before `NODE.abi_version` is written, which the first plan does last. An agent that dies before
    /// that leaves incomplete pins, and the next agent removes them.
    pub fn open(options: &Options) -> Result<(Self, Opened), OpenError> {
        privileges::raise_locked_memory();
        let pins = PinDirectory::new(&options.pins);
        pins.create()?;
        let mut opened = Opened::default();
        match owner::look(&pins)? {
            Owner::Us => {}
            Owner::Left(namespace) => opened.warnings.push(format!(
                "{}: taken over from another network namespace ({namespace}), where nothing is attached any more",
                pins.path().display()
            )),
            Owner::Other(other) => return Err(OpenError::OtherNamespace(other)),
        }
        pins.record()?;
        migrate::resume(options, &pins)?;
        let running = match found(&pins, &mut opened.warnings)? {
            Found::Nothing => return Ok((Self::make(&pins, &options.limits, options.bpf_log)?, opened)),
            Found::Ours(running) => running,
            Found::Other { version, shapes } => {
                let Some((kernel, warnings)) = migrate::migrate(options, &pins, version, &shapes)? else {
                    return Err(OpenError::Version { pins: options.pins.clone(), found: version });
                };
                opened.warnings.extend(warnings);
                return Ok((kernel, Opened { adopted: true, ..opened }));
            }
        };
        opened.adopted = true;
        if layout::other_limits(&running, &options.limits, "").is_empty() {
            return Ok((Self::adopt(&pins, options.bpf_log)?, opened));
        }
        let why = match migrate::migrate(options, &pins, ABI_VERSION, &shapes(&pins)?) {
            Ok(Some((kernel, warnings))) => {
                opened.warnings.extend(warnings);
                return Ok((kernel, opened));
            }
            Ok(None) => return Err(OpenError::Version { pins: options.pins.clone(), found: ABI_VERSION }),
            Err(OpenError::Migrate { source, .. }) => source.to_string(),
            Err(error) => error.to_string(),
        };
        // The migration may have failed after it had swapped the program in some links: finish it, or discard the new maps.
        migrate::resume(options, &pins)?;
        let kernel = Self::adopt(&pins, options.bpf_log)?;
        opened.warnings.extend(layout::other_limits(&kernel.sizes, &options.limits, &why));
        Ok((kernel, opened))
    }

    /// New maps, pinned in `pins`, and the programs over them.
    pub(super) fn make(
        pins: &PinDirectory,
        limits: &Limits,
        bpf_log: Option<::log::Level>,
    ) -> Result<Self, OpenError> {
        let sizes = |loader: &mut EbpfLoader<'_>| {
            for (name, entries) in layout::entries(limits) {
                loader.map_max_entries(name, entries);
            }
        };
        let ebpf = load(sizes, service_cache::entries_for(limits.services), bpf_log)?;
        // Pin `NODE` first: a directory without `NODE` was not made by this code.
        for name in PINNED {
            let map =
                ebpf.map(name).ok_or_else(|| OpenError::Load(format!("the object has no map {name}")))?;
            let path = pins.map(name);
            let failed = |source| PinError::Io { path: path.clone(), action: "pinning", source };
            fault::point(Kind::Pin).map_err(failed)?;
            map.pin(&path).map_err(|error| failed(io::Error::other(chain(&error))))?;
        }
        Self::finish(ebpf, pins, bpf_log)
    }

    /// The programs over the maps that are pinned in `pins`, which must be ours.
    pub(super) fn adopt(pins: &PinDirectory, bpf_log: Option<::log::Level>) -> Result<Self, OpenError> {
        let shapes = shapes(pins)?;
        let service_cache = shapes.get(name::SVC_FRONT).map_or(0, |shape| shape.entries);
        let sizes = |loader: &mut EbpfLoader<'_>| {
            for (name, shape) in shapes {
                loader.map_max_entries(name, shape.entries);
                loader.map_pin_path(name, pins.map(name));
            }
        };
        let ebpf = load(sizes, service_cache, bpf_log)?;
        let kernel = Self::finish(ebpf, pins, bpf_log)?;
        kernel.slots.derive().map_err(|error| OpenError::Memory {
            map: name::SLOT_OWNERS,
            source: io::Error::other(error.to_string()),
        })?;
        Ok(kernel)
    }

    fn finish(mut ebpf: Ebpf, pins: &PinDirectory, bpf_log: Option<::log::Level>) -> Result<Self, OpenError> {
        for name in ["lb_xdp", "lb_clock"] {
            let program = program(&mut ebpf, name)?;
            program.load().map_err(|error| OpenError::Load(release::refused_program(name, &error)))?;
        }
        if bpf_log.is_some() {
            log::forward(&mut ebpf)
                .map_err(|error| OpenError::Load(format!("the program's log: {error}")))?;
        }
        Self::take(ebpf, pins.clone())
    }

    /// Tells this kernel half that its pins were moved.
    pub(super) fn moved_to(&mut self, pins: PinDirectory) {
        self.pins = pins;
    }

    fn take(mut ebpf: Ebpf, pins: PinDirectory) -> Result<Self, OpenError> {
        let mut entries = BTreeMap::new();
        let (mut memory, mut pinned) = (Vec::new(), Vec::new());
        for name in PINNED {
            let map =
                MapData::from_pin(pins.map(name)).map_err(|source| OpenError::Map { map: name, source })?;
            let info = map.info().map_err(|source| OpenError::Map { map: name, source })?;
            entries.insert(name, Shape::of(&info));
            memory.push((name, accounted(&map)));
            pinned.push((name, map));
        }
        let declared = layout::declared(OBJECT).map_err(|error| OpenError::Load(error.to_string()))?;
        let sizes = layout::check(&entries, &declared)
            .map_err(|mismatches| OpenError::Layout { pins: pins.path().into(), mismatches })?;
        let mut mapped = |map: &'static str, words: u64| mapped(&mut ebpf, map, words);
        let words = |record: usize| (record / size_of::<u64>()) as u64;
        let node = mapped(name::NODE, words(size_of::<Node>()))?;
        let index = mapped(name::SVC_INDEX, u64::from(sizes.buckets) * Bucket::WORDS as u64)?;
        let service_cache =
            mapped(name::SVC_FRONT, u64::from(sizes.service_cache) * words(size_of::<Entry>()))?;
        let known = mapped(name::KNOWN, known::WORDS.into())?;
        let services = mapped(name::SERVICES, u64::from(sizes.services) * words(size_of::<Service>()))?;
        let slots = mapped(name::RING, sizes.slots.into())?;
        let slots = Slots::new(slots, mapped(name::SLOT_OWNERS, words_for(sizes.slots).into())?);
        let backends = mapped(name::BACKENDS, (u64::from(sizes.backends) + 1) * words(size_of::<Backend>()))?;
        let live = mapped(name::LIVE, u64::from(sizes.backends) + 1)?;
        let mut kernel = Self {
            pins,
            sizes,
            owners: Owners::default(),
            memory,
            hz: sys::jiffies_per_second().map_err(|source| OpenError::Memory { map: name::CLOCK, source })?,
            node,
            index,
            service_cache,
            known,
            services,
            slots,
            backends,
            live,
            flows: typed(&mut ebpf, name::FLOWS)?,
            pending: typed(&mut ebpf, name::PENDING)?,
            counters: typed(&mut ebpf, name::COUNTERS)?,
            service_tallies: typed(&mut ebpf, name::SVC_TALLY)?,
            backend_tallies: typed(&mut ebpf, name::BK_TALLY)?,
            turnover: typed(&mut ebpf, name::TURNOVER)?,
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
        let metas = kernel.backend_metas().map_err(|error| OpenError::Memory {
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
        if pin.exists() { super::pin::remove_link(&pin) } else { Ok(()) }
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
    pub fn program(&mut self) -> Result<&mut Xdp, OpenError> {
        program(&mut self.ebpf, "lb_xdp")
    }
}

/// Takes the program off all interfaces and removes all pins of an instance, whether or not its agent runs. Returns the
/// numbers of links and maps that there were; zero is not an error.
pub fn detach(pins: &Path) -> Result<(usize, usize), PinError> {
    PinDirectory::new(pins).remove()
}

/// Loads the object after `sizes` has set the sizes of its maps and the paths of their pins. `service_cache` is the size of
/// `SVC_FRONT`, which the programs must know as a shift.
fn load(
    sizes: impl FnOnce(&mut EbpfLoader<'_>),
    service_cache: u32,
    bpf_log: Option<::log::Level>,
) -> Result<Ebpf, OpenError> {
    let level = bpf_log.map_or(0, |level| level as u8);
    let shift = loaded_shift(service_cache, bpf_log.is_some_and(|level| level >= ::log::Level::Debug));
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    loader.override_global(service_cache::SHIFT, &shift, true);
    sizes(&mut loader);
    loader.load(OBJECT).map_err(|error| OpenError::Load(release::refused(&chain(&error))))
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, OpenError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| OpenError::Load(format!("the object has no program {name}")))?;
    program.try_into().map_err(|_| OpenError::Load(format!("{name} is not an XDP program")))
}

/// Takes a map out of the loaded object, as the type under which it is used.
pub(super) fn typed<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<T, OpenError> {
    let found = ebpf.take_map(map).ok_or_else(|| OpenError::Load(format!("the object has no map {map}")))?;
    T::try_from(found).map_err(|source| OpenError::Map { map, source })
}

fn mapped(ebpf: &mut Ebpf, map: &'static str, words: u64) -> Result<Mapped, OpenError> {
    let missing = || OpenError::Load(format!("the object has no array {map}"));
    let Some(Map::Array(data)) = ebpf.take_map(map) else { return Err(missing()) };
    let words = usize::try_from(words).map_err(|_| missing())?;
    Mapped::new(data.fd(), words).map_err(|source| OpenError::Memory { map, source })
}

/// Bytes that the kernel accounts for a map (`memlock` in fdinfo); 0 where the kernel does not report them.
fn accounted(map: &MapData) -> u64 {
    let fd = map.fd().as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}
