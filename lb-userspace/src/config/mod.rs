//! From a file to a checked [`spec::Spec`], and from changes made at run time to the next one.
//!
//! [`parse`] makes a [`Document`] of a file's text, or reports all its errors. The run-time changes lie over the document as
//! an [`overlay`]; the two together are a [`Configuration`], which the agent keeps.

mod advice;
mod atomic_file;
mod by_name;
pub mod change;
mod check;
pub mod commit_confirm;
pub mod configuration;
pub mod diagnostic;
mod diff;
pub mod document;
pub mod host;
pub mod kept;
pub mod keys;
pub mod overlay;
mod positions;
mod reader;
pub mod reference;
mod render;
pub mod save;
mod settings;
pub mod spec;
pub(crate) mod suggest;
#[cfg(test)]
pub(crate) mod testing;
mod trust;
mod value;
pub(crate) mod value_tree;
pub mod words;

pub use advice::{advice, from_virtual_address, no_slot, virtual_addresses};
pub use change::{Change, Refusal};
pub use configuration::{Changed, Configuration, replace_file};
pub use diagnostic::{Diagnostic, Kind, Place};
pub use diff::{backend_diff, spec_diff};
pub use document::{Document, parse, parse_on_host, read_trusted as read};
pub use render::{render, render_masked};
pub use save::SaveError;
