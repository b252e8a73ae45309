//! Loading the object for one of its smaller programs: the balancer's maps are made as small as the kernel lets them be,
//! and go with the load.

use std::path::PathBuf;

use aya::{Ebpf, EbpfLoader, programs::Xdp};
use lb_common::loss::{OFFSETS, Offsets};

use super::{
    kernel::{self, OpenError, chain},
    layout, release,
};
use crate::{config::spec::Limits, object::OBJECT};

/// Nothing is kept in these.
const LEAST: Limits = Limits { services: 1, backends: 1, slots: 1, flows: 1, pending_flows: 1 };

/// Loads the object; the maps in `pinned` lie at their paths, or are pinned there. `sizes` gives entries of maps.
pub(super) fn load(
    pinned: &[(&'static str, PathBuf)],
    sizes: &[(&'static str, u32)],
) -> Result<Ebpf, OpenError> {
    load_with(pinned, sizes, None)
}

/// The same for programs that look into the kernel's structures.
pub(super) fn load_with(
    pinned: &[(&'static str, PathBuf)],
    sizes: &[(&'static str, u32)],
    offsets: Option<&Offsets>,
) -> Result<Ebpf, OpenError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &0u8, true);
    for (name, entries) in layout::entries(&LEAST).into_iter().chain(sizes.iter().copied()) {
        loader.map_max_entries(name, entries);
    }
    if let Some(offsets) = offsets {
        loader.override_global(OFFSETS, offsets, true);
    }
    for (name, path) in pinned {
        loader.map_pin_path(name, path);
    }
    loader.load(OBJECT).map_err(|error| OpenError::Load(release::refused(&chain(&error))))
}

/// A program of the object, loaded into the kernel.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, OpenError> {
    let program = kernel::program(ebpf, name)?;
    program.load().map_err(|error| OpenError::Load(release::refused_program(name, &error)))?;
    Ok(program)
}
