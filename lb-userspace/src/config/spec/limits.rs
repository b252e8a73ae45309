//! `[limits]`: the sizes of the maps. `check` asks whether they are enough for the services of the file.

use lb_common::{flow_table, map::size, ring};

use crate::config::settings::{
    settings,
    values::{maybe, numbers},
};

/// About as many services as rings of the shortest default length fit into the default number of slots, so that services with
/// few backends need no explicit limit. It is a power of two, like the tables that look services up. 1,000 services of
/// 10 backends fit into both limits.
const SERVICES: u32 = match ring::length_for(ring::LEAST_PLANNED) {
    Some(length) => 1 << (size::SLOTS / length).ilog2(),
    None => panic!("a default that no ring is planned for"),
};

/// The largest number of slots of all rings together.
pub(in crate::config) const MOST_SLOTS: u32 = 1 << 29;

settings! {
    /// Sizes of the maps, in entries. They are fixed when the maps are made.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Limits;

    table LIMITS = "[limits]", "Sizes of the maps, in entries. A change takes effect when lbd is started again: it carries services \
            and flows over into maps of the new sizes, unless what runs does not fit. What the file asks for is checked \
            against them.";

    parts {}

    "services" (services: u32 = SERVICES) {
        values: numbers(1..=1 << 20),
        about: "Services. By default about as many as the default of `slots` has rings for, if each has at most five backends.",
    }

    "backends" (backends: u32 = size::BACKENDS) {
        values: numbers(1..=flow_table::MAX_BACKEND),
        about: "Backends of all services together, 64 bytes and a counter per CPU each. Backends that \
             were removed keep theirs for some seconds, until no packet can name them.",
    }

    "slots" (slots: u32 = size::SLOTS) {
        values: numbers(ring::LENGTHS[0]..=MOST_SLOTS),
        about: "Slots of all rings together, 10 bytes each. A service takes the first of 251, 509, 1021, 2039, 4093, 8191, \
             16381, 32749, 65537, 131071, 262139, 524287, 1000003, 2000003, 4000037 that is at least 100 × its \
             `max_backends`. The default holds 1,000 services of 10 backends each that leave `max_backends` out; where the services ask for more, it is the next power of \
             two. A ring that changes its \
             length lies there twice for a while, and waits where there is no room for that.",
    }

    "flows" (flows: u32 = size::FLOWS) {
        values: numbers(1024..=flow_table::MAX_FLOWS),
        about: "Flows that are recorded: all of services with `track = \"always\"`, of the others those of slots that changed \
             owner; and SYNs that wait for the client's next segment. 20 bytes each, rounded up to 16 times a power of two. In a \
             full table, what proves least gives its place away.",
    }

    "pending_flows" (
        /// Without effect: SYNs that no segment has continued lie in the table of `flows`, and are worth less than flows there.
        pending_flows: Option<u32> = None
    ) {
        values: maybe(numbers(1024..=1 << 24)),
        about: "Without effect since version 5 of the maps, in which SYNs are among `flows`; accepted, so that older files stay \
             valid.",
    }
}
