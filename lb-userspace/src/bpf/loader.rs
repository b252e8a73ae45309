//! Loads the object, and takes its programs and maps out of it.

use std::{collections::BTreeMap, io, path::PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapError},
    programs::Xdp,
};
use lb_common::{
    flow_table,
    service_cache::{self, loaded_shift},
};

use super::{
    kernel_version,
    map_shapes::{Mismatch, Shape},
    object::OBJECT,
    pin::{PinDirectory, PinError},
};

/// Why the programs and their maps could not be loaded or opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(
        "the maps pinned in {pins} are not laid out as this agent reads them: {}; \
         run the agent they belong to, or take them off with `lbd --detach` (established flows may move then)",
        list(.mismatches)
    )]
    Layout { pins: PathBuf, mismatches: Vec<Mismatch> },
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

/// Sizes of maps that the programs must know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Globals {
    /// Entries of `SVC_FRONT`.
    pub(crate) service_cache: u32,
    /// Buckets of `FLOWS`.
    pub(crate) flow_buckets: u32,
}

/// Loads the object after `sizes` has set the sizes of its maps and the paths of their pins.
pub(crate) fn load(
    sizes: impl FnOnce(&mut EbpfLoader<'_>),
    globals: Globals,
    bpf_log: Option<::log::Level>,
) -> Result<Ebpf, LoadError> {
    let level = bpf_log.map_or(0, |level| level as u8);
    let Globals { service_cache, flow_buckets } = globals;
    let shift = loaded_shift(service_cache, bpf_log.is_some_and(|level| level >= ::log::Level::Debug));
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    loader.override_global(service_cache::SHIFT, &shift, true);
    loader.override_global(flow_table::BUCKETS, &flow_buckets, true);
    sizes(&mut loader);
    loader.load(OBJECT).map_err(|error| LoadError::Load(kernel_version::refused(&chain(&error))))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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

/// A program of the loaded object.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, LoadError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| LoadError::Load(format!("the object has no program {name}")))?;
    program.try_into().map_err(|_| LoadError::Load(format!("{name} is not an XDP program")))
}

/// Takes a map out of the loaded object, as the type under which it is used.
pub(crate) fn typed<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<T, LoadError> {
    let found = ebpf.take_map(map).ok_or_else(|| LoadError::Load(format!("the object has no map {map}")))?;
    T::try_from(found).map_err(|source| LoadError::Map { map, source })
}

/// The shapes of the pinned maps, also of those that only earlier versions pinned.
pub(crate) fn shapes(pins: &PinDirectory) -> Result<BTreeMap<&'static str, Shape>, LoadError> {
    let mut shapes = BTreeMap::new();
    let found = pins.inspect()?;
    for name in found.maps.into_iter().chain(found.former) {
        let failed = |source| LoadError::Map { map: name, source };
        let map = MapData::from_pin(pins.map(name)).map_err(failed)?;
        shapes.insert(name, Shape::of(&map.info().map_err(failed)?));
    }
    Ok(shapes)
}
