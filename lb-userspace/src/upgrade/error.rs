//! Why a data path was not opened, or its maps not carried over.

use std::{io, path::PathBuf};

use lb_common::ABI_VERSION;

use crate::{
    bpf::{
        loader::LoadError,
        owner::{OtherNamespace, OwnerError},
        pin::PinError,
    },
    tables::TableError,
};

/// Why it could not be opened. Running maps and programs are as they were.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error(
        "{0}; give this agent another --instance, or, if that one is not wanted any more, take it off with \
         `lbd --detach --force`"
    )]
    OtherNamespace(OtherNamespace),
    #[error(
        "the maps pinned in {pins} are of ABI version {found}, this agent speaks version {ABI_VERSION}: not adopted \
         (it can take over {}); run the agent they belong to or a younger one, or take them off with `lbd --detach` \
         (established flows may move then)",
        super::versions()
    )]
    Version { pins: PathBuf, found: u32 },
    #[error(
        "the maps pinned in {pins} are of ABI version {found}, this agent speaks version {ABI_VERSION}, and taking them \
         over failed: {source}; run the agent they belong to, or take them off with `lbd --detach` (established flows \
         may move then)"
    )]
    Migrate { pins: PathBuf, found: u32, source: MigrateError },
    #[error(
        "{pins}: maps are missing ({}) although a program is attached; take it off with `lbd --detach` and start again",
        .missing.join(", ")
    )]
    Incomplete { pins: PathBuf, missing: Vec<&'static str> },
}

/// Why the maps cannot be carried over. The old maps and the old program are as they were.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("what runs does not fit into the new maps: {}", .0.join("; "))]
    DoesNotFit(Vec<String>),
    #[error("reading map {map} of version {version}: {source}")]
    Read { map: &'static str, version: u32, source: io::Error },
    #[error("its map {map} is damaged: {what}")]
    Damaged { map: &'static str, what: String },
    #[error("the link pinned at {pin}: {why}")]
    Link { pin: PathBuf, why: String },
    #[error("writing the new maps: {0}")]
    Write(#[from] TableError),
}
