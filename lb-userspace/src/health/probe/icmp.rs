//! ICMP echo (RFC 792, RFC 4443): the host answers, whatever its services do. One attempt is one packet on a socket of its own,
//! so that a late reply to an earlier one is not taken for an answer.
//!
//! Anyone can send ICMP. So only what repeats our request is believed: a reply that has its cookie, and an error that quotes its
//! identifier, its number and its destination. What else arrives is read a few packets at a time, so that a flood of it leaves
//! time for the other checks.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
        SockaddrIn6, SockaddrStorage, connect, getsockname, recv, recvmsg, send, setsockopt, socket,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{ANSWER, Budget, Failure, Outcome, tcp};

/// Header and cookie.
const LENGTH: usize = 8 + 16;

/// Type of a request and of its reply, in ICMP and in ICMPv6.
const ECHO: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);

/// `ee_origin` of an error that a router or the host itself sent by ICMP and by ICMPv6 (Linux `linux/errqueue.h`).
const FROM_ICMP: u8 = 2;
const FROM_ICMP6: u8 = 3;

/// Packets that are read before the other checks have their turn.
const AT_ONCE: usize = 16;

/// How often a request is sent again where sending fails. An error that a packet from outside left on the socket is reported
/// once, one of this host's own routes each time.
const SENT_AGAIN: usize = 2;

/// Sends one request and waits for its reply.
pub(super) async fn ask(address: SocketAddr, budget: Budget) -> Outcome {
    let echo = match Echo::send(address) {
        Ok(echo) => echo,
        Err(failure) => return Outcome::Answer(Err(failure)),
    };
    match budget.within(echo.answer()).await {
        Some(answer) => Outcome::Answer(answer),
        None => Outcome::Silence(ANSWER, format!("no echo reply within {} ms", budget.milliseconds())),
    }
}

/// A request that was sent.
struct Echo {
    socket: AsyncFd<OwnedFd>,
    /// As it is on the wire, the checksum aside.
    request: [u8; LENGTH],
    to: IpAddr,
    /// Replies come with their IPv4 header.
    header: bool,
}

impl Echo {
    fn send(address: SocketAddr) -> Result<Self, Failure> {
        let (socket, raw) = open(address.is_ipv4())?;
        let local = |what: &str, error: Errno| Failure::LocalError(format!("{what}: {error}"));
        // Without it the kernel keeps to itself what routers say of a packet that did not arrive (`ping_err`, `raw_err`).
        let errors = if address.is_ipv4() {
            setsockopt(&socket, Ipv4RecvErr, &true)
        } else {
            setsockopt(&socket, Ipv6RecvErr, &true)
        };
        errors.map_err(|error| local("IP_RECVERR", error))?;
        let mut address = address;
        address.set_port(0);
        connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).map_err(not_sent)?;
        // The port of a datagram socket is the identifier of what it sends.
        let identifier = match raw {
            true => fastrand::u16(..),
            false => identifier(&socket).map_err(|error| local("the socket has no identifier", error))?,
        };
        let request = request(address.is_ipv4(), identifier, fastrand::u16(..), fastrand::u128(..));
        let send = || send(socket.as_raw_fd(), &request, MsgFlags::empty());
        let mut sent = send();
        for _ in 0..SENT_AGAIN {
            if sent.is_err() {
                sent = send();
            }
        }
        sent.map_err(not_sent)?;
        let interest = Interest::READABLE | Interest::ERROR;
        // SAFETY: an `OwnedFd` is one open descriptor, always the same, and is closed when `AsyncFd` has let go of it.
        let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
        let socket =
            watched.map_err(|error| Failure::LocalError(format!("the socket cannot be watched: {error}")))?;
        Ok(Self { socket, request, to: address.ip(), header: raw && address.is_ipv4() })
    }

    /// Waits for the reply, or for an error that says that none will come.
    async fn answer(&self) -> Result<(), Failure> {
        loop {
            let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await;
            let mut ready = ready.map_err(|error| Failure::LocalError(format!("epoll: {error}")))?;
            match self.look()? {
                Look::Answered => return Ok(()),
                Look::Empty => ready.clear_ready(),
                Look::More => {}
            }
            drop(ready);
            tokio::task::yield_now().await;
        }
    }

    /// Reads what lies there, up to [`AT_ONCE`] packets and as many errors.
    fn look(&self) -> Result<Look, Failure> {
        let mut last = Look::More;
        for _ in 0..AT_ONCE {
            let Some(error) = self.next_error() else {
                last = Look::Empty;
                break;
            };
            if let Some(failure) = error.and_then(|error| self.judge(&error)) {
                return Err(failure);
            }
        }
        for _ in 0..AT_ONCE {
            let mut packet = [0; 256];
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(length)
                    if is_reply(packet.get(..length).unwrap_or_default(), &self.request, self.header) =>
                {
                    return Ok(Look::Answered);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(last),
                // What an ICMP error leaves on the socket, whatever it quotes. Its entry in the queue was judged, or will be.
                Err(
                    Errno::ECONNREFUSED
                    | Errno::EHOSTUNREACH
                    | Errno::ENETUNREACH
                    | Errno::EHOSTDOWN
                    | Errno::ENONET
                    | Errno::ENOPROTOOPT
                    | Errno::EOPNOTSUPP
                    | Errno::EPROTO
                    | Errno::EACCES
                    | Errno::EMSGSIZE,
                ) => {}
                Err(error) => return Err(Failure::LocalError(format!("recv: {error}"))),
            }
        }
        Ok(Look::More)
    }

    /// The next entry of the socket's error queue; `None` = it is empty, `Some(None)` = the entry is not of the network.
    fn next_error(&self) -> Option<Option<Reported>> {
        let mut packet = [0; 256];
        let mut parts = [IoSliceMut::new(&mut packet)];
        let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE;
        let message =
            recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
        // Whose packet it was is named by its destination (`ip_recv_error`, `ipv6_recv_error`).
        let to = message.address.and_then(|to| {
            let v4 = to.as_sockaddr_in().map(|to| IpAddr::from(to.ip()));
            v4.or_else(|| to.as_sockaddr_in6().map(|to| to.ip().into()))
        });
        let found = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                Some((error, from.map(|from| Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into())))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                Some((error, from.map(|from| Ipv6Addr::from(from.sin6_addr.s6_addr).into())))
            }
            _ => None,
        });
        let quoted = message.iovs().next().unwrap_or_default().to_vec();
        Some(found.map(|(error, from)| Reported { error, from, to, quoted }))
    }

    /// What an error says of the backend; `None` = nothing, for it is not about our request.
    fn judge(&self, reported: &Reported) -> Option<Failure> {
        let Reported { error, from, to, quoted } = reported;
        let ours = to.is_some_and(|to| to.to_canonical() == self.to) && quotes(quoted, &self.request);
        ours.then(|| judge(error, *from))?
    }
}

/// What was found in the queues of a socket.
enum Look {
    Answered,
    /// Nothing more lies there.
    Empty,
    More,
}

/// An entry of the error queue.
struct Reported {
    error: libc::sock_extended_err,
    /// The host that sent it.
    from: Option<IpAddr>,
    /// Where the packet went that it is about.
    to: Option<IpAddr>,
    /// The beginning of that packet behind its IP header.
    quoted: Vec<u8>,
}

fn identifier(socket: &OwnedFd) -> Result<u16, Errno> {
    let own: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = own.as_sockaddr_in().map(SockaddrIn::port);
    v4.or_else(|| own.as_sockaddr_in6().map(SockaddrIn6::port)).ok_or(Errno::EAFNOSUPPORT)
}

/// Whether the beginning of a packet is that of our request. Routers repeat at least 8 bytes (RFC 792), most of them all of it;
/// what is repeated must be ours. The checksum is left out: the kernel makes it.
fn quotes(quoted: &[u8], request: &[u8; LENGTH]) -> bool {
    let length = quoted.len().min(LENGTH);
    length >= 8 && quoted[..2] == request[..2] && quoted[4..length] == request[4..length]
}

/// A datagram ICMP socket where the group may have one (Linux 3.0), else a raw one. Whether it is raw.
fn open(v4: bool) -> Result<(OwnedFd, bool), Failure> {
    let (family, protocol) = if v4 {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    match socket(family, SockType::Datagram, flags, protocol) {
        Ok(socket) => return Ok((socket, false)),
        Err(Errno::EACCES | Errno::EPERM | Errno::EPROTONOSUPPORT) => {}
        Err(error) => return Err(no_socket(error)),
    }
    socket(family, SockType::Raw, flags, protocol).map(|socket| (socket, true)).map_err(no_socket)
}

fn no_socket(error: Errno) -> Failure {
    Failure::LocalError(match error {
        Errno::EPERM | Errno::EACCES => {
            "no permission for ICMP sockets: the sysctl net.ipv4.ping_group_range must have lbd's group, or lbd needs \
             CAP_NET_RAW"
                .to_owned()
        }
        _ => format!("no socket: {}", io::Error::from(error)),
    })
}

fn not_sent(error: Errno) -> Failure {
    match error {
        Errno::EPERM | Errno::EACCES => {
            Failure::LocalError(format!("sending forbidden on this host, look at its firewall: {error}"))
        }
        _ => tcp::refused(&error.into()),
    }
}

/// What an entry of the error queue says of the backend; `None` = nothing, as that of a packet that was too long for a
/// tunnel: ours are short, so it is another process's.
fn judge(error: &libc::sock_extended_err, from: Option<IpAddr>) -> Option<Failure> {
    let libc::sock_extended_err { ee_origin, ee_type, ee_code, .. } = *error;
    let (name, words) = match (ee_origin, ee_type, ee_code) {
        (FROM_ICMP, 3, code) => ("ICMP", unreachable(code)?),
        (FROM_ICMP, 11, _) | (FROM_ICMP6, 3, _) => {
            (if ee_origin == FROM_ICMP { "ICMP" } else { "ICMPv6" }, "hop limit exceeded on the way, a loop?")
        }
        (FROM_ICMP6, 1, code) => ("ICMPv6", unreachable_v6(code)),
        _ => return None,
    };
    let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
    Some(Failure::Backend(format!("{words} ({name} type {ee_type} code {ee_code}{from})")))
}

/// Codes of destination unreachable (RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7.1).
fn unreachable(code: u8) -> Option<&'static str> {
    Some(match code {
        0 | 6 | 11 => "network unreachable",
        1 | 7 | 8 | 12 => "host unreachable",
        2 => "protocol unreachable",
        3 => "port unreachable",
        4 => return None,
        9 | 10 | 13 => "administratively prohibited",
        _ => "destination unreachable",
    })
}

/// The same of ICMPv6 (RFC 4443 3.1).
fn unreachable_v6(code: u8) -> &'static str {
    match code {
        0 => "no route to destination",
        1 | 5 => "administratively prohibited",
        2 => "beyond the scope of the source address",
        3 => "address unreachable",
        4 => "port unreachable",
        6 => "route rejects the destination",
        _ => "destination unreachable",
    }
}

/// An echo request. A datagram socket puts its own identifier (the same) and checksum there, and the kernel does the checksum of
/// ICMPv6.
fn request(v4: bool, identifier: u16, number: u16, cookie: u128) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = if v4 { ECHO.0 } else { ECHO_V6.0 };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    packet[8..].copy_from_slice(&cookie.to_be_bytes());
    if v4 {
        let sum: u32 = packet.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        packet[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    packet
}

/// Whether a packet is the reply to our request: a raw socket sees all ICMP of the backend, also what others asked.
fn is_reply(packet: &[u8], request: &[u8; LENGTH], header: bool) -> bool {
    let skip = if header { packet.first().map_or(0, |first| usize::from(first & 0xf) * 4) } else { 0 };
    let reply = if request[0] == ECHO.0 { ECHO.1 } else { ECHO_V6.1 };
    let Some(packet) = packet.get(skip..) else { return false };
    packet.first() == Some(&reply)
        && packet.get(1) == Some(&0)
        && packet.get(6..LENGTH) == Some(&request[6..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(ee_origin: u8, ee_type: u8, ee_code: u8) -> libc::sock_extended_err {
        libc::sock_extended_err {
            ee_errno: 0,
            ee_origin,
            ee_type,
            ee_code,
            ee_pad: 0,
            ee_info: 0,
            ee_data: 0,
        }
    }

    #[test]
    fn an_error_is_reported_with_its_code_and_its_sender() {
        let router = Some(IpAddr::from([192, 0, 2, 1]));
        for (error, from, words) in [
            (error(2, 3, 1), router, "host unreachable (ICMP type 3 code 1 from 192.0.2.1)"),
            (error(2, 3, 13), None, "administratively prohibited (ICMP type 3 code 13)"),
            (
                error(2, 11, 0),
                router,
                "hop limit exceeded on the way, a loop? (ICMP type 11 code 0 from 192.0.2.1)",
            ),
            (error(3, 1, 3), None, "address unreachable (ICMPv6 type 1 code 3)"),
            (error(3, 3, 0), None, "hop limit exceeded on the way, a loop? (ICMPv6 type 3 code 0)"),
        ] {
            assert_eq!(judge(&error, from), Some(Failure::Backend(words.to_owned())));
        }
    }

    #[test]
    fn an_error_of_a_longer_packet_says_nothing() {
        for error in [error(2, 3, 4), error(3, 2, 0), error(1, 0, 0), error(2, 5, 1)] {
            assert_eq!(judge(&error, None), None, "{error:?}");
        }
    }

    #[test]
    fn what_is_missing_on_this_host_does_not_count() {
        let said = no_socket(Errno::EACCES).to_string();
        assert!(said.starts_with("not asked: no permission") && said.contains("ping_group_range"), "{said}");
        assert!(matches!(no_socket(Errno::EMFILE), Failure::LocalError(_)));
        assert!(matches!(not_sent(Errno::EPERM), Failure::LocalError(_)));
        assert_eq!(not_sent(Errno::ENETUNREACH), Failure::Backend("network unreachable".into()));
    }

    #[test]
    fn a_request_has_a_valid_checksum() {
        let packet = request(true, 0xfffe, 0xfffd, u128::MAX - 7);
        let sum: u32 = packet.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(request(false, 1, 2, 3)[..8], [128, 0, 0, 0, 0, 1, 0, 2]);
    }

    #[test]
    fn only_an_error_that_quotes_this_request_counts() {
        let ours = request(true, 7, 11, 0x0123_4567);
        assert!(quotes(&ours, &ours) && quotes(&ours[..8], &ours), "the least that a router repeats");
        let padded = [&ours[..], &[0; 40]].concat();
        assert!(quotes(&padded, &ours), "what a link or a tunnel added behind it");
        let mut summed = ours;
        summed[2] ^= 0xff;
        assert!(quotes(&summed, &ours), "the checksum is the kernel's");
        assert!(!quotes(&ours[..7], &ours) && !quotes(&[], &ours));
        // Type, code, identifier, number, and the cookie where it is there.
        for at in [0, 1, 4, 5, 6, 7, 8, LENGTH - 1] {
            let mut other = ours;
            other[at] ^= 1;
            assert!(!quotes(&other, &ours), "byte {at}");
        }
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let ours = request(true, 7, 1, 0x0123_4567);
        let mut reply = ours;
        reply[0] = 0;
        // The identifier is the kernel's on a datagram socket.
        reply[4] = 9;
        assert!(is_reply(&reply, &ours, false));
        let mut packet = vec![0; 24];
        packet[0] = 0x46;
        packet.extend(reply);
        assert!(is_reply(&packet, &ours, true));
        for wrong in [&ours[..], &reply[..23], &[], &[0x4f]] {
            assert!(!is_reply(wrong, &ours, false) && !is_reply(wrong, &ours, true), "{wrong:?}");
        }
        let mut other = reply;
        other[20] ^= 1;
        assert!(!is_reply(&other, &ours, false));
        let mut v6 = request(false, 7, 1, 1);
        assert!(!is_reply(&v6.clone(), &v6, false));
        let asked = v6;
        v6[0] = 129;
        assert!(is_reply(&v6, &asked, false));
    }
}
