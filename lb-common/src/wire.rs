//! Headers as they are on the wire, whole, to be read with `read_unaligned` behind one bounds check. Every multi-byte
//! field is in network order; the documentation of an accessor says what it converts.

/// `0x0800`, IPv4 (RFC 894), in network order.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
/// `0x86dd`, IPv6 (RFC 2464), in network order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200, 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IPv4 inside something (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 inside something (RFC 2473).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header (RFC 8200, 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200, 4.5).
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options (RFC 8200, 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Ethernet II header, 14 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub ethertype: u16,
}

/// IPv4 header without options, 20 bytes (RFC 791, 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_length: u16,
    pub identification: u16,
    pub flags_offset: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

impl Ipv4 {
    /// Bytes in the header, options included: 0–60. A value under 20 is malformed.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) << 2
    }

    /// The version field; 4, or the packet is malformed.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Whether this is a fragment: more-fragments set or an offset other than 0.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.flags_offset & 0x3fff_u16.to_be() != 0
    }
}

/// IPv6 header, 40 bytes (RFC 8200, 3).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    pub version_class_label: u32,
    pub payload_length: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

impl Ipv6 {
    /// The version field; 6, or the packet is malformed.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (u32::from_be(self.version_class_label) >> 28) as u8
    }

    /// DSCP and ECN, the byte that IPv4 calls TOS.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (u32::from_be(self.version_class_label) >> 20) as u8
    }
}

/// The first 20 bytes of a TCP segment (RFC 9293, 3.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tcp {
    /// Source port then destination port, as one word.
    pub ports: u32,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub offset_reserved: u8,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
    pub urgent: u16,
}

impl Tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    /// Bytes in the header, options included: 0–60. A value under 20 is malformed.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        ((self.offset_reserved >> 4) as usize) << 2
    }
}

/// UDP header, 8 bytes (RFC 768).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Udp {
    /// Source port then destination port, as one word.
    pub ports: u32,
    pub length: u16,
    pub checksum: u16,
}

/// Source port of a `ports` word, in host order.
#[inline(always)]
pub const fn source_port(ports: u32) -> u16 {
    (u32::from_be(ports) >> 16) as u16
}

/// Destination port of a `ports` word, in host order.
#[inline(always)]
pub const fn destination_port(ports: u32) -> u16 {
    u32::from_be(ports) as u16
}

/// The word that two ports in host order make on the wire.
#[inline(always)]
pub const fn ports(source: u16, destination: u16) -> u32 {
    ((source as u32) << 16 | destination as u32).to_be()
}

const _: () = {
    assert!(size_of::<Ethernet>() == 14);
    assert!(size_of::<Ipv4>() == 20);
    assert!(size_of::<Ipv6>() == 40);
    assert!(size_of::<Tcp>() == 20);
    assert!(size_of::<Udp>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_survive_the_round_trip() {
        let word = ports(40_000, 443);
        assert_eq!(word.to_ne_bytes(), [0x9c, 0x40, 0x01, 0xbb]);
        assert_eq!((source_port(word), destination_port(word)), (40_000, 443));
    }

    #[test]
    fn a_packet_with_only_dont_fragment_is_no_fragment() {
        let mut header = Ipv4 {
            version_ihl: 0x46,
            tos: 0,
            total_length: 0,
            identification: 0,
            flags_offset: 0x4000_u16.to_be(),
            ttl: 64,
            protocol: protocol::TCP,
            checksum: 0,
            source: 0,
            destination: 0,
        };
        assert!(!header.is_fragment());
        header.flags_offset = 0x2000_u16.to_be();
        assert!(header.is_fragment());
        header.flags_offset = 1_u16.to_be();
        assert!(header.is_fragment());
        assert_eq!((header.version(), header.header_length()), (4, 24));
    }
}
