//! What the flow tables take of the kernel's memory, read from the pinned map itself.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};

use crate::lab::{self, BALANCER};

/// BPF_OBJ_GET (include/uapi/linux/bpf.h).
const OBJ_GET: i32 = 7;

/// A table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Bytes that the kernel accounts for it.
    pub(super) bytes: u64,
    /// Flows it holds.
    pub(super) flows: u64,
}

impl Table {
    pub(super) fn bytes_per_flow(self) -> u64 {
        self.bytes / self.flows.max(1)
    }
}

/// The table of confirmed flows; `flows` is what `limits.flows` says it holds.
pub(super) fn flows(config: &lab::Config, flows: u64) -> Result<Table> {
    let pins = lab::bpffs(&config.prefix, BALANCER).join("lb").join(&config.instance);
    let map = open(&pins.join("FLOWS")).with_context(|| format!("cannot open {}/FLOWS", pins.display()))?;
    // proc(5): the accounted memory of a map is among the facts of its descriptor.
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let bytes = field(&text, "memlock").with_context(|| format!("{path} does not say `memlock`"))?;
    Ok(Table { bytes, flows })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Get {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let request = Get { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute is an initialised repr(C) struct of the size given, and the path it points to lives until
    // the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const request, size_of::<Get>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_found_among_a_descriptors_facts() {
        let text = "pos:\t0\nmap_type:\t9\nmax_entries:\t1024\nmemlock:\t82432\nmap_id:\t7\n";
        assert_eq!(field(text, "memlock"), Some(82_432));
        assert_eq!(field(text, "mem"), None);
        assert_eq!(Table { bytes: 82_432, flows: 1024 }.bytes_per_flow(), 80);
    }
}
