//! Reads a flow table of the kernel outside the agent's loop: through a descriptor of its own, a piece at a time.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use lb_common::flow::{Key, Record};

use crate::{
    bpf::sys,
    tables::{FlowReader, Records, TableError},
};

/// The number of flow records that are read at once. The loop then processes them without a pause: a few milliseconds at most.
const PIECE: usize = 1024;

/// A reader of one flow table.
pub(super) struct Reader {
    map: &'static str,
    fd: OwnedFd,
    batches: sys::Batches<Key, Record>,
}

impl Reader {
    /// A reader of the table behind `fd`, whose name is `map`.
    pub(super) fn new(map: &'static str, fd: BorrowedFd<'_>) -> Result<Self, TableError> {
        let fd = fd.try_clone_to_owned().map_err(failed(map))?;
        Ok(Self { map, fd, batches: sys::Batches::new(1, PIECE) })
    }
}

impl FlowReader for Reader {
    fn barrier(&mut self) {
        sys::wait_for_programs();
    }

    fn next(&mut self) -> Result<Option<Records>, TableError> {
        let Self { map, fd, batches } = self;
        match batches.next(fd.as_fd()).map_err(failed(map))? {
            sys::Piece::Entries(keys, records) => {
                Ok(Some(Records { keys: keys.to_vec(), records: records.to_vec() }))
            }
            sys::Piece::End => Ok(None),
            sys::Piece::Unsupported => Err(failed(map)(no_batches())),
        }
    }
}

/// Such a kernel is older than any kernel that we run on, so there is no fallback.
pub(super) fn no_batches() -> io::Error {
    io::Error::other("the kernel reads no hash tables in batches (it is older than 5.6)")
}

fn failed(map: &'static str) -> impl FnOnce(io::Error) -> TableError {
    move |source| TableError::Map { map, action: "walking the records".to_owned(), source }
}
