//! What a pin directory holds when an agent starts: nothing, maps of our version, or maps that must be carried over.

use std::collections::BTreeMap;

use aya::maps::MapData;
use lb_common::ABI_VERSION;

use super::{
    Sizes,
    kernel::OpenError,
    layout::{self, PINNED, Shape},
    migrate,
    pin::PinDirectory,
};
use crate::object::OBJECT;

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
    let version = migrate::version_in(pins)?;
    let ours = version == 0 || version == ABI_VERSION;
    let missing: Vec<_> = PINNED.iter().filter(|name| !found.maps.contains(name)).copied().collect();
    if ours && !missing.is_empty() && !found.links.is_empty() {
        if version == 0 || missing.iter().any(|map| migrate::reads(map)) {
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
    let declared = layout::declared(OBJECT).map_err(|error| OpenError::Load(error.to_string()))?;
    layout::check(&shapes, &declared)
        .map(Found::Ours)
        .map_err(|mismatches| OpenError::Layout { pins: pins.path().into(), mismatches })
}

/// The shapes of the pinned maps.
pub(super) fn shapes(pins: &PinDirectory) -> Result<BTreeMap<&'static str, Shape>, OpenError> {
    let mut shapes = BTreeMap::new();
    for name in pins.inspect()?.maps {
        let failed = |source| OpenError::Map { map: name, source };
        let map = MapData::from_pin(pins.map(name)).map_err(failed)?;
        shapes.insert(name, Shape::of(&map.info().map_err(failed)?));
    }
    Ok(shapes)
}

/// Removes the pins. No valid maps were there, so no packet was forwarded: all packets passed to the host.
fn clear(pins: &PinDirectory, warnings: &mut Vec<String>) -> Result<Found, OpenError> {
    pins.empty()?;
    let path = pins.path().display();
    warnings.push(format!("{path}: leftovers of an agent that ended before it was ready were removed"));
    Ok(Found::Nothing)
}
