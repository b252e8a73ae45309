//! `[limits]`: the bounds of each. Whether they are enough for what the file asks for is seen in `cross`.

use lb_common::{map::size, ring};

use crate::config::{keys, reader::Reader, spec::Limits, value};

/// As many services as there are rings of the default length in the default number of slots, so that one limit does not
/// promise what the other refuses.
const SERVICES: u32 = match ring::length_for(ring::DEFAULT_MAX_BACKENDS) {
    Some(length) => size::SLOTS / length,
    None => panic!("a default that no ring is planned for"),
};

pub(super) fn read(root: &Reader<'_, '_>) -> Limits {
    let defaults = Limits {
        services: SERVICES,
        backends: size::BACKENDS,
        slots: size::SLOTS,
        flows: size::FLOWS,
        pending_flows: size::PENDING,
    };
    let Some(reader) =
        root.get("limits").and_then(|node| Reader::open(node, "limits", "", &keys::LIMITS, root.errors))
    else {
        return defaults;
    };
    let number = |key: &str, range: std::ops::RangeInclusive<u32>, default: u32| {
        reader.or(key, |node| value::number(node, range.clone()), default)
    };
    Limits {
        services: number("services", 1..=1 << 20, defaults.services),
        backends: number("backends", 1..=lb_common::slot::MAX_BACKEND, defaults.backends),
        slots: number("slots", lb_common::ring::LENGTHS[0]..=1 << 29, defaults.slots),
        flows: number("flows", 1024..=1 << 28, defaults.flows),
        pending_flows: number("pending_flows", 1024..=1 << 24, defaults.pending_flows),
    }
}
