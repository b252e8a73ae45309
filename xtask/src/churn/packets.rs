//! Segments that a stranger makes up: TCP over IPv4 or IPv6 with any source and any numbers, sent through raw sockets of the
//! lab's client, bounded in rate. What they are to break is the scenarios' business.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
    },
};

/// Flags of a TCP header (RFC 9293, 3.1).
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 1 << 1;
pub(super) const RST: u8 = 1 << 2;
pub(super) const ACK: u8 = 1 << 4;

/// Where flows without a client come from: the range for tests of network devices (RFC 2544).
pub(super) const STRANGERS: &str = "198.18.0.0/15";
const STRANGER: u32 = 0xc612_0000;
const STRANGER_BITS: u32 = 0x0001_ffff;

/// Between two bursts.
const PAUSE: Duration = Duration::from_millis(5);
const TCP: u8 = 6;
const TCP_HEADER: usize = 20;

/// A segment. Both addresses are of one family.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) data: Vec<u8>,
}

impl Segment {
    /// From a source that is as random as the numbers.
    pub(super) fn of_stranger(destination: SocketAddr, flags: u8, rng: &mut Rng) -> Self {
        let address = STRANGER | rng.u32(..) & STRANGER_BITS;
        let source = SocketAddr::from((address.to_be_bytes(), rng.u16(1024..)));
        let (sequence, acknowledgement) = (rng.u32(..), rng.u32(..));
        Self { source, destination, flags, sequence, acknowledgement, data: Vec::new() }
    }

    /// The whole packet.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let Self { source, destination, flags, sequence, acknowledgement, data } = self;
        let mut tcp = vec![0; TCP_HEADER];
        tcp[..2].copy_from_slice(&source.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&destination.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if flags & ACK != 0 {
            tcp[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        }
        tcp[12] = 5 << 4;
        tcp[13] = *flags;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        tcp.extend(data);
        let length = u16::try_from(tcp.len()).context("too much data for a segment")?;
        let (mut packet, addresses) = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = vec![0; 20];
                // The kernel fills in length, identification and checksum (raw(7)).
                header[0] = 0x45;
                header[8] = 64;
                header[9] = TCP;
                let addresses = [from.octets(), to.octets()].concat();
                header[12..].copy_from_slice(&addresses);
                (header, addresses)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut header = vec![0; 8];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&length.to_be_bytes());
                header[6] = TCP;
                header[7] = 64;
                let addresses = [from.octets(), to.octets()].concat();
                header.extend(&addresses);
                (header, addresses)
            }
            (from, to) => bail!("{from} and {to} are of two families"),
        };
        // Over the pseudo header, too (RFC 9293, 3.1).
        let mut sum = u32::from(TCP) + u32::from(length) + words(&addresses) + words(&tcp);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        packet.extend(tcp);
        Ok(packet)
    }
}

fn words(bytes: &[u8]) -> u32 {
    let word = |word: &[u8]| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

/// Raw sockets of both families, in the namespace of the thread that opened them.
pub(super) struct Raw {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Raw {
    pub(super) fn open() -> Result<Self> {
        let open = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let (v4, v6) = (open(AddressFamily::Inet), open(AddressFamily::Inet6));
        Ok(Self { v4: v4.context("no raw socket")?, v6: v6.context("no raw socket of IPv6")? })
    }

    /// Sends a segment; whether it was: a queue may be full.
    pub(super) fn send(&self, segment: &Segment) -> Result<bool> {
        let (Self { v4, v6 }, packet, none) = (self, segment.bytes()?, MsgFlags::empty());
        let sent = match segment.destination {
            SocketAddr::V4(to) => sendto(v4.as_raw_fd(), &packet, &SockaddrIn::from(to), none),
            SocketAddr::V6(mut to) => {
                // A raw socket takes no port.
                to.set_port(0);
                sendto(v6.as_raw_fd(), &packet, &SockaddrIn6::from(to), none)
            }
        };
        match sent {
            Ok(_) => Ok(true),
            Err(Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error).context("cannot send a segment"),
        }
    }
}

/// Sends what `next` makes, at most `rate` in a second, as long as `goes_on` says of the number that were sent, in the namespace
/// of the calling thread. Returns how many were sent.
pub(super) fn send(
    rate: u32,
    goes_on: impl Fn(u64) -> bool,
    mut next: impl FnMut(&mut Rng) -> Segment,
) -> Result<u64> {
    let raw = Raw::open()?;
    let mut rng = Rng::with_seed(1);
    let (mut sent, mut owed, mut last) = (0, 0.0, Instant::now());
    while goes_on(sent) {
        std::thread::sleep(PAUSE);
        // What a busy machine held up is not made up for in one burst.
        owed += last.elapsed().min(PAUSE * 4).as_secs_f64() * f64::from(rate);
        last = Instant::now();
        while owed >= 1.0 && goes_on(sent) {
            raw.send(&next(&mut rng))?;
            owed -= 1.0;
            sent += 1;
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_has_a_whole_checksum_in_both_families() {
        for (from, to) in [("198.18.0.5:2000", "203.0.113.10:7"), ("[2001:db8::1]:2000", "[2001:db8::10]:7")]
        {
            let (source, destination) = (from.parse().unwrap(), to.parse().unwrap());
            let (flags, data) = (SYN | FIN, vec![9, 8, 7]);
            let segment = Segment { source, destination, flags, sequence: 77, acknowledgement: 5, data };
            let packet = segment.bytes().unwrap();
            let (addresses, header) = if from.contains('[') { (8..40, 40) } else { (12..20, 20) };
            assert_eq!(packet.len(), header + TCP_HEADER + 3);
            let tcp = &packet[header..];
            let mut sum = words(&packet[addresses]) + words(tcp) + 6 + 23;
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff);
            assert_eq!((tcp[13], &tcp[8..12]), (3, [0; 4].as_slice()), "no ACK, no number of it");
        }
    }

    #[test]
    fn addresses_of_two_families_make_no_segment() {
        let (source, destination) = ("10.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        let data = Vec::new();
        let segment = Segment { source, destination, flags: ACK, sequence: 0, acknowledgement: 0, data };
        assert!(segment.bytes().is_err());
    }
}
