//! Which pinned programs `cargo xtask bench --program` takes, and which it refuses. Each test mounts a bpf file system of its
//! own, so it does not matter whether the host has one; the mount ends with the test's thread.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result};
use lb_tests::{bench::pinned::Program, privilege, test_name};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const BPFFS: &str = "/sys/fs/bpf";

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const SOCKET_FILTER: u32 = 1;
const XDP: u32 = 6;
const ARRAY: u32 = 2;
/// `BPF_F_XDP_HAS_FRAGS` (since kernel 5.18).
const FRAGS: u32 = 1 << 5;
/// `BPF_XDP`, which loaders set for a plain `xdp` section.
const ATTACH_XDP: u32 = 37;

/// Runs a test in a mount namespace of its own with a new bpf file system; both end with the test's thread.
fn with_bpffs(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    if !privilege::may_load_programs() || !privilege::may_make_namespaces() {
        privilege::skip(name, "needs root (namespaces, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)");
        return Ok(());
    }
    let prepare = || -> Result<()> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of its own")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).context("a new bpf file system")
    };
    let thread = thread::Builder::new().name(name.to_owned());
    let handle = thread.spawn(move || prepare().and_then(|()| test()))?;
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn bpf(command: libc::c_long, attribute: &[u64]) -> Result<i32> {
    // SAFETY: the attribute is as long as said, and what its words point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) };
    if fd < 0 { Err(io::Error::last_os_error().into()) } else { Ok(i32::try_from(fd)?) }
}

/// Two numbers of 4 bytes each, in the layout of the attribute.
fn pair(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") { join(second, first) } else { join(first, second) }
}

fn join(upper: u32, lower: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

fn pin(name: &str, fd: i32) -> Result<PathBuf> {
    let path = Path::new(BPFFS).join(name);
    let text = CString::new(path.as_os_str().as_encoded_bytes())?;
    let pinned = bpf(OBJ_PIN, &[text.as_ptr().expose_provenance() as u64, pair(fd.cast_unsigned(), 0)]);
    // SAFETY: ours, and nothing else has it.
    unsafe { libc::close(fd) };
    pinned.map(|_| path)
}

/// Pins the program `r0 = 2`, `exit`.
fn program(name: &str, kind: u32, flags: u32, attach: u32) -> Result<PathBuf> {
    let instructions = [0x0000_0002_0000_00b7_u64, 0x0000_0000_0000_0095];
    let attribute = [
        pair(kind, 2),
        instructions.as_ptr().expose_provenance() as u64,
        c"GPL".as_ptr().expose_provenance() as u64,
        0,
        0,
        pair(0, flags),
        0,
        0,
        pair(0, attach),
    ];
    pin(name, bpf(PROG_LOAD, &attribute)?)
}

fn refusal(path: &Path) -> String {
    Program::open(path).err().map_or(String::new(), |error| format!("{error:#}"))
}

#[test]
fn what_is_no_xdp_program_is_refused() -> Result<()> {
    with_bpffs(test_name!(), || {
        let map = pin("map", bpf(MAP_CREATE, &[pair(ARRAY, 4), pair(4, 1)])?)?;
        assert!(refusal(&map).contains("pinned, but no program"), "{}", refusal(&map));
        let filter = program("filter", SOCKET_FILTER, 0, 0)?;
        assert!(refusal(&filter).contains("only XDP programs"), "{}", refusal(&filter));
        assert!(refusal(Path::new("/etc/hosts")).contains("not pinned"));
        Ok(())
    })
}

#[test]
fn a_program_the_rig_may_not_call_is_refused() -> Result<()> {
    with_bpffs(test_name!(), || {
        for (name, flags, attach) in [("frags", FRAGS, ATTACH_XDP), ("old", 0, 0)] {
            let other = program(name, XDP, flags, attach)?;
            assert!(refusal(&other).contains("neither `xdp.frags`"), "{}", refusal(&other));
        }
        let plain = program("plain", XDP, 0, ATTACH_XDP)?;
        assert_eq!(refusal(&plain), "");
        Ok(())
    })
}
