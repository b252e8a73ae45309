//! Backend records: everything that a packet needs to reach a backend, computed once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    backend::Backend,
    encap,
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

use crate::{
    config::spec::Source,
    net::Hop,
    tables::address::{v4_to_wire, v6_to_wire},
};

/// What may happen to packets of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Established flows may go on there.
    pub alive: bool,
    /// The backend is leaving: a new flow that reuses a recorded tuple goes to the slot's owner.
    pub draining: bool,
}

/// Outer source addresses of the configuration; `None` = what the kernel would choose on the route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    pub v4: Option<Source<Ipv4Addr>>,
    pub v6: Option<Source<Ipv6Addr>>,
}

/// The record of a backend at `address`. Packets to a backend without a next hop are dropped as `no_next_hop`. So are packets
/// to a backend where neither configuration nor route gives a source address of its family.
///
/// `inner_is_v6`: the family of the service.
pub fn record(
    address: IpAddr,
    inner_is_v6: bool,
    hop: Option<&Hop>,
    sources: &Sources,
    standing: Standing,
) -> Backend {
    let mut flags = 0;
    if standing.alive {
        flags |= Backend::ALIVE;
    }
    if standing.draining {
        flags |= Backend::DRAINING;
    }
    if address.is_ipv6() {
        flags |= Backend::OUTER_V6;
    }
    let unresolved = Backend { flags, ..Backend::default() };
    let Some(hop) = hop else { return unresolved };
    let (source_bits, ethertype, outer) = match address {
        IpAddr::V4(destination) => {
            let fallback = match hop.source {
                IpAddr::V4(address) => Some(Source { address, spread_bits: 0 }),
                IpAddr::V6(_) => None,
            };
            let Some(source) = sources.v4.or(fallback) else { return unresolved };
            let (address, destination) = (v4_to_wire(source.address), v4_to_wire(destination));
            let outer = encap::template_v4(address, destination, inner_is_v6);
            (source.spread_bits, ETHERTYPE_IPV4, outer)
        }
        IpAddr::V6(destination) => {
            let fallback = match hop.source {
                IpAddr::V6(address) => Some(Source { address, spread_bits: 0 }),
                IpAddr::V4(_) => None,
            };
            let Some(source) = sources.v6.or(fallback) else { return unresolved };
            let (address, destination) = (v6_to_wire(source.address), v6_to_wire(destination));
            let outer = encap::template_v6(address, destination, inner_is_v6);
            (source.spread_bits, ETHERTYPE_IPV6, outer)
        }
    };
    let mut ethernet = [0; 14];
    ethernet[..6].copy_from_slice(&hop.mac);
    ethernet[6..12].copy_from_slice(&hop.local_mac);
    ethernet[12..].copy_from_slice(&ethertype.to_ne_bytes());
    Backend { interface: hop.interface, flags, source_bits, mtu: hop.mtu, weight: 0, ethernet, outer }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Standing = Standing { alive: true, draining: false };

    fn hop(source: &str) -> Hop {
        Hop {
            interface: 7,
            interface_name: "eth1".into(),
            via: "10.0.0.1".parse().unwrap(),
            mac: [2, 0, 0, 0, 0, 1],
            local_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            source: source.parse().unwrap(),
        }
    }

    #[test]
    fn an_ipv4_record_has_header_source_and_template() {
        let address = "10.0.0.11".parse().unwrap();
        let made = record(address, true, Some(&hop("10.0.0.2")), &Sources::default(), UP);
        assert_eq!((made.interface, made.mtu, made.source_bits), (7, 1500, 0));
        assert_eq!(made.flags, Backend::ALIVE);
        assert_eq!(made.ethernet, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
        let template = encap::template_v4(0x0a00_0002_u32.to_be(), 0x0a00_000b_u32.to_be(), true);
        assert_eq!(made.outer, template);
    }

    #[test]
    fn a_configured_source_wins_over_the_routes() {
        let sources = Sources {
            v6: Some(Source { address: "2001:db8:1::".parse().unwrap(), spread_bits: 16 }),
            ..Sources::default()
        };
        let address = "2001:db8::b".parse().unwrap();
        let made = record(address, false, Some(&hop("2001:db8::2")), &sources, UP);
        assert_eq!(made.source_bits, 16);
        assert_eq!(made.flags, Backend::ALIVE | Backend::OUTER_V6);
        assert_eq!(made.outer[2..6], v6_to_wire("2001:db8:1::".parse().unwrap()));
        assert_eq!(made.ethernet[12..], [0x86, 0xdd]);
    }

    #[test]
    fn without_hop_or_source_a_record_has_no_interface() {
        let address = "10.0.0.11".parse().unwrap();
        let standing = Standing { alive: true, draining: true };
        let wanted = Backend { flags: Backend::ALIVE | Backend::DRAINING, ..Backend::default() };
        assert_eq!(record(address, false, None, &Sources::default(), standing), wanted);
        let other_family = hop("2001:db8::2");
        assert_eq!(record(address, false, Some(&other_family), &Sources::default(), standing), wanted);
    }
}
