//! The bpf(2) calls that the aya crate lacks: batches, the interface of an XDP link, detaching a link that other processes
//! hold open. Also a few other system calls. Nothing here depends on the content of the maps.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

/// `ENOTSUPP`: the kernel returns it for map types without a batch operation, and libc has no name for it.
const ENOTSUPP: i32 = 524;

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain C structs; all bits 0 is what bpf(2) asks of unused parts.
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` lives through the call, and our callers made its pointers from live buffers of the lengths that they
    // give.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a pinned object of any kind.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    open_pin_with(path, 0)
}

/// Opens a pinned map so that nothing can be written into it through the descriptor.
pub(crate) fn open_pin_read_only(path: &Path) -> io::Result<OwnedFd> {
    /// `BPF_F_RDONLY`.
    const READ_ONLY: u32 = 1 << 3;
    open_pin_with(path, READ_ONLY)
}

fn open_pin_with(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.file_flags = flags;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object of any kind.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = u32::try_from(object.as_raw_fd()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// The kernel's information about an XDP link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct XdpLinkInfo {
    pub(crate) program: u32,
    /// 0 when the interface is gone.
    pub(crate) interface: u32,
}

/// The information about a link; `None` when it is not an XDP link (since kernel 5.9).
pub(crate) fn xdp_link_info(link: BorrowedFd<'_>) -> io::Result<Option<XdpLinkInfo>> {
    let info = link_info(link)?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        return Ok(None);
    }
    // SAFETY: the type says which member the kernel has filled.
    let interface = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(Some(XdpLinkInfo { program: info.prog_id, interface }))
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: a plain C struct.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The number of the program in a link of any kind.
pub(crate) fn program_in_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    link_info(link).map(|info| info.prog_id)
}

/// The XDP link that holds this program on this interface, no matter which process made it (since kernel 5.9).
pub(crate) fn find_xdp_link(wanted: XdpLinkInfo) -> io::Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        match bpf(bpf_cmd::BPF_LINK_GET_NEXT_ID, &mut attr) {
            // SAFETY: the kernel has written it.
            Ok(_) => id = unsafe { attr.__bindgen_anon_6.next_id },
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.link_id = id;
        let fd = match bpf(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr) {
            Ok(fd) => i32::try_from(fd).map_err(io::Error::other)?,
            // The link has been removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel has just given us this descriptor.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        if xdp_link_info(link.as_fd())? == Some(wanted) {
            return Ok(Some(link));
        }
    }
}

/// Takes a link off its interface, even if other processes hold it open (since kernel 5.9).
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Replaces the program in a link, in one step (since kernel 5.9 for XDP).
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// All keys of a map with keys of 4 bytes. No process may write the map meanwhile.
pub(crate) fn keys(map: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut keys: Vec<u32> = Vec::new();
    loop {
        let last = keys.last().copied();
        let mut next = 0u32;
        let mut attr = zeroed();
        attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
        attr.__bindgen_anon_2.key = last.as_ref().map_or(0, |last| std::ptr::from_ref(last) as u64);
        attr.__bindgen_anon_2.__bindgen_anon_1.next_key = &raw mut next as u64;
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => keys.push(next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

/// Reads one value as bytes. `value` has the size of the map's values, `key` that of its keys.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Reads a map in batches, a bounded piece at a time. It needs the kernel's batch operations: hash tables have them since
/// kernel 5.6, per-CPU arrays since 5.13.
struct Batches<K, V> {
    values_per_key: usize,
    /// Keys that are read at once; more where a bucket of a hash table holds more.
    room: usize,
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel's mark of the position: a bucket number or a key.
    mark: [u8; 64],
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    NotBegun,
    UnderWay,
    Ended,
}

/// The result of one step through a map.
enum Piece<'a, K, V> {
    /// Keys and, for each, `values_per_key` values. May be empty.
    Entries(&'a [K], &'a [V]),
    End,
    /// The kernel has no batches for the map's type; only at the first step.
    Unsupported,
}

impl<K: Pod + Default, V: Pod + Default> Batches<K, V> {
    fn new(values_per_key: usize, batch: usize) -> Self {
        let room = batch.max(1);
        Self {
            values_per_key,
            room,
            keys: vec![K::default(); room],
            values: vec![V::default(); room * values_per_key],
            mark: [0; 64],
            progress: Progress::NotBegun,
        }
    }

    /// The next piece. An entry that is in the map from the first step to the last is met.
    fn next(&mut self, map: BorrowedFd<'_>) -> io::Result<Piece<'_, K, V>> {
        if self.progress == Progress::Ended {
            return Ok(Piece::End);
        }
        let first = self.progress == Progress::NotBegun;
        loop {
            let mut next = [0u8; 64];
            let mut attr = zeroed();
            attr.batch.in_batch = if first { 0 } else { self.mark.as_ptr() as u64 };
            attr.batch.out_batch = next.as_mut_ptr() as u64;
            attr.batch.keys = self.keys.as_mut_ptr() as u64;
            attr.batch.values = self.values.as_mut_ptr() as u64;
            attr.batch.count = self.room as u32;
            attr.batch.map_fd = map.as_raw_fd() as u32;
            let outcome = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
            // SAFETY: the kernel writes it back also when it fails.
            let count = (unsafe { attr.batch.count } as usize).min(self.room);
            self.progress = Progress::UnderWay;
            if let Err(error) = outcome {
                match error.raw_os_error() {
                    Some(libc::ENOENT) => self.progress = Progress::Ended,
                    // A bucket holds more entries than there is room for: try again with more room.
                    Some(libc::ENOSPC) => {
                        self.room *= 2;
                        self.keys.resize(self.room, K::default());
                        self.values.resize(self.room * self.values_per_key, V::default());
                        continue;
                    }
                    Some(libc::EINVAL | ENOTSUPP) if first => return Ok(Piece::Unsupported),
                    _ => return Err(error),
                }
            }
            self.mark = next;
            return Ok(Piece::Entries(&self.keys[..count], &self.values[..count * self.values_per_key]));
        }
    }
}

/// A function that takes a batch: keys and their values.
pub(crate) type Visit<'a, K, V> = dyn FnMut(&[K], &[V]) -> io::Result<()> + 'a;

/// Reads a map in batches: `visit` gets keys and, for each, `values_per_key` values of type `V`. `batch` keys are read
/// at once; more where a bucket of a hash table holds more.
///
/// Returns `false`, before the first visit, where the kernel has no batches for the map's type.
pub(crate) fn lookup_batches<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    values_per_key: usize,
    batch: usize,
    visit: &mut Visit<'_, K, V>,
) -> io::Result<bool> {
    let mut batches = Batches::new(values_per_key, batch);
    loop {
        match batches.next(map)? {
            Piece::Entries(keys, values) => visit(keys, values)?,
            Piece::End => return Ok(true),
            Piece::Unsupported => return Ok(false),
        }
    }
}

/// Returns when every program run that began before the call has ended: `membarrier(MEMBARRIER_CMD_GLOBAL)` is
/// synchronize_rcu() (since kernel 4.3), and XDP programs run inside RCU read sections.
pub(crate) fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with nohz_full CPUs refuse membarrier. Wait instead: a program run takes microseconds.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Jiffies in a second. The coarse clocks have a resolution of exactly one jiffy (`KTIME_LOW_RES`).
pub(crate) fn jiffies_per_second() -> io::Result<u64> {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let nanoseconds = resolution.tv_sec as u64 * 1_000_000_000 + resolution.tv_nsec as u64;
    Ok((1_000_000_000 + nanoseconds / 2) / nanoseconds.max(1))
}

/// Lifts the limit of locked memory, if the kernel allows it.
pub(crate) fn raise_locked_memory() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live rlimit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the calling thread's network namespace (since kernel 5.14).
pub(crate) fn namespace_cookie() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE` (asm-generic/socket.h), the same on every architecture we build for.
    const COOKIE: libc::c_int = 71;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to a live u64 and to its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Sleeps until the descriptor can be read.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut ready = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: the pointer is to one live pollfd.
        if unsafe { libc::poll(&raw mut ready, 1, -1) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
