//! Counts the packets that are lost after `lb_xdp` has sent them: small programs at the kernel's tracepoints. They are pinned
//! like everything else, so that they count without an agent, too. Where they cannot be attached, the agent notes that and
//! forwards all the same.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{ProgramInfo, RawTracePoint, links::FdLink, loaded_programs},
};
use lb_common::{
    loss::{Loss, Offsets},
    map::name,
};

use super::Kernel;
use crate::{
    bpf::{
        btf::{BtfError, Types},
        kernel_version,
        loader::{LoadError, chain, typed},
        map_shapes::{self, Shape},
        minimal_load,
        object::OBJECT,
        pin::{PinDirectory, PinError, remove_link},
        sys,
    },
    fault::{self, Kind},
};

/// The programs, each with its tracepoint.
const PROGRAMS: [(&str, &str); 4] = [
    ("lb_lost_bundle", "xdp_devmap_xmit"),
    ("lb_lost_refused", "xdp_redirect_err"),
    ("lb_lost_driver", "xdp_exception"),
    ("lb_lost_back", "xdp_bulk_tx"),
];

/// `XDP_MODE_DRV` of `enum bpf_xdp_mode`.
const NATIVE: u32 = 1;

/// Why losses are not counted.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    #[error(transparent)]
    Types(#[from] BtfError),
    #[error("our network namespace: {0}")]
    Namespace(io::Error),
    #[error(transparent)]
    Open(#[from] LoadError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("tracepoint {tracepoint}: {why}")]
    Tracepoint { tracepoint: &'static str, why: String },
}

/// The counted losses.
pub struct Losses {
    frames: HashMap<MapData, Loss, u64>,
}

impl Losses {
    /// The number of lost frames, by interface and error.
    pub fn read(&self) -> io::Result<BTreeMap<Loss, u64>> {
        self.frames.iter().collect::<Result<_, _>>().map_err(io::Error::other)
    }
}

impl Kernel {
    /// Counts the losses of our program from now on. Counting programs of an earlier agent stay, if they are the same.
    pub fn count_losses(&mut self) -> Result<(), LossError> {
        let program = self.program()?.info().map_err(|error| LoadError::Load(error.to_string()))?.id();
        let losses = open(&self.pins, program)?;
        self.losses = Some(losses);
        Ok(())
    }

    /// `None` = losses are not counted.
    pub fn losses(&self) -> Option<&Losses> {
        self.losses.as_ref()
    }
}

fn open(pins: &PinDirectory, program: u32) -> Result<Losses, LossError> {
    let offsets = offsets(&Types::of_kernel()?)?;
    let maps = [name::LOSSES, name::LOSS_PROGRAMS];
    clear_others(pins, maps)?;
    let pinned = maps.map(|map| (map, pins.map(map)));
    for (_, path) in pinned.iter().filter(|(_, path)| !path.exists()) {
        fault::point(Kind::Pin).map_err(failed(path, "pinning"))?;
    }
    let mut ebpf = minimal_load::load_with(&pinned, &[], Some(&offsets))?;
    let frames = typed(&mut ebpf, name::LOSSES)?;
    let mut programs: HashMap<MapData, u32, u32> = typed(&mut ebpf, name::LOSS_PROGRAMS)?;
    let entry = |error: &dyn std::error::Error| LoadError::Load(format!("{}: {error}", name::LOSS_PROGRAMS));
    let alive: Vec<u32> = loaded_programs().filter_map(Result::ok).map(|program| program.id()).collect();
    let gone: Vec<u32> = programs.keys().filter_map(Result::ok).filter(|id| !alive.contains(id)).collect();
    for id in gone {
        fault::point(Kind::Map).map_err(|error| entry(&error))?;
        let _ = programs.remove(&id);
    }
    fault::point(Kind::Map).map_err(|error| entry(&error))?;
    programs.insert(program, 1, 0).map_err(|error| entry(&error))?;
    let mut refused = Ok(());
    for (program, tracepoint) in PROGRAMS {
        // A tracepoint that is missing must not keep the other programs from counting.
        if let Err(why) = attach(&mut ebpf, pins, program, tracepoint) {
            refused = Err(LossError::Tracepoint { tracepoint, why });
        }
    }
    refused.map(|()| Losses { frames })
}

/// Attaches one program, unless the same program is there already.
fn attach(ebpf: &mut Ebpf, pins: &PinDirectory, name: &str, tracepoint: &'static str) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| chain(error);
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    let program: &mut RawTracePoint = program.try_into().map_err(|error| text(&error))?;
    program.load().map_err(|error| kernel_version::refused_program(name, &error))?;
    let tag = program.info().map_err(|error| text(&error))?.tag();
    let pin = pins.loss(tracepoint);
    if pin.exists() {
        if tag_in(&pin) == Some(tag) {
            return Ok(());
        }
        remove_link(&pin).map_err(|error| text(&error))?;
    }
    fault::point(Kind::Link).map_err(|error| text(&error))?;
    let id = program.attach(tracepoint).map_err(|error| text(&error))?;
    let link = program.take_link(id).map_err(|error| text(&error))?;
    let link = FdLink::from(link);
    fault::point(Kind::Pin).map_err(|error| text(&error))?;
    link.pin(&pin).map(drop).map_err(|error| text(&error))
}

/// The tag (a hash of the instructions) of the program in a pinned link.
fn tag_in(pin: &Path) -> Option<u64> {
    let link = sys::open_pin(pin).ok()?;
    let id = sys::program_in_link(link.as_fd()).ok()?;
    let same = |program: &ProgramInfo| program.id() == id;
    loaded_programs().filter_map(Result::ok).find(same).map(|program| program.tag())
}

/// Removes programs and counts that another version of this software pinned in another layout: the counts begin at 0 again.
fn clear_others(pins: &PinDirectory, maps: [&'static str; 2]) -> Result<(), LossError> {
    let declared = map_shapes::declared(OBJECT).map_err(|error| LoadError::Load(error.to_string()))?;
    let fits = |map: &'static str| -> Result<bool, LoadError> {
        let path = pins.map(map);
        if !path.exists() {
            return Ok(true);
        }
        let unread = |source| LoadError::Map { map, source };
        let found = MapData::from_pin(path).map_err(unread)?.info().map_err(unread)?;
        Ok(declared.get(map) == Some(&Shape::of(&found)))
    };
    if maps.into_iter().map(fits).collect::<Result<Vec<_>, _>>()?.contains(&false) {
        log::info!("{}: losses are counted from 0 again, in another layout", pins.path().display());
        pins.remove_losses()?;
    }
    Ok(())
}

fn offsets(types: &Types) -> Result<Offsets, LossError> {
    let native = types.offset("net_device", "xdp_state")? + NATIVE * types.size("bpf_xdp_entity")?;
    let metadata = fs::metadata("/proc/thread-self/ns/net").map_err(LossError::Namespace)?;
    Ok(Offsets {
        device_number: types.offset("net_device", "ifindex")?,
        device_namespace: types.offset("net_device", "nd_net")?,
        device_program: native + types.offset("bpf_xdp_entity", "prog")?,
        device_link: native + types.offset("bpf_xdp_entity", "link")?,
        link_program: types.offset("bpf_xdp_link", "link")? + types.offset("bpf_link", "prog")?,
        program_more: types.offset("bpf_prog", "aux")?,
        more_id: types.offset("bpf_prog_aux", "id")?,
        namespace_inode: types.offset("net", "ns")? + types.offset("ns_common", "inum")?,
        our_namespace: metadata.ino() as u32,
        target_argument: kernel_version::redirect_target_argument(kernel_version::running()),
    })
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> LossError {
    let path = path.to_owned();
    move |source| PinError::Io { path, action, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_says_where_everything_lies() {
        let types = match Types::of_kernel() {
            Err(BtfError::None(why)) => return eprintln!("skipped: no description of types ({why})"),
            types => types.unwrap(),
        };
        let offsets = offsets(&types).unwrap();
        assert!(
            offsets.device_program < offsets.device_link
                && offsets.device_link < types.size("net_device").unwrap()
        );
        assert!(offsets.more_id < types.size("bpf_prog_aux").unwrap());
        assert_ne!(offsets.our_namespace, 0);
    }
}
