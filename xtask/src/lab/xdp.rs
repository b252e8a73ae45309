//! An XDP program that passes everything, for the ends of cables that receive what XDP sends: a veth takes frames from
//! `XDP_TX` and devmap redirects only when its own end runs a program too (drivers/net/veth.c, `veth_xdp_xmit`).
//!
//! It is two instructions, loaded here with bpf(2) and handed to `ip link` through a pin, so that the lab needs neither
//! an object file nor the agent. Attached over netlink it stays until the interface goes.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::node::Node;
use crate::run;

/// Where bpffs is usually mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// `r0 = 2` (XDP_PASS), `exit`, as 64-bit instructions (Documentation/bpf/standardization/instruction-set.rst).
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const PROG_TYPE_XDP: u32 = 6;

/// The start of `union bpf_attr` for BPF_PROG_LOAD (include/uapi/linux/bpf.h); the kernel takes what is left out as 0.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The start of `union bpf_attr` for BPF_OBJ_PIN.
#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Mounts a bpffs of its own at a directory.
pub(super) fn mount_bpffs(directory: &Path) -> Result<()> {
    let none = None::<&str>;
    nix::mount::mount(Some("bpf"), directory, Some("bpf"), nix::mount::MsFlags::empty(), none)
        .with_context(|| format!("cannot mount a bpffs at {0} (`mount -t bpf bpf {0}`)", directory.display()))
}

/// Whether a directory is in bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|data| data.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// The loaded program, pinned while this lives.
#[derive(Debug)]
pub struct PassProgram {
    pin: PathBuf,
}

impl PassProgram {
    /// Loads and pins it in a bpffs.
    pub fn load(bpffs: &Path) -> Result<Self> {
        let program = load().context("cannot load a BPF program (needs CAP_BPF and CAP_NET_ADMIN)")?;
        let pin = bpffs.join("pass");
        let path = CString::new(pin.to_string_lossy().as_bytes())?;
        let request = Pin {
            pathname: path.as_ptr() as u64,
            bpf_fd: program.as_raw_fd().cast_unsigned(),
            file_flags: 0,
        };
        let arguments = &raw const request;
        // SAFETY: the attribute and the path it points to live until the call returns.
        if unsafe { libc::syscall(libc::SYS_bpf, OBJ_PIN, arguments, size_of::<Pin>()) } != 0 {
            let error = io::Error::last_os_error();
            return Err(error).with_context(|| format!("cannot pin a program at {}", pin.display()));
        }
        Ok(Self { pin })
    }

    /// Attaches it in the driver to an interface of the calling thread's network namespace, where it stays.
    pub fn here(interface: &str) -> Result<()> {
        let program = Self::load(Path::new(BPFFS))?;
        let mut command = Command::new("ip");
        command.args(["link", "set", "dev", interface, "xdpdrv", "pinned"]).arg(&program.pin);
        run::capture(&mut command).map(drop)
    }

    /// Attaches it to an interface of a node, in the driver.
    pub fn attach(&self, node: &Node, interface: &str) -> Result<()> {
        // Not `node.command`: the pin is where the host sees it.
        let mut command = Command::new("ip");
        command.args(["-n", &node.namespace]);
        command.args(["link", "set", "dev", interface, "xdpdrv", "pinned"]).arg(&self.pin);
        run::capture(&mut command).map(drop).with_context(|| format!("node {}: {interface}", node.name))
    }
}

impl Drop for PassProgram {
    fn drop(&mut self) {
        fs::remove_file(&self.pin).ok();
    }
}

/// Whether the kernel takes a program from us; nothing of it stays.
pub fn can_load() -> io::Result<()> {
    load().map(drop)
}

fn load() -> io::Result<OwnedFd> {
    let mut load = Load {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: PASS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    load.prog_name[..8].copy_from_slice(b"lab_pass");
    bpf(PROG_LOAD, &load)
}

/// bpf(2) with an attribute that makes a descriptor.
fn bpf(command: i32, attribute: &Load) -> io::Result<OwnedFd> {
    let pointer = (&raw const *attribute).cast::<u8>();
    // SAFETY: the attribute is an initialised repr(C) struct of the size given, and what it points to is static.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
