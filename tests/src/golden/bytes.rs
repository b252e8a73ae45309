//! Makes the frame for a packet in words. Lengths and checksums are right unless a word says otherwise.

use std::net::IpAddr;

use super::packet_words::{Kind, Link, Words};
use crate::frame::{self, OUR_MAC, ROUTER_MAC};

/// The frame.
pub(super) fn frame(words: &Words) -> Vec<u8> {
    if words.kind == Kind::Arp {
        let IpAddr::V4(target) = words.to.ip else { return frame::ip(words.from.ip, words.to.ip, 58, &[]) };
        return finish(words, frame::arp(target.octets()));
    }
    let mut out = [OUR_MAC, ROUTER_MAC].concat();
    if let Some(vlan) = words.number("vlan") {
        out.extend([0x81, 0x00]);
        out.extend((vlan as u16).to_be_bytes());
    }
    let usual = if words.to.ip.is_ipv4() { 0x0800 } else { 0x86dd };
    out.extend((words.number("ethertype").unwrap_or(usual) as u16).to_be_bytes());
    out.extend(packet(words));
    finish(words, out)
}

/// Adds padding, or cuts the frame off early.
fn finish(words: &Words, mut frame: Vec<u8>) -> Vec<u8> {
    frame.extend(vec![0xee; words.number("padding").unwrap_or(0) as usize]);
    frame.truncate(words.number("cut").map_or(usize::MAX, |cut| cut as usize));
    frame
}

/// The packet from the IP header on.
fn packet(words: &Words) -> Vec<u8> {
    let payload = vec![0x5a; words.number("payload").unwrap_or(0) as usize];
    let (protocol, segment) = match (words.kind, &words.inside) {
        (Kind::Tcp, _) => (6, checked(words, 6, 16, tcp(words, &payload))),
        (Kind::Udp, _) => (17, checked(words, 17, 6, udp(words, &payload))),
        (Kind::Icmp, _) => icmp(words, &payload),
        (_, Some(inside)) => (if inside.to.ip.is_ipv4() { 4 } else { 41 }, packet(inside)),
        (Kind::Ip | Kind::Arp | Kind::Tunnel, None) => (59, payload),
    };
    let protocol = words.number("protocol").map_or(protocol, |protocol| protocol as u8);
    if words.to.ip.is_ipv4() { ipv4(words, protocol, &segment) } else { ipv6(words, protocol, &segment) }
}

fn tcp(words: &Words, payload: &[u8]) -> Vec<u8> {
    let options = words.number("tcp-options").unwrap_or(0);
    let bits = [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 0x10)];
    let named = bits.iter().filter(|(name, _)| words.has(name)).map(|(_, bit)| bit).sum::<u8>();
    let flags = if named == 0 { 0x10 } else { named };
    let mut out = ports(words);
    // The sequence number after a SYN continues the SYN's number.
    let sequence = if named == 0x02 { 999 } else { 1000 };
    out.extend(words.number("seq").unwrap_or(sequence).to_be_bytes());
    out.extend(if flags & 0x10 == 0 { 0_u32 } else { 2000 }.to_be_bytes());
    out.push((words.number("tcp-offset").unwrap_or(5 + options) as u8) << 4);
    out.push(flags);
    out.extend(64_000_u16.to_be_bytes());
    out.extend([0; 4]);
    out.extend(vec![1; options as usize * 4]);
    out.extend(payload);
    out
}

fn udp(words: &Words, payload: &[u8]) -> Vec<u8> {
    let mut out = ports(words);
    out.extend((words.number("udp-length").unwrap_or(8 + payload.len() as u32) as u16).to_be_bytes());
    out.extend([0; 2]);
    out.extend(payload);
    out
}

fn ports(words: &Words) -> Vec<u8> {
    [words.from.port.to_be_bytes(), words.to.port.to_be_bytes()].concat()
}

/// An echo request, unless words say otherwise; with a packet inside, an error that quotes it. The ICMP checksum has a pseudo header in IPv6 only (RFC 4443, 2.3).
fn icmp(words: &Words, payload: &[u8]) -> (u8, Vec<u8>) {
    let v4 = words.to.ip.is_ipv4();
    let usual = match (&words.inside, v4) {
        (None, true) => (8, 0),
        (None, false) => (128, 0),
        // *Packet too big*.
        (Some(_), true) => (3, 4),
        (Some(_), false) => (2, 0),
    };
    let kind = words.number("type").unwrap_or(usual.0) as u8;
    let mut out = vec![kind, words.number("code").unwrap_or(usual.1) as u8, 0, 0];
    match &words.inside {
        None => out.extend([0, 1, 0, 1]),
        Some(inside) => {
            out.extend(words.number("mtu").unwrap_or(1400).to_be_bytes());
            let quoted = packet(inside);
            let kept = words.number("quote").map_or(quoted.len(), |kept| quoted.len().min(kept as usize));
            out.extend(&quoted[..kept]);
        }
    }
    out.extend(payload);
    if !v4 {
        return (58, checked(words, 58, 2, out));
    }
    let checksum = frame::ipv4_checksum(&out);
    out[2..4].copy_from_slice(&checksum.to_be_bytes());
    (1, out)
}

/// Writes the checksum over the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) at `at`.
fn checked(words: &Words, protocol: u8, at: usize, mut segment: Vec<u8>) -> Vec<u8> {
    let mut summed = match (words.from.ip, words.to.ip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => Vec::new(),
    };
    summed.extend((segment.len() as u32).to_be_bytes());
    summed.extend([0, 0, 0, protocol]);
    summed.extend(&segment);
    let mut checksum = frame::ipv4_checksum(&summed);
    if words.has("bad-checksum") {
        checksum ^= 0x5555;
    }
    // A UDP checksum of 0 would mean that there is none (RFC 768).
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    segment
}

fn ipv4(words: &Words, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (words.from.ip, words.to.ip) else { return Vec::new() };
    let number = |name: &str, usual: u32| words.number(name).unwrap_or(usual);
    let options = number("options", 0);
    let header = 20 + options * 4;
    let mut out = vec![(number("version", 4) << 4 | number("ihl", header / 4)) as u8, number("tos", 0) as u8];
    out.extend((number("length", header + segment.len() as u32) as u16).to_be_bytes());
    out.extend((number("id", 0) as u16).to_be_bytes());
    let bits = u32::from(words.has("df")) << 14 | u32::from(words.has("mf")) << 13;
    out.extend(((bits | number("offset", 0)) as u16).to_be_bytes());
    out.extend([number("ttl", 57) as u8, protocol, 0, 0]);
    out.extend(from.octets());
    out.extend(to.octets());
    out.extend(vec![1; options as usize * 4]);
    let mut checksum = frame::ipv4_checksum(&out);
    if words.has("bad-ip-checksum") {
        checksum ^= 0x5555;
    }
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
    out.extend(segment);
    out
}

fn ipv6(words: &Words, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (words.from.ip, words.to.ip) else { return Vec::new() };
    let number = |name: &str, usual: u32| words.number(name).unwrap_or(usual);
    let (first, chain) = extensions(&words.chain, protocol);
    let mut out = (number("version", 6) << 28 | number("tos", 0) << 20).to_be_bytes().to_vec();
    out.extend((number("length", (chain.len() + segment.len()) as u32) as u16).to_be_bytes());
    out.extend([first, number("ttl", 57) as u8]);
    out.extend(from.octets());
    out.extend(to.octets());
    out.extend(chain);
    out.extend(segment);
    out
}

/// The number of the first extension header, and the bytes of all of them.
fn extensions(chain: &[Link], protocol: u8) -> (u8, Vec<u8>) {
    let kind = |link: &Link| match link.name {
        "hop" => 0,
        "dst" => 60,
        "routing" => 43,
        "ah" => 51,
        _ => 44,
    };
    let mut out = Vec::new();
    for (place, link) in chain.iter().enumerate() {
        let next = chain.get(place + 1).map_or(protocol, kind);
        let number = link.number as u8;
        match link.name {
            "fragment" => {
                out.extend([next, 0]);
                out.extend((link.number << 3 | u16::from(link.more)).to_be_bytes());
                out.extend([0; 4]);
            }
            // Type 4 (RFC 8754) with room for one address.
            "routing" => {
                out.extend([next, 2, 4, number, 0, 0, 0, 0]);
                out.extend([0; 16]);
            }
            // Security parameters 1, sequence 1, a check value of `number` words (RFC 4302, 2).
            "ah" => {
                out.extend([next, number + 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
                out.extend(vec![0; usize::from(number) * 4]);
            }
            _ => {
                out.extend([next, number]);
                let mut left = 6 + usize::from(number) * 8;
                // PadN takes at most 257 bytes.
                while left > 0 {
                    let one = left.min(250);
                    let data = one.saturating_sub(2);
                    out.extend([1, data as u8]);
                    out.extend(vec![0; data]);
                    left -= data + 2;
                }
            }
        }
    }
    (chain.first().map_or(protocol, kind), out)
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    fn of(text: &str) -> Vec<u8> {
        frame(&text.parse().unwrap())
    }

    #[test]
    fn the_same_packet_as_a_library_that_is_not_ours_makes() {
        for (from, to) in
            [("198.51.100.1:40000", "203.0.113.10:443"), ("[2001:db8:1::1]:40000", "[2001:db8::10]:443")]
        {
            let (from_at, to_at) = (from.parse().unwrap(), to.parse().unwrap());
            let mut ours = of(&format!("tcp {from} > {to} syn tos=0x2e df"));
            let mut theirs = frame::tcp(from_at, to_at, frame::Segment::Syn, 0x2e, 0);
            if frame::is_v4(&theirs) {
                // The library sets don't-fragment by default.
                assert_eq!(ours[20], theirs[20]);
            }
            for frame in [&mut ours, &mut theirs] {
                let window = frame::transport(frame) + 14;
                frame[window..window + 4].fill(0);
            }
            assert_eq!(ours, theirs);
            let ours = of(&format!("udp {from} > {to} payload=9 tos=3 df"));
            assert_eq!(ours, frame::udp(from_at, to_at, 3, 9));
        }
    }

    #[test]
    fn chains_are_read_by_a_library_that_is_not_ours() {
        let chain = "hop,dst:3,routing:0,ah:2,fragment:0+";
        let frame = of(&format!("tcp [2001:db8::1]:1 > [2001:db8::2]:2 chain={chain} payload=4"));
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = sliced.net else { panic!("no IPv6") };
        assert_eq!(ip.payload().ip_number, etherparse::IpNumber::TCP);
        assert!(ip.payload().fragmented);
        assert_eq!(ip.payload().payload.len(), 24);
    }

    #[test]
    fn a_tunnel_has_the_packet_inside() {
        let frame = of("tunnel 10.0.0.1 > 10.1.0.1 tos=2 | udp [2001:db8::1]:1 > [2001:db8::2]:2");
        assert_eq!((frame[14 + 9], frame[14 + 20] >> 4, frame.len()), (41, 6, 14 + 20 + 40 + 8));
    }

    #[test]
    fn an_error_quotes_the_packet_inside() {
        let quoted = "tcp 203.0.113.10:443 > 198.51.100.1:40000 payload=9";
        let frame = of(&format!("icmp 192.0.2.1 > 203.0.113.10 mtu=1300 quote=28 | {quoted}"));
        let whole = of(quoted);
        assert_eq!(frame[34..36], [3, 4]);
        assert_eq!((&frame[38..42], &frame[42..]), (&[0, 0, 5, 20][..], &whole[14..42]));
        assert_eq!(frame::ipv4_checksum(&frame[34..]), 0);
        let frame =
            of("icmp 2001:db8::1 > 2001:db8::2 type=3 code=1 | udp [2001:db8::2]:1 > [2001:db8::1]:2");
        assert_eq!((&frame[54..56], frame.len()), (&[3, 1][..], 54 + 8 + 48));
    }

    #[test]
    fn lies_and_cuts_are_as_the_words_say() {
        let frame = of("tcp 1.2.3.4:1 > 5.6.7.8:2 length=99 padding=6");
        assert_eq!((frame::length(&frame), frame.len()), (99, 14 + 40 + 6));
        assert_eq!(of("tcp 1.2.3.4:1 > 5.6.7.8:2 cut=30").len(), 30);
        assert_eq!(of("udp 1.2.3.4:1 > 5.6.7.8:2 vlan=7")[12..16], [0x81, 0, 0, 7]);
    }
}
