//! What others tell the host of ways, in ICMP messages that anybody can forge: the kernel believes it, and no next hop follows.

use std::{net::Ipv6Addr, os::fd::FromRawFd as _};

use super::*;

/// Sends an ICMP message of the kinds that a host learns from, about an echo reply of ours to `about`.
fn forge(source: Ipv4Addr, icmp: [u8; 8], about: Ipv4Addr) {
    let ours = Ipv4Addr::new(10, 0, 0, 2);
    let header = |source: Ipv4Addr, to: Ipv4Addr, length: u16| {
        let [high, low] = length.to_be_bytes();
        let mut header = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, 1, 0, 0];
        header.extend(source.octets().into_iter().chain(to.octets()));
        with_checksum(header, 10)
    };
    let mut message = icmp.to_vec();
    message.extend(header(ours, about, 28));
    message.extend(with_checksum(vec![0; 8], 2));
    let message = with_checksum(message, 2);
    let mut packet = header(source, ours, 20 + message.len() as u16);
    packet.extend(message);
    raw(libc::AF_INET, libc::IPPROTO_RAW).send_to(&packet, (ours, 0)).unwrap();
}

/// Sends an ICMPv6 message that a packet of ours to `about` was too big for the smallest MTU there is. The kernel puts the
/// checksum in.
fn too_big(about: Ipv6Addr) {
    let ours = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0];
    // An echo reply behind its header.
    message.extend([0x60, 0, 0, 0, 0, 8, 58, 64]);
    message.extend(ours.octets().into_iter().chain(about.octets()));
    message.extend([129, 0, 0, 0, 0, 0, 0, 0]);
    raw(libc::AF_INET6, libc::IPPROTO_ICMPV6).send_to(&message, (ours, 0)).unwrap();
}

fn raw(family: i32, protocol: i32) -> std::net::UdpSocket {
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    assert!(socket >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and has no other owner.
    unsafe { std::net::UdpSocket::from_raw_fd(socket) }
}

/// The bytes with their checksum (RFC 1071) at a place that is 0.
fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// What the kernel itself would do with packets to an address.
fn kernels_way(to: &str) -> String {
    let output = Command::new("ip").args(["route", "get", to]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Forges until the kernel believes it.
async fn believed(peer: &Arc<Namespace>, source: &str, icmp: [u8; 8], about: &str, words: &str) {
    let [source, ip] = [source, about].map(|text| text.parse::<Ipv4Addr>().unwrap());
    believes(peer, about, words, move || forge(source, icmp, ip)).await;
}

async fn believes(peer: &Arc<Namespace>, about: &str, words: &str, forge: impl Fn() + Copy + Send + 'static) {
    until("the kernel believes what was forged", LIMIT, async || {
        peer.run(forge);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let way = kernels_way(about);
        if way.contains(words) { Ok(()) } else { Err(way) }
    })
    .await;
}

#[test]
fn forged_path_messages_change_neither_hop_nor_mtu() {
    with_peer(|peer| async move {
        for setting in ["all", "eth0"].map(|name| format!("/proc/sys/net/ipv4/conf/{name}/")) {
            std::fs::write(format!("{setting}accept_redirects"), "1").unwrap();
            std::fs::write(format!("{setting}secure_redirects"), "0").unwrap();
            std::fs::write(format!("{setting}shared_media"), "1").unwrap();
        }
        ip("route add 192.0.2.0/24 via 10.0.0.1");
        ip("route add 198.51.100.0/24 via 10.0.0.1 mtu 1300");
        let to = ["10.0.0.11", "192.0.2.1", "198.51.100.1"];
        let mut before = Watched::new(&[], &to);
        let mut hops = Vec::new();
        for to in to {
            hops.push(before.hop(to).await);
        }
        assert_eq!(hops.iter().map(|hop| hop.mtu).collect::<Vec<_>>(), [1400, 1400, 1300]);
        // Fragmentation needed, with an MTU of 600: of the backend, and of one behind a router.
        let needed = [3, 4, 0, 0, 0, 0, 2, 88];
        believed(&peer, "10.0.0.77", needed, "10.0.0.11", "mtu 600").await;
        believed(&peer, "10.0.0.77", needed, "192.0.2.1", "mtu 600").await;
        // A redirect of the router to another host on the link.
        believed(&peer, "10.0.0.1", [5, 1, 0, 0, 10, 0, 0, 11], "198.51.100.1", "via 10.0.0.11").await;
        // All is looked up once more by a watcher that begins now.
        let mut after = Watched::new(&[], &to);
        for (to, before) in to.into_iter().zip(hops) {
            assert_eq!(after.hop(to).await, before, "{}", kernels_way(to));
        }
    });
}

#[test]
fn a_forged_packet_too_big_lowers_no_mtu() {
    with_peer(|peer| async move {
        ip("route add 2001:db8::/64 via fd00::11");
        let to = ["fd00::11", "2001:db8::1"];
        let mut before = Watched::new(&[], &to);
        let mut hops = Vec::new();
        for to in to {
            hops.push(before.hop(to).await);
        }
        assert_eq!(hops.iter().map(|hop| hop.mtu).collect::<Vec<_>>(), [1400, 1400]);
        for about in to {
            let address: Ipv6Addr = about.parse().unwrap();
            believes(&peer, about, "mtu 1280", move || too_big(address)).await;
        }
        // All is looked up once more by a watcher that begins now.
        let mut after = Watched::new(&[], &to);
        for (to, before) in to.into_iter().zip(hops) {
            assert_eq!(after.hop(to).await, before, "{}", kernels_way(to));
        }
    });
}

#[test]
fn a_multipath_hop_stays_with_the_mtu_of_the_route() {
    with_peer(|_peer| async {
        ip("route add 192.0.2.0/24 mtu 1200 nexthop via 10.0.0.1 nexthop via 10.0.0.11");
        let mut watched = Watched::new(&[], &["192.0.2.1"]);
        let hop = watched.hop("192.0.2.1").await;
        assert_eq!(hop.mtu, 1200);
        assert!(kernels_way("192.0.2.1").contains(&format!("via {} ", hop.via)), "{hop:?}");
    });
}
