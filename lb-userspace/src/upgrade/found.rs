//! What a pin directory holds when an agent starts: nothing, maps of our version, or maps that must be carried over.

use std::collections::BTreeMap;

use lb_common::ABI_VERSION;

use super::{error::OpenError, reads, version_in};
use crate::{
    bpf::{
        loader::{LoadError, shapes},
        map_shapes::{self, PINNED, Shape},
        object::OBJECT,
        pin::PinDirectory,
    },
    tables::Sizes,
};

/// The content of a pin directory.
pub(super) enum Found {
    Nothing,
    /// Maps of our version, their sizes, and which of them an older build of our version did not have.
    Ours {
        sizes: Sizes,
        lacking: Vec<&'static str>,
    },
    Other {
        version: u32,
        shapes: BTreeMap<&'static str, Shape>,
    },
}

/// Looks at the pins. Incomplete pins of an agent that died while it made them are removed.
pub(super) fn found(pins: &PinDirectory, warnings: &mut Vec<String>) -> Result<Found, OpenError> {
    let found = pins.inspect()?;
    if found.is_empty() {
        return Ok(Found::Nothing);
    }
    let version = version_in(pins)?;
    let ours = version == 0 || version == ABI_VERSION;
    let missing: Vec<_> = PINNED.iter().filter(|name| !found.maps.contains(name)).copied().collect();
    // The content of the other maps is computed from those that are read.
    let unusable = version == 0 || missing.iter().any(|map| reads(map));
    if ours && unusable {
        if !missing.is_empty() && !found.links.is_empty() {
            return Err(OpenError::Incomplete { pins: pins.path().into(), missing });
        }
        return clear(pins, warnings);
    }
    let shapes = shapes(pins)?;
    if !ours {
        return Ok(Found::Other { version, shapes });
    }
    let declared = map_shapes::declared(OBJECT).map_err(|error| LoadError::Load(error.to_string()))?;
    match map_shapes::check(&shapes, &declared) {
        Ok(sizes) => Ok(Found::Ours { sizes, lacking: map_shapes::lacking(&shapes) }),
        Err(mismatches) => Err(LoadError::Layout { pins: pins.path().into(), mismatches }.into()),
    }
}

/// Removes the pins. No valid maps were there, so no packet was forwarded: all packets passed to the host.
fn clear(pins: &PinDirectory, warnings: &mut Vec<String>) -> Result<Found, OpenError> {
    pins.empty()?;
    let path = pins.path().display();
    warnings.push(format!("{path}: leftovers of an agent that ended before it was ready were removed"));
    Ok(Found::Nothing)
}
