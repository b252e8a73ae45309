//! Adds single maps to maps of our version: those that an older build of this version did not have yet, and counters with room
//! for more of them. All other maps stay in use as they are, so no flow, slot or next hop is touched.
//!
//! New maps are made in a directory of their own ([`PinDirectory::additions`]) and filled from the other maps while the old
//! program runs. The program is swapped in each link in one step, then the maps get their places. If an agent is killed in
//! between, the next one begins again:
//!
//! - A map that follows from the others is made once more. No agent keeps it in step until it has its place.
//! - New counters are used again, since a program may count in them already. What the old map has counted is written behind
//!   the entries that packets write, as often as necessary, and the new map replaces the old one last.

use std::{collections::BTreeMap, fs};

use lb_common::{ABI_VERSION, map::name, ring::Ring};

use super::{
    content::Content,
    copy,
    error::{MigrateError, OpenError},
    old,
    source::Old,
    swap,
};
use crate::{
    bpf::{
        loader::shapes,
        map_shapes::{self, Shape},
        pin::{PinDirectory, PinError},
    },
    config::spec::Limits,
    fault::{self, Kind},
    kernel::Kernel,
    tables::Tables as _,
};

/// Running maps of our version with those that were [`map_shapes::lacking`]: the kernel half over all of them.
pub(super) struct Added {
    pub(super) kernel: Kernel,
    lacking: Vec<&'static str>,
}

/// Adds the maps that are lacking, and puts the program into all links.
pub(super) fn add(pins: &PinDirectory, bpf_log: Option<log::Level>) -> Result<Kernel, OpenError> {
    let failed = |source| OpenError::Migrate { pins: pins.path().into(), found: ABI_VERSION, source };
    let shapes = shapes(pins)?;
    let old = old(pins, ABI_VERSION, &shapes)
        .ok_or(OpenError::Version { pins: pins.path().into(), found: ABI_VERSION })?;
    let old = old.map_err(failed)?;
    let content = old.content().map_err(failed)?;
    let links = swap::links(pins).map_err(failed)?;
    let counts = pins.additions().inspect()?.maps.contains(&name::COUNTERS);
    let begun = begin(pins, &shapes, &content, &old.limits(), bpf_log);
    if begun.is_err() && !counts {
        pins.additions().remove()?;
    }
    let mut added = begun?;
    swap::swap(&mut added.kernel, &links).map_err(failed)?;
    let lacking = added.lacking.join(", ");
    let kernel = added.finish(pins, old.as_ref())?;
    log::info!(
        "{}: maps of an older build were completed ({lacking}), all others stay in use",
        pins.path().display()
    );
    Ok(kernel)
}

/// Makes the maps that are lacking, fills them, and loads the program over all maps. No packet uses it yet.
pub(super) fn begin(
    pins: &PinDirectory,
    shapes: &BTreeMap<&'static str, Shape>,
    content: &Content,
    limits: &Limits,
    bpf_log: Option<log::Level>,
) -> Result<Added, OpenError> {
    let lacking = map_shapes::lacking(shapes);
    let additions = pins.additions();
    additions.create()?;
    for map in additions.inspect()?.maps {
        if map != name::COUNTERS {
            remove(&additions, map)?;
        }
    }
    let entries = entries(shapes, limits, content.node.index_mask);
    let mut kernel = Kernel::over(pins, &entries, &lacking, bpf_log)?;
    fill(&mut kernel, &lacking, content).map_err(|source| OpenError::Migrate {
        pins: pins.path().into(),
        found: ABI_VERSION,
        source,
    })?;
    Ok(Added { kernel, lacking })
}

/// The entries of all maps: of those that are there, and what the others must have to agree with them.
fn entries(
    shapes: &BTreeMap<&'static str, Shape>,
    limits: &Limits,
    index_mask: u32,
) -> BTreeMap<&'static str, u32> {
    let mut entries: BTreeMap<_, _> = map_shapes::entries(limits).into();
    // Programs find a bucket of the index by the mask in `NODE`.
    entries.insert(name::SVC_INDEX, index_mask.wrapping_add(1));
    let lacking = map_shapes::lacking(shapes);
    let there = shapes.iter().filter(|(map, _)| !lacking.contains(map));
    entries.extend(there.map(|(map, shape)| (*map, shape.entries)));
    entries
}

/// Fills those of the new maps that packets must not find empty. The agent fills the others with its first plan and its first
/// sweep; until then packets pass that are for the host, and are counted under another name.
fn fill(kernel: &mut Kernel, lacking: &[&str], content: &Content) -> Result<(), MigrateError> {
    if lacking.contains(&name::KNOWN) {
        copy::fill_known(kernel, content)?;
    }
    if lacking.contains(&name::SVC_INDEX) {
        copy::fill_index(kernel, content)?;
    }
    if lacking.contains(&name::SVC_FRONT) {
        let services = content.cached_services(&content.rings_in_place());
        copy::fill_service_cache(kernel, &services, &content.node)?;
    }
    Ok(())
}

impl Added {
    /// Gives the new maps their places in `pins`. Every link has the new program already, and no packet is in an old one any
    /// more. `old` are the counters before.
    pub(super) fn finish(self, pins: &PinDirectory, old: &dyn Old) -> Result<Kernel, OpenError> {
        let Self { mut kernel, lacking } = self;
        let failed = |source| OpenError::Migrate { pins: pins.path().into(), found: ABI_VERSION, source };
        if lacking.contains(&name::SLOT_ELSEWHERE) {
            // When records sent packets elsewhere is not known.
            let all = Ring::new(0, kernel.sizes().slots);
            kernel.note_elsewhere(all).map_err(|error| failed(error.into()))?;
        }
        if lacking.contains(&name::COUNTERS) {
            copy::fill_counters(&mut kernel, old).map_err(failed)?;
        }
        let additions = pins.additions();
        let (last, first): (Vec<_>, Vec<_>) = lacking.iter().partition(|map| **map == name::COUNTERS);
        for map in first.into_iter().chain(last) {
            let (from, to) = (additions.map(map), pins.map(map));
            let failed = |source| PinError::Io { path: to.clone(), action: "replacing the pin", source };
            fault::point(Kind::Pin).map_err(failed)?;
            fs::rename(&from, &to).map_err(failed)?;
        }
        additions.remove()?;
        Ok(kernel)
    }
}

fn remove(pins: &PinDirectory, map: &str) -> Result<(), PinError> {
    let path = pins.map(map);
    let failed = |source| PinError::Io { path: path.clone(), action: "removing the pin", source };
    fault::point(Kind::Pin).map_err(failed)?;
    fs::remove_file(&path).map_err(failed)
}
