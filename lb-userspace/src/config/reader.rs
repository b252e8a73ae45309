//! Reads a table of the tree key by key and collects the errors, so that all of them are reported at once. A wrong value
//! is reported and replaced by the default. The code that reads on need not care: no spec is made of a tree with errors.

use std::{cell::RefCell, sync::Arc};

use super::{
    diagnostic::{self, Diagnostic, Kind, Place},
    settings::Section,
    suggest,
    value_tree::{Data, Node, Table},
};

/// Where errors are collected.
#[derive(Default)]
pub(super) struct Errors(RefCell<Vec<Diagnostic>>);

impl Errors {
    pub(super) fn push(&self, place: &Place, object: &str, message: String, kind: Kind) {
        let object = object.to_owned();
        self.0.borrow_mut().push(Diagnostic { place: place.clone(), object, message, kind });
    }

    /// See [`diagnostic::tidy`].
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        diagnostic::tidy(self.0.into_inner())
    }
}

/// One table being read.
pub(super) struct Reader<'t, 'o> {
    table: &'t Table,
    /// Where the table begins.
    pub(super) at: &'t Place,
    /// The object that errors name.
    pub(super) object: &'o str,
    /// The prefix of key names in messages: `health.` for a table within the object's table.
    prefix: &'static str,
    pub(super) errors: &'o Errors,
}

impl<'t, 'o> Reader<'t, 'o> {
    /// `None`, with an error, for a node that is not a table. Keys that the section does not have are errors.
    pub(super) fn open(
        node: &'t Node,
        object: &'o str,
        prefix: &'static str,
        section: &Section,
        errors: &'o Errors,
    ) -> Option<Self> {
        let Data::Table(table) = &node.data else {
            let name = if prefix.is_empty() { object } else { prefix.trim_end_matches('.') };
            let message = format!("{name} must be a table, not {}", node.describe());
            errors.push(&node.at, if prefix.is_empty() { "" } else { object }, message, Kind::Wrong);
            return None;
        };
        let reader = Self { table, at: &node.at, object, prefix, errors };
        for (name, member) in &table.0 {
            if section.names().all(|known| known != name) {
                let hint = suggest::hint(name, section.names());
                let name = super::value_tree::quote(name);
                reader.wrong(&member.at, format!("unknown key {name}{hint}"));
            }
        }
        Some(reader)
    }

    pub(super) fn wrong(&self, at: &Place, message: String) {
        self.errors.push(at, self.object, message, Kind::Wrong);
    }

    /// The value of a key; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'t Node> {
        self.table.get(key).filter(|node| !matches!(node.data, Data::Null))
    }

    /// The place of a key's value, or of the table where it is absent.
    pub(super) fn place(&self, key: &str) -> &'t Place {
        self.get(key).map_or(self.at, |node| &node.at)
    }

    /// `None` where the key is absent, or wrong; a wrong value is reported. The error of `parse` must be a text that can follow
    /// the key's name.
    pub(super) fn optional<T>(&self, key: &str, parse: impl Fn(&Node) -> Result<T, String>) -> Option<T> {
        let node = self.get(key)?;
        parse(node).map_err(|why| self.wrong(&node.at, format!("{}{key} {why}", self.prefix))).ok()
    }

    pub(super) fn or<T>(&self, key: &str, parse: impl Fn(&Node) -> Result<T, String>, default: T) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// As [`Self::optional`], but an absent key is an error. `example` shows what to write.
    pub(super) fn required<T>(
        &self,
        key: &str,
        example: &str,
        parse: impl Fn(&Node) -> Result<T, String>,
    ) -> Option<T> {
        if self.get(key).is_none() {
            let message = format!("{}{key} is missing, for example: {key} = {example}", self.prefix);
            self.errors.push(self.at, self.object, message, Kind::Missing);
        }
        self.optional(key, parse)
    }

    /// The tables of an array of tables; none where the key is absent.
    pub(super) fn tables(&self, key: &str) -> &'t [Arc<Node>] {
        match self.get(key) {
            None => &[],
            Some(Node { data: Data::Array(elements), .. }) => elements,
            Some(node) => {
                let wanted = format!("{}{key} must be an array of tables", self.prefix);
                self.wrong(&node.at, format!("{wanted}, not {}", node.describe()));
                &[]
            }
        }
    }
}
