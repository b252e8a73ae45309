//! Opens the data path of an instance ([`open`]), with maps that an older agent may have left.
//!
//! Maps of a build of our version that had fewer maps or counters stay in use, and what they lack is added ([`add`]).
//!
//! Carries maps of another version or of other sizes over into new maps, while packets flow. The content of the old maps is
//! copied; the program is swapped in each link in one step; the flow records that came meanwhile follow; then the new maps
//! take the places of the old ones.
//!
//! Until then the new maps are in a directory of their own ([`PinDirectory::staging`]). If an agent is killed, the content of
//! that directory shows the next agent how far the killed one came, see [`resume`]. The number of each program that uses these
//! maps is recorded there before the program comes into a link:
//!
//! | staging holds | then | the next agent |
//! |---|---|---|
//! | maps without a version | the old program forwards by the old maps | discards staging and begins again |
//! | valid maps, no program uses them | as above | as above |
//! | valid maps, a program uses them | each program forwards by its own maps, with the same content | swaps the other links, copies flow records, moves the pins |
//! | all maps but `NODE` | the new program forwards by the new maps | moves the other pins |

mod abi_layout;
mod add;
mod content;
pub(crate) mod copy;
mod current;
pub mod error;
mod flows;
mod found;
pub mod open;
mod resume;
mod source;
mod swap;
pub(crate) mod v1;
pub(crate) mod v2;
pub(crate) mod v3;
pub(crate) mod v4;

use std::{collections::BTreeMap, os::fd::AsFd};

use aya::maps::MapData;
use lb_common::{ABI_VERSION, map::name};

use self::{
    abi_layout::Layout,
    error::{MigrateError, OpenError},
    open::Options,
    source::Old,
};
use crate::{
    bpf::{
        loader::LoadError,
        map_shapes::{Shape, abi_version},
        pin::PinDirectory,
    },
    config::words::plural,
    kernel::Kernel,
};

/// Versions whose maps can be carried over, ours among them.
const VERSIONS: [u32; 5] = [v1::V1::VERSION, v2::V2::VERSION, v3::V3::VERSION, v4::V4::VERSION, ABI_VERSION];

/// The same as a text.
fn versions() -> String {
    let [oldest, .., newest] = VERSIONS;
    format!("versions {oldest} to {newest}")
}

/// Whether a map of our version is read when maps are carried over. The content of the other maps is computed from these.
fn reads(map: &str) -> bool {
    current::Current::MAPS.iter().any(|(name, ..)| *name == map)
}

/// Opens the pinned maps with the layout of their version; `None` when the version is not one of [`VERSIONS`].
pub(crate) fn old(
    pins: &PinDirectory,
    version: u32,
    shapes: &BTreeMap<&'static str, Shape>,
) -> Option<Result<Box<dyn Old>, MigrateError>> {
    if version == v1::V1::VERSION {
        Some(source::open::<v1::V1>(pins, shapes))
    } else if version == v2::V2::VERSION {
        Some(source::open::<v2::V2>(pins, shapes))
    } else if version == v3::V3::VERSION {
        Some(source::open::<v3::V3>(pins, shapes))
    } else if version == v4::V4::VERSION {
        Some(source::open::<v4::V4>(pins, shapes))
    } else if version == ABI_VERSION {
        Some(source::open::<current::Current>(pins, shapes))
    } else {
        None
    }
}

/// Carries the pinned maps over into new maps of `limits`, or of the old sizes where the content would not fit, and returns
/// the new data path, which is in force. `None` when the version is unknown.
pub(crate) fn migrate(
    options: &Options,
    pins: &PinDirectory,
    version: u32,
    shapes: &BTreeMap<&'static str, Shape>,
) -> Result<Option<(Kernel, Vec<String>)>, OpenError> {
    let Some(old) = old(pins, version, shapes) else { return Ok(None) };
    let failed = |source| OpenError::Migrate { pins: pins.path().into(), found: version, source };
    let old = old.map_err(failed)?;
    let content = old.content().map_err(failed)?;
    let links = swap::links(pins).map_err(failed)?;
    let mut warnings = Vec::new();
    let mut limits = options.limits;
    if let Err(why) = content.fits(&limits) {
        let running = old.limits();
        if version == ABI_VERSION || content.fits(&running).is_err() {
            return Err(failed(MigrateError::DoesNotFit(why)));
        }
        warnings.push(format!("the sizes of [limits] are not in force: {}", why.join("; ")));
        limits = running;
    }
    let next = pins.staging();
    next.create()?;
    let made = Kernel::make(&next, &limits, options.bpf_log);
    if made.is_err() {
        next.remove()?;
    }
    let mut kernel = made?;
    if let Err(error) = swap::announce(&mut kernel, &next) {
        drop(kernel);
        next.remove()?;
        return Err(error);
    }
    let filled = copy::fill(&mut kernel, &content, old.as_ref());
    let filled = filled.and_then(|filled| swap::swap(&mut kernel, &links).map(|()| filled));
    let filled = match filled {
        Ok(filled) => filled,
        Err(error) => {
            // No link has the new program, so no packet uses the new maps.
            drop(kernel);
            next.remove()?;
            return Err(failed(error));
        }
    };
    // From here on there is no way back: if this agent fails, the next one goes on from here.
    let lost = copy::rest(&mut kernel, &content, old.as_ref(), Some(filled.began)).map_err(failed)?;
    let lost = filled.lost + lost;
    if lost > 0 {
        warnings.push(format!(
            "{} found no place in the new flow table: raise limits.flows",
            plural(lost, "record of a flow", "records of flows")
        ));
    }
    resume::move_pins(&next, pins)?;
    kernel.moved_to(pins.clone());
    let from =
        if version == ABI_VERSION { "of other sizes".to_owned() } else { format!("of version {version}") };
    log::info!("{}: maps {from} were replaced, services and flows carried over", pins.path().display());
    Ok(Some((kernel, warnings)))
}

/// The version in a directory's `NODE`; 0 when there is no `NODE`.
fn version_in(pins: &PinDirectory) -> Result<u32, LoadError> {
    let path = pins.map(name::NODE);
    if !path.exists() {
        return Ok(0);
    }
    let failed = |source| LoadError::Map { map: name::NODE, source };
    let map = MapData::from_pin(&path).map_err(failed)?;
    let shape = Shape::of(&map.info().map_err(failed)?);
    abi_version(map.fd().as_fd(), &shape).map_err(|source| LoadError::Memory { map: name::NODE, source })
}
