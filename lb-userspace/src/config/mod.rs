//! From a file to a checked [`spec::Spec`].

pub mod spec;
