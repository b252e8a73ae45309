//! Every key of the file, as data: the checker refuses keys that are not here, and the reference is generated from here.

use std::sync::LazyLock;

pub use super::settings::{CliOption, Form, Key, NOTHING, REQUIRED, Section};
use super::spec;

const fn key(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    description: &'static str,
) -> Key {
    Key { name, takes, default, description, option: None }
}

/// The file as a whole.
pub static ROOT: Section = Section {
    header: "the file",
    about: "",
    keys: &[
        key("node", "table", REQUIRED, "The node itself."),
        key("limits", "table", NOTHING, "Sizes of the maps."),
        key("health", "table or false", NOTHING, "Defaults for the health checks of all services."),
        key("service", "array of tables", NOTHING, "The services."),
    ],
};

pub static NODE: LazyLock<Section> = LazyLock::new(|| spec::NODE.section());

pub static LIMITS: Section = Section {
    header: "[limits]",
    about: "Sizes of the maps, in entries. A change takes effect when lbd is started again: it carries services \
            and flows over into maps of the new sizes, unless what runs does not fit. What the file asks for is checked \
            against them.",
    keys: &[
        key(
            "services",
            "1 to 1048576",
            "2048",
            "Services. By default about as many as the default of `slots` has rings for, if each has at most five backends.",
        ),
        key(
            "backends",
            "1 to 1048575",
            "16384",
            "Backends of all services together, 64 bytes and a counter per CPU each. Backends that \
             were removed keep theirs for some seconds, until no packet can name them.",
        ),
        key(
            "slots",
            "251 to 536870912",
            "4194304",
            "Slots of all rings together, 10 bytes each. A service takes the first of 251, 509, 1021, 2039, 4093, 8191, \
             16381, 32749, 65537, 131071, 262139, 524287, 1000003, 2000003, 4000037 that is at least 100 × its \
             `max_backends`. The default holds 1,000 services of 10 backends each that leave `max_backends` out; where the services ask for more, it is the next power of \
             two. A ring that changes its \
             length lies there twice for a while, and waits where there is no room for that.",
        ),
        key(
            "flows",
            "1024 to 268435456",
            "1048576",
            "Flows that are recorded: all of services with `track = \"always\"`, of the others those of slots that changed \
             owner; and SYNs that wait for the client's next segment. 20 bytes each, rounded up to 16 times a power of two. In a \
             full table, what proves least gives its place away.",
        ),
        key(
            "pending_flows",
            "1024 to 16777216",
            NOTHING,
            "Without effect since version 5 of the maps, in which SYNs are among `flows`; accepted, so that older files stay \
             valid.",
        ),
    ],
};

pub static SERVICE: LazyLock<Section> = LazyLock::new(|| spec::SERVICE.section());

pub static BACKEND: LazyLock<Section> = LazyLock::new(|| spec::BACKEND.section());

pub static HEALTH: LazyLock<Section> = LazyLock::new(|| spec::HEALTH.section());

/// All tables, in the order of the reference.
pub fn sections() -> [&'static Section; 5] {
    [&NODE, &LIMITS, &SERVICE, &BACKEND, &HEALTH]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_descriptions_are_sentences() {
        for section in sections() {
            for (i, key) in section.keys.iter().enumerate() {
                assert!(section.keys[..i].iter().all(|other| other.name != key.name), "{}", key.name);
                assert!(key.description.ends_with('.'), "{}", key.name);
            }
        }
    }
}
