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
    /// Maps of our version, and their sizes.
    Ours(Sizes),
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
    if ours && !missing.is_empty() && !found.links.is_empty() {
        if version == 0 || missing.iter().any(|map| reads(map)) {
            return Err(OpenError::Incomplete { pins: pins.path().into(), missing });
        }
        // An older build of our version did not have all maps yet. The content of the missing maps is computed from the others.
        return Ok(Found::Other { version, shapes: shapes(pins)? });
    }
    if version == 0 || ours && !missing.is_empty() {
        return clear(pins, warnings);
    }
    let shapes = shapes(pins)?;
    if !ours {
        return Ok(Found::Other { version, shapes });
    }
    let declared = map_shapes::declared(OBJECT).map_err(|error| LoadError::Load(error.to_string()))?;
    map_shapes::check(&shapes, &declared)
        .map(Found::Ours)
        .map_err(|mismatches| LoadError::Layout { pins: pins.path().into(), mismatches }.into())
}

/// Removes the pins. No valid maps were there, so no packet was forwarded: all packets passed to the host.
fn clear(pins: &PinDirectory, warnings: &mut Vec<String>) -> Result<Found, OpenError> {
    pins.empty()?;
    let path = pins.path().display();
    warnings.push(format!("{path}: leftovers of an agent that ended before it was ready were removed"));
    Ok(Found::Nothing)
}
