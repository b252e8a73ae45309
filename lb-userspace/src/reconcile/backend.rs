//! Backend records: everything that a packet needs to reach a backend, computed once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{Address, backend::Backend, encap::Kind};

use crate::{config::spec::Source, net::Hop, tables::address::to_wire};

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
    kind: Kind,
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
    let unresolved = Backend { flags, ..Backend::default() };
    let Some(hop) = hop else { return unresolved };
    let Some((source, source_bits)) = source(address, hop, sources) else { return unresolved };
    let outer = kind.outer(&source, &to_wire(address), inner_is_v6);
    let mut ethernet = [0; 14];
    ethernet[..6].copy_from_slice(&hop.mac);
    ethernet[6..12].copy_from_slice(&hop.local_mac);
    ethernet[12..].copy_from_slice(&outer.ethertype.to_ne_bytes());
    Backend {
        interface: hop.interface,
        flags,
        source_bits,
        room: hop.mtu.saturating_sub(outer.overhead),
        ethernet,
        encap: outer.form,
        sum: outer.sum,
        outer: outer.template,
        ..Backend::default()
    }
}

/// The outer source address for a backend at `address`, and how many of its low bits packets fill in.
fn source(address: IpAddr, hop: &Hop, sources: &Sources) -> Option<(Address, u8)> {
    let configured = match address {
        IpAddr::V4(_) => sources.v4.map(|source| (IpAddr::from(source.address), source.spread_bits)),
        IpAddr::V6(_) => sources.v6.map(|source| (IpAddr::from(source.address), source.spread_bits)),
    };
    let fallback = (hop.source.is_ipv4() == address.is_ipv4()).then_some((hop.source, 0));
    configured.or(fallback).map(|(address, bits)| (to_wire(address), bits))
}

#[cfg(test)]
mod tests {
    use lb_common::encap::form;

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

    /// The record of a backend that IP in IP goes to.
    fn made(
        address: &str,
        inner_is_v6: bool,
        hop: Option<&Hop>,
        sources: &Sources,
        standing: Standing,
    ) -> Backend {
        record(Kind::Ipip, address.parse().unwrap(), inner_is_v6, hop, sources, standing)
    }

    #[test]
    fn an_ipv4_record_has_header_source_and_template() {
        let made = made("10.0.0.11", true, Some(&hop("10.0.0.2")), &Sources::default(), UP);
        assert_eq!((made.interface, made.room, made.source_bits, made.encap), (7, 1480, 0, form::IPIP_V4));
        assert_eq!(made.flags, Backend::ALIVE);
        assert_eq!(made.ethernet, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
        let [source, destination] = ["10.0.0.2", "10.0.0.11"].map(|text| to_wire(text.parse().unwrap()));
        assert_eq!(made.outer, Kind::Ipip.outer(&source, &destination, true).template);
    }

    #[test]
    fn a_configured_source_wins_over_the_routes() {
        let sources = Sources {
            v6: Some(Source { address: "2001:db8:1::".parse().unwrap(), spread_bits: 16 }),
            ..Sources::default()
        };
        let made = made("2001:db8::b", false, Some(&hop("2001:db8::2")), &sources, UP);
        assert_eq!((made.room, made.source_bits, made.encap), (1460, 16, form::IPIP_V6));
        assert_eq!(made.outer[..4], to_wire("2001:db8:1::".parse().unwrap()));
        assert_eq!(made.ethernet[12..], [0x86, 0xdd]);
    }

    #[test]
    fn without_hop_or_source_a_record_has_no_interface() {
        let (address, sources) = ("10.0.0.11", Sources::default());
        let standing = Standing { alive: true, draining: true };
        let wanted = Backend { flags: Backend::ALIVE | Backend::DRAINING, ..Backend::default() };
        assert_eq!(made(address, false, None, &sources, standing), wanted);
        let other_family = hop("2001:db8::2");
        assert_eq!(made(address, false, Some(&other_family), &sources, standing), wanted);
    }
}
