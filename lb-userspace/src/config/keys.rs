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

pub static LIMITS: LazyLock<Section> = LazyLock::new(|| spec::LIMITS.section());

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
