//! What an operator wants, checked and with every default filled in. No field is optional by accident:
//! `None` always has a meaning, and the field's comment says which.

mod backend;
mod health;
mod hold;
mod limits;
mod node;
mod service;

use std::{net::IpAddr, time::Duration};

pub(super) use self::{
    backend::BACKEND,
    health::{Check, HEALTH, QUIET_INTERVAL, fields as health_fields, kinds, over_udp, takes},
    limits::{LIMITS, MOST_SLOTS},
    node::{DEFAULT_STATE, NODE},
    service::SERVICE,
};
pub use self::{
    backend::{Backend, MOST_WEIGHT},
    health::*,
    limits::Limits,
    node::Node,
    service::Service,
};
use lb_common::encap::Kind;
pub use lb_common::{balance::Balance, slot::Track};

/// The whole configuration of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub node: Node,
    pub limits: Limits,
    /// Sorted by name; names are unique, and so are `listen`s.
    pub services: Vec<Service>,
}

impl Spec {
    /// A backend and its service, by their names. Binary search: fast also among ten thousand backends.
    pub fn backend(&self, service: &str, backend: &str) -> Option<(&Service, &Backend)> {
        let at = self.services.binary_search_by(|one| one.name.as_str().cmp(service)).ok()?;
        let service = self.services.get(at)?;
        let at = service.backends.binary_search_by(|one| one.name.as_str().cmp(backend)).ok()?;
        Some((service, service.backends.get(at)?))
    }
}

/// One address, or a prefix whose low bits the flow hash fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<A> {
    /// Its low `spread_bits` bits are 0.
    pub address: A,
    /// 0 = exactly `address`; at most 24 for IPv4 and 32 for IPv6.
    pub spread_bits: u8,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver where the driver supports it, else in the kernel's generic path; the fallback is reported.
    Auto,
    Native,
    Generic,
}

/// What happens to a packet for a virtual address that no service takes. ICMP packets pass in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The host gets the packet, and may answer it or forward it.
    Pass,
    Drop,
}

/// What happens to an echo request (ping) to the address of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// The packet program sends the reply.
    Answer,
    /// The same, while a service of the address has a backend that is up.
    Healthy,
    /// The host gets the request.
    Host,
    Drop,
}

/// What happens to a packet that is too big for the way to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooBig {
    /// Its sender gets an answer that says how large a packet may be.
    Answer,
    Drop,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Where a service listens: `tcp/203.0.113.10:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    pub protocol: Protocol,
    pub address: IpAddr,
    /// 0 = every port.
    pub port: u16,
}

/// The outer header. The inner address family is the service's, the outer family is the backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// The one that fits the address families of service and backend.
    Auto,
    /// IPv4 in IPv4 (RFC 2003).
    Ipip,
    /// IPv6 in IPv6 (RFC 2473).
    Ip6Ip6,
    /// IPv6 in IPv4 (RFC 4213; the kernel calls it sit).
    Ip6Ip,
    /// IPv4 in IPv6 (RFC 2473).
    IpIp6,
    /// No outer header: the frame goes to the backend's Ethernet address.
    L2,
    /// IP in UDP.
    Gue,
}

impl Encapsulation {
    /// The kind that it is, whatever the families are.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Auto | Self::Ipip | Self::Ip6Ip6 | Self::Ip6Ip | Self::IpIp6 => Kind::Ipip,
            Self::L2 => Kind::L2,
            Self::Gue => Kind::Gue,
        }
    }

    /// Whether packets of the service and outer headers are IPv6; `None` = whatever `listen` and the backends are.
    pub const fn families(self) -> Option<(bool, bool)> {
        match self {
            Self::Ipip => Some((false, false)),
            Self::Ip6Ip6 => Some((true, true)),
            Self::Ip6Ip => Some((true, false)),
            Self::IpIp6 => Some((false, true)),
            _ => None,
        }
    }
}

/// How long the established flows of a backend that is down stay there before they go to another backend, which resets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// At most the window.
    For(Duration),
    Forever,
}

/// What happens to a ring when no backend passes its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllDown {
    /// It stays as it is.
    Keep,
    /// It is emptied: new flows are dropped.
    Drop,
}

/// How many backends of those that may take new flows must be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinHealthy {
    /// At least 1.
    Count(u32),
    /// Of all that may take new flows, 1 to 100.
    Percent(u8),
}

impl MinHealthy {
    /// The number of backends, out of `all`, rounded up; at most `all`.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => (count as usize).min(all),
            Self::Percent(percent) => (all * usize::from(percent)).div_ceil(100),
        }
    }
}

/// The part of a packet that selects its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// Addresses, ports and protocol.
    #[default]
    FiveTuple,
    /// This many leading bits of the client's address: 1 to 32 (IPv4) or 128 (IPv6), by the family of `listen`.
    Source(u8),
}

impl Hash {
    /// The form in a ring ([`lb_common::ring::Ring::source_bits`]).
    pub const fn source_bits(self) -> u8 {
        match self {
            Self::FiveTuple => 0,
            Self::Source(bits) => bits,
        }
    }

    /// The reverse of [`Self::source_bits`].
    pub fn of_source_bits(bits: u32) -> Self {
        u8::try_from(bits).ok().filter(|bits| *bits > 0).map_or(Self::FiveTuple, Self::Source)
    }
}

/// The number of backends that a service is planned for; at most `lb_common::ring::MAX_BACKENDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    /// The configuration sets it.
    For(u32),
    /// It is computed from the number of backends in the configuration (`lb_common::ring::default_max_backends`). Removed
    /// backends that still serve, and backends that wait for a number, do not change it.
    ByDefault(u32),
}

impl Planned {
    /// The default of a service that has this many backends.
    pub fn by_default(backends: usize) -> Self {
        let backends = u32::try_from(backends).unwrap_or(u32::MAX);
        Self::ByDefault(lb_common::ring::default_max_backends(backends))
    }

    pub const fn backends(self) -> u32 {
        match self {
            Self::For(backends) | Self::ByDefault(backends) => backends,
        }
    }

    /// The number that the configuration sets; `None` = it sets none.
    pub const fn said(self) -> Option<u32> {
        match self {
            Self::For(backends) => Some(backends),
            Self::ByDefault(_) => None,
        }
    }

    /// The length of the ring for this number of backends, in slots.
    pub const fn length(self) -> u32 {
        match lb_common::ring::length_for(self.backends()) {
            Some(length) => length,
            None => lb_common::ring::LENGTHS[lb_common::ring::LENGTHS.len() - 1],
        }
    }
}

/// The operator's setting for a backend. The health of a backend is kept elsewhere (`state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    Enabled,
    /// Leaves the ring, keeps its flows.
    Draining,
    /// Leaves the ring, loses its flows, is not probed.
    Disabled,
}

#[cfg(test)]
mod tests {
    use crate::config::testing;

    #[test]
    fn every_backend_is_found_by_its_names_and_no_other_one() {
        let spec = testing::spec(
            "[node]\ninterface = \"eth0\"\nseed = \"s\"\n[[service]]\nname = \"b\"\nlisten = \"tcp/192.0.2.1:1\"\n\
             [[service]]\nname = \"a\"\nlisten = \"tcp/192.0.2.1:2\"\n\
             backend = [{ address = \"10.0.0.9\" }, { address = \"10.0.0.10\" }, { address = \"10.0.0.11\" }]\n",
        );
        assert_eq!(spec.services.iter().map(|service| service.backends.len()).sum::<usize>(), 3);
        for service in &spec.services {
            for backend in &service.backends {
                assert_eq!(spec.backend(&service.name, &backend.name), Some((service, backend)));
            }
        }
        for (service, backend) in [("a", "10.0.0.1"), ("b", "10.0.0.9"), ("c", "10.0.0.9")] {
            assert_eq!(spec.backend(service, backend), None);
        }
    }
}
