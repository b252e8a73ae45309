//! Loads the object for one of its smaller programs: the balancer's maps are then as small as the kernel allows, and disappear
//! with the loaded object.

use std::path::PathBuf;

use aya::{Ebpf, EbpfLoader, programs::Xdp};
use lb_common::loss::{OFFSETS, Offsets};

use super::{
    kernel_version,
    loader::{self, LoadError, chain},
    map_shapes,
    object::OBJECT,
};
use crate::config::spec::Limits;

/// The smallest sizes: these maps stay empty.
const LEAST: Limits = Limits { services: 1, backends: 1, slots: 1, flows: 1, pending_flows: None };

/// Loads the object. The maps in `pinned` are taken from their paths, or are pinned there. `sizes` sets the entries of maps.
pub(crate) fn load(
    pinned: &[(&'static str, PathBuf)],
    sizes: &[(&'static str, u32)],
) -> Result<Ebpf, LoadError> {
    load_with(pinned, sizes, None)
}

/// The same for programs that read the kernel's structures: `offsets` gives the places of the fields.
pub(crate) fn load_with(
    pinned: &[(&'static str, PathBuf)],
    sizes: &[(&'static str, u32)],
    offsets: Option<&Offsets>,
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &0u8, true);
    for (name, entries) in map_shapes::entries(&LEAST).into_iter().chain(sizes.iter().copied()) {
        loader.map_max_entries(name, entries);
    }
    if let Some(offsets) = offsets {
        loader.override_global(OFFSETS, offsets, true);
    }
    for (name, path) in pinned {
        loader.map_pin_path(name, path);
    }
    loader.load(OBJECT).map_err(|error| LoadError::Load(kernel_version::refused(&chain(&error))))
}

/// A program of the object, loaded into the kernel.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, LoadError> {
    let program = loader::program(ebpf, name)?;
    program.load().map_err(|error| LoadError::Load(kernel_version::refused_program(name, &error)))?;
    Ok(program)
}
