//! Finds out whose pins these are: of this network namespace, or of another one that shares the bpf file system. This check
//! comes before any pinned object is opened for writing.

use std::path::{Path, PathBuf};

use super::{
    link::{self, AttachError},
    namespace::Namespace,
    pin::{PinDirectory, PinError},
};

/// The owner of the pins in a directory.
#[derive(Debug)]
pub(crate) enum Owner {
    /// The pins are ours, or there are none.
    Us,
    /// The pins are of another namespace, in which nothing is attached any more: that of a restarted container, for example.
    Left(Namespace),
    /// The pins are of another namespace, and its program is attached there.
    Other(OtherNamespace),
}

/// Pins that are in use in another network namespace.
#[derive(Debug, thiserror::Error)]
#[error(
    "{pins} belongs to another network namespace ({}), where its program is attached ({})",
    .namespace.as_ref().map_or_else(|| "an earlier version did not record which".to_owned(), Namespace::describe),
    .link.file_name().unwrap_or_default().to_string_lossy()
)]
pub struct OtherNamespace {
    pub pins: PathBuf,
    /// `None` = the pins are of an older version, which recorded no namespace.
    pub namespace: Option<Namespace>,
    pub link: PathBuf,
}

/// Why the owner cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("{link}: {source}")]
    Link { link: PathBuf, source: AttachError },
}

/// Reads the record, and checks the links. Writes nothing.
///
/// A link's program shows whether its interface is in this namespace. So the owner of pins without a record (of earlier
/// versions) is known, too, unless nothing is attached: then we may take them.
pub(crate) fn look(pins: &PinDirectory) -> Result<Owner, OwnerError> {
    let (recorded, here) = (pins.namespace()?, pins.here()?);
    if recorded.is_some_and(|recorded| recorded.is(&here)) {
        return Ok(Owner::Us);
    }
    let (mut any_here, mut elsewhere) = (false, None);
    for link in pins.inspect()?.links {
        let failed = |source| OwnerError::Link { link: link.clone(), source };
        let Some(info) = link::pinned(&link).map_err(failed)?.filter(|info| info.interface != 0) else {
            continue;
        };
        if link::is_here(info).map_err(failed)? {
            any_here = true;
        } else {
            elsewhere.get_or_insert(link);
        }
    }
    Ok(match (recorded, elsewhere) {
        (namespace, Some(link)) if namespace.is_some() || !any_here => {
            Owner::Other(OtherNamespace { pins: pins.path().into(), namespace, link })
        }
        (Some(namespace), None) if !any_here => Owner::Left(namespace),
        _ => Owner::Us,
    })
}

/// Fails where the pins are in use in another network namespace.
pub fn only_ours(pins: &Path) -> Result<Result<(), OtherNamespace>, OwnerError> {
    Ok(match look(&PinDirectory::new(pins))? {
        Owner::Us | Owner::Left(_) => Ok(()),
        Owner::Other(other) => Err(other),
    })
}
