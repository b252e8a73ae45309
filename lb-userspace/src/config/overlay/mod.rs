//! The run-time changes, as settings to lay over the file. They have a file of their own, so that a restart forgets nothing.
//!
//! There is one entry for each service or backend that differs from the file. Entries are not a history: after every change
//! they are computed again by comparing the wanted configuration with the file ([`difference`]). So setting a weight
//! twice makes one entry, and adding and removing a backend makes none.

mod apply;
mod difference;
mod file;

use std::{collections::BTreeMap, fmt};

pub use file::path;
pub(super) use {
    apply::apply_all, apply::lay_over, apply::set, difference::difference, file::load, file::store,
};

use super::value_tree::Table;

/// All changes made at run time.
#[derive(Clone, Debug, Default)]
pub struct Overlay(pub(super) BTreeMap<Key, Entry>);

impl Overlay {
    /// How many services and backends differ from the file.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The object of an entry. A service sorts before its backends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) service: String,
    /// `None` = the service itself.
    pub(super) backend: Option<String>,
}

impl Key {
    /// The form in places and in paths of the control socket: `web`, `web/web-1`.
    fn path(&self) -> String {
        match &self.backend {
            Some(backend) => format!("{}/{backend}", self.service),
            None => self.service.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.backend.is_some() { "backend" } else { "service" };
        write!(f, "{kind} {}", self.path())
    }
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// The file does not have the object. A service's backends have entries of their own.
    Add(Table),
    /// The file has the object, with other values for these keys; null = the key is removed.
    Set(Table),
    /// The file has the object.
    Remove,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, values) = match self {
            Self::Add(values) => ("add", values),
            Self::Set(values) => ("set", values),
            Self::Remove => return f.write_str("remove"),
        };
        write!(f, "{verb}")?;
        for (i, (name, member)) in values.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma} {name} = {}", member.value.to_json())?;
        }
        Ok(())
    }
}

/// An entry that no longer fits the file, because the file was edited since. The entry is kept, and has no effect.
#[derive(Clone, Debug)]
pub struct Stale {
    pub(super) key: Key,
    pub(super) entry: Entry,
    pub(super) reason: String,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, entry, reason } = self;
        write!(f, "{key}: the run-time change ({entry}) is ignored: {reason}")
    }
}
