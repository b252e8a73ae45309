//! From a file to a checked [`spec::Spec`], and from changes made at run time to the next one.
//!
//! [`parse`] makes a [`Document`] of a file's text or tells everything that is wrong with it. What was changed at run
//! time lies over it as an [`overlay`]. Everything here is pure but for [`document::read`] and what writes files.

mod check;
pub mod diagnostic;
mod diff;
pub mod document;
mod fields;
pub mod keys;
mod reader;
pub mod reference;
mod render;
pub mod spec;
mod suggest;
#[cfg(test)]
mod testing;
mod text;
#[expect(dead_code, reason = "used by the overlay, which comes next")]
mod tree;
mod value;
pub mod words;

pub use diagnostic::{Diagnostic, Kind, Place};
pub use diff::spec_diff;
pub use document::{Document, parse, parse_on_host, read};
pub use render::render;
