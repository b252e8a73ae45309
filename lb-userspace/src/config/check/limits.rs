//! `[limits]`: the bounds of each limit. `cross` checks whether the limits are enough for the services of the file.

use lb_common::{flow_table, map::size, ring};

use crate::config::{keys, reader::Reader, spec::Limits, value};

/// About as many services as rings of the shortest default length fit into the default number of slots, so that services with
/// few backends need no explicit limit. It is a power of two, like the tables that look services up. 1,000 services of
/// 10 backends fit into both limits.
const SERVICES: u32 = match ring::length_for(ring::LEAST_PLANNED) {
    Some(length) => 1 << (size::SLOTS / length).ilog2(),
    None => panic!("a default that no ring is planned for"),
};

/// The largest number of slots of all rings together.
pub(super) const MOST_SLOTS: u32 = 1 << 29;

pub(super) fn read(root: &Reader<'_, '_>) -> Limits {
    let defaults = Limits {
        services: SERVICES,
        backends: size::BACKENDS,
        slots: size::SLOTS,
        flows: size::FLOWS,
        pending_flows: None,
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
        backends: number("backends", 1..=flow_table::MAX_BACKEND, defaults.backends),
        slots: number("slots", ring::LENGTHS[0]..=MOST_SLOTS, defaults.slots),
        flows: number("flows", 1024..=flow_table::MAX_FLOWS, defaults.flows),
        pending_flows: reader.optional("pending_flows", |node| value::number(node, 1024..=1 << 24)),
    }
}
