//! A flood of SYNs from addresses that nobody has, bounded in rate and length, through a raw socket of the lab's client.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use fastrand::Rng;

use super::world::PORT;
use crate::lab::VIP_V4;

/// Where the SYNs pretend to come from: the range for tests of network devices (RFC 2544).
pub(super) const SOURCES: &str = "198.18.0.0/15";
const SOURCE: u32 = 0xc612_0000;
const SOURCE_BITS: u32 = 0x0001_ffff;

/// Between two bursts.
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes of an IPv4 and a TCP header without options.
const LENGTH: usize = 40;

/// Sends `count` SYNs, at most `rate` in a second, in the namespace of the calling thread.
pub(super) fn send(rate: u32, count: u64) -> Result<()> {
    let socket = raw().context("cannot open a raw socket")?;
    let mut rng = Rng::with_seed(1);
    let (mut sent, mut last) = (0, Instant::now());
    while sent < count {
        std::thread::sleep(PAUSE);
        // What a busy machine held up is not made up for in one burst.
        let due = (last.elapsed().min(PAUSE * 4).as_secs_f64() * f64::from(rate)) as u64;
        last = Instant::now();
        for _ in 0..due.min(count - sent) {
            let packet = syn(SOURCE | rng.u32(..) & SOURCE_BITS, rng.u16(1024..), rng.u32(..));
            transmit(&socket, &packet).context("cannot send a SYN")?;
            sent += 1;
        }
    }
    Ok(())
}

/// A SYN to the first service.
fn syn(source: u32, port: u16, sequence: u32) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    let destination = u32::from(VIP_V4);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.to_be_bytes());
    packet[16..20].copy_from_slice(&destination.to_be_bytes());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 0x02;
    packet[34..36].copy_from_slice(&65_535_u16.to_be_bytes());
    // The kernel fills in the checksum of the IP header (raw(7)), not that of TCP: over the pseudo header (RFC 9293, 3.1).
    let pseudo = [source >> 16, source & 0xffff, destination >> 16, destination & 0xffff, 6, 20];
    let words = packet[20..].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = pseudo.into_iter().chain(words).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn raw() -> io::Result<OwnedFd> {
    // SAFETY: socket has no memory arguments; it returns a descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn transmit(socket: &OwnedFd, packet: &[u8]) -> io::Result<()> {
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(VIP_V4.octets()) },
        sin_zero: [0; 8],
    };
    let length = size_of_val(&to) as libc::socklen_t;
    // SAFETY: packet and address are initialised and as long as the lengths say.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    let error = io::Error::last_os_error();
    // A queue that is full loses a SYN of the flood, which is no loss.
    if sent >= 0 || error.raw_os_error() == Some(libc::ENOBUFS) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_has_a_whole_checksum() {
        let packet = syn(SOURCE | 5, 2000, 77);
        let word = |at: usize| u32::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let mut sum: u32 = (12..LENGTH).step_by(2).map(word).sum::<u32>() + 6 + 20;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
        assert_eq!(packet[33], 2, "SYN and nothing else");
    }
}
