//! A plain decapsulator of the tests: a raw socket gets the packets with their outer header, a TUN device takes them without
//! it. It shares no code with `lb_decap`, and checks closely what it gets.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result};
use etherparse::{Ipv4Header, Ipv6Header};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};
use xtask::{lab::Node, run};

/// The name of the device.
pub(crate) const DEVICE: &str = "lb-tun";

/// The receive buffer, in bytes: some megabytes may arrive while another program has the processor.
const ROOM: usize = 4 << 20;

/// How long a read lasts at most, in microseconds: after this time the thread sees that it must end.
const TICK: i64 = 20_000;

/// The families of a tunnel's two headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Families {
    pub(crate) outer_v6: bool,
    pub(crate) inner_v6: bool,
}

/// The decapsulator, which works on a thread until it is dropped; the device goes away with it.
pub(crate) struct Decapsulator {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Decapsulator {
    /// Starts one on a backend; `None` where the kernel has no TUN device.
    pub(crate) fn start(node: &Node, families: Families) -> Result<Option<Self>> {
        let device = match node.enter(device)? {
            Ok(device) => device,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error).context("cannot make a TUN device"),
        };
        run::capture(node.command("ip").args(["link", "set", "dev", DEVICE, "up"]))?;
        let socket = node.enter(|| socket(families))?.context("cannot open a raw socket")?;
        let (stop, taken, refused) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let thread = std::thread::spawn({
            let (stop, taken, refused) = (Arc::clone(&stop), Arc::clone(&taken), Arc::clone(&refused));
            move || {
                let mut packet = vec![0; 65536];
                while !stop.load(Ordering::Relaxed) {
                    // An error is the end of a tick.
                    let Ok(length) = nix::unistd::read(&socket, &mut packet) else { continue };
                    let written = inner(&packet[..length], families).map(|inner| (&device).write(inner));
                    let counter = if matches!(written, Some(Ok(_))) { &taken } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Some(Self { stop, taken, refused, thread: Some(thread) }))
    }

    /// Packets whose outer header the decapsulator has taken off.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Packets that are not as they should be, or that the device did not take.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Whether the error means that there is no such driver here, or that a container may not use it.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EPERM | libc::EACCES)
    )
}

/// A TUN device in the namespace of this thread. It lives as long as the file.
fn device() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a value of this struct of numbers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from.cast_signed();
    }
    // Packets begin with their IP header.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq, and this one is whole and outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A raw socket for tunnel packets to any address of this thread's namespace.
fn socket(families: Families) -> io::Result<OwnedFd> {
    let family = if families.outer_v6 { libc::AF_INET6 } else { libc::AF_INET };
    let protocol = if families.inner_v6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IPIP };
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, TICK))?;
    Ok(socket)
}

/// The inner packet of what a raw socket received: in IPv4 with the outer header, in IPv6 without it (raw(7), RFC 3542).
/// `None` unless the outer header is whole, is not a fragment and has the right length, and the inner packet, too.
fn inner(packet: &[u8], families: Families) -> Option<&[u8]> {
    let inner = if families.outer_v6 {
        packet
    } else {
        let (outer, inner) = Ipv4Header::from_slice(packet).ok()?;
        let whole = usize::from(outer.total_len) == packet.len() && !outer.is_fragmenting_payload();
        whole.then_some(inner)?
    };
    let length = if families.inner_v6 {
        let (header, _) = Ipv6Header::from_slice(inner).ok()?;
        usize::from(header.payload_length) + Ipv6Header::LEN
    } else {
        let (header, _) = Ipv4Header::from_slice(inner).ok()?;
        usize::from(header.total_len)
    };
    (length == inner.len()).then_some(inner)
}
