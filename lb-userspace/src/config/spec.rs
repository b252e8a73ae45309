//! What an operator wants, checked and with every default decided. Nothing here is optional by accident:
//! `None` always means something, and the field says what.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use crate::ring::Builder;
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
    /// A backend and its service, by their names: found among ten thousand as fast as among ten.
    pub fn backend(&self, service: &str, backend: &str) -> Option<(&Service, &Backend)> {
        let at = self.services.binary_search_by(|one| one.name.as_str().cmp(service)).ok()?;
        let service = self.services.get(at)?;
        let at = service.backends.binary_search_by(|one| one.name.as_str().cmp(backend)).ok()?;
        Some((service, service.backends.get(at)?))
    }
}

/// What holds for the node as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Interfaces that receive packets for services; at least one.
    pub interfaces: Vec<String>,
    /// Shared by every node of one site: same seed, same rings.
    pub seed: String,
    pub mode: AttachMode,
    /// What becomes of packets for the address of a service that no service takes.
    pub unserved: Unserved,
    /// Outer IPv4 source; `None` = the source address of the kernel's route to the backend.
    pub source_v4: Option<Source<Ipv4Addr>>,
    /// Outer IPv6 source; `None` = the source address of the kernel's route to the backend.
    pub source_v6: Option<Source<Ipv6Addr>>,
    /// Probes in flight at once, over all services.
    pub health_concurrency: usize,
    /// Group that may use the control socket; `None` = root's group only.
    pub socket_group: Option<String>,
    /// Where the overlay of run-time changes is kept.
    pub state_directory: PathBuf,
    /// TCP address at which metrics are served too; `None` = on the control socket only.
    pub metrics: Option<SocketAddr>,
}

/// One address, or a prefix whose low bits the flow hash fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source<A> {
    /// With `spread_bits` low bits 0.
    pub address: A,
    /// 0 = exactly `address`; at most 32.
    pub spread_bits: u8,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver where it can, else in the kernel's generic path, which is said.
    Auto,
    Native,
    Generic,
}

/// What becomes of a packet for the address of a service that no service takes. Those of ICMP pass in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// It is left to the host, which may answer it or send it on.
    Pass,
    Drop,
}

/// Sizes of the maps, in entries. They are fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub services: u32,
    pub backends: u32,
    pub slots: u32,
    pub flows: u32,
    pub pending_flows: u32,
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

/// The outer header. The inner family is the service's, the outer one the backend address's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Whatever the families of service and backend ask for.
    Auto,
    /// IPv4 in IPv4 (RFC 2003).
    Ipip,
    /// IPv6 in IPv6 (RFC 2473).
    Ip6Ip6,
    /// IPv6 in IPv4 (RFC 4213; the kernel calls it sit).
    Ip6Ip,
    /// IPv4 in IPv6 (RFC 2473).
    IpIp6,
}

/// How long the established flows of a backend that is down stay there before they go to another one, which resets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// At most the window.
    For(Duration),
    Forever,
}

/// What becomes of a ring when no backend passes its check.
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
    /// How many that is of `all`, rounded up.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => (count as usize).min(all),
            Self::Percent(percent) => (all * usize::from(percent)).div_ceil(100),
        }
    }
}

/// What of a packet says its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// Addresses, ports and protocol.
    #[default]
    FiveTuple,
    /// So many leading bits of the client's address: 1 to 32 or 128, as the family of `listen` has it.
    Source(u8),
}

impl Hash {
    /// As a ring has it ([`lb_common::ring::Ring::source_bits`]).
    pub const fn source_bits(self) -> u8 {
        match self {
            Self::FiveTuple => 0,
            Self::Source(bits) => bits,
        }
    }

    /// The other way round.
    pub fn of_source_bits(bits: u32) -> Self {
        u8::try_from(bits).ok().filter(|bits| *bits > 0).map_or(Self::FiveTuple, Self::Source)
    }
}

/// For how many backends a service is planned; at most `lb_common::ring::MAX_BACKENDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    /// The configuration says it.
    For(u32),
    /// It follows from the backends that the configuration has (`lb_common::ring::default_max_backends`). Backends that
    /// serve on after they were removed, or wait for a number, do not change it.
    ByDefault(u32),
}

impl Planned {
    /// The default of a service that has so many backends.
    pub fn by_default(backends: usize) -> Self {
        let backends = u32::try_from(backends).unwrap_or(u32::MAX);
        Self::ByDefault(lb_common::ring::default_max_backends(backends))
    }

    pub const fn backends(self) -> u32 {
        match self {
            Self::For(backends) | Self::ByDefault(backends) => backends,
        }
    }

    /// What the configuration says.
    pub const fn said(self) -> Option<u32> {
        match self {
            Self::For(backends) => Some(backends),
            Self::ByDefault(_) => None,
        }
    }

    /// The length of the ring that this asks for.
    pub const fn length(self) -> u32 {
        match lb_common::ring::length_for(self.backends()) {
            Some(length) => length,
            None => lb_common::ring::LENGTHS[lb_common::ring::LENGTHS.len() - 1],
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub listen: Listen,
    pub encapsulation: Encapsulation,
    /// What the ring is sized for.
    pub max_backends: Planned,
    pub hold: Hold,
    pub all_down: AllDown,
    /// How long backends that the configuration no longer names serve on while none that it names is known to work.
    pub handover: Duration,
    pub track: Track,
    pub hash: Hash,
    /// Other than [`Balance::Hash`] only with [`Track::Always`] and [`Hash::FiveTuple`].
    pub balance: Balance,
    /// How the slots are dealt.
    pub ring: Builder,
    /// In which time the weight of a backend that came or came back grows to its whole; `None` = at once.
    pub slow_start: Option<Duration>,
    /// With fewer healthy backends than that, health is ignored; `None` = never.
    pub min_healthy: Option<MinHealthy>,
    /// How long a silent flow is remembered after a change: `track_window` for TCP, `udp_idle` for UDP.
    pub window: Duration,
    /// A flow that has sent nothing for that long counts for neither balancing nor a drain.
    pub idle_after: Duration,
    /// `None` = backends count as up without being asked.
    pub health: Option<Health>,
    /// Sorted by name; names are unique within the service.
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    pub address: IpAddr,
    /// 0–1000; 0 = takes no new flows and keeps its old ones, like a drain.
    pub weight: u16,
    pub admin: Admin,
}

/// What the operator says of a backend. What health says is another matter (`state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    Enabled,
    /// Leaves the ring, keeps its flows.
    Draining,
    /// Leaves the ring, loses its flows, is not probed.
    Disabled,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    pub probe: Probe,
    /// Port to probe; decided from the service's port where the file does not say.
    pub port: u16,
    pub interval: Duration,
    /// Between probes while a verdict is being made: after the first failure, or success, that differs.
    pub fast_interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that make a backend up; at least 1.
    pub rise: u32,
    /// Failures in a row that take it out; at least 1.
    pub fall: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// The connection is accepted.
    Tcp,
    Http(HttpProbe),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpProbe {
    /// `Some` = HTTPS.
    pub tls: Option<TlsProbe>,
    pub path: String,
    /// Host header and TLS server name; `None` = the backend's address.
    pub host: Option<String>,
    /// Accepted status codes.
    pub expect: Vec<RangeInclusive<u16>>,
    /// Must occur in the first 64 KiB of the body; `None` = the body is not read.
    pub body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsProbe {
    /// Check the certificate's chain and name. Off by default: a probe asks whether the backend works.
    pub verify: bool,
    /// PEM file with the roots for `verify`; `None` = the public web's roots.
    pub ca: Option<PathBuf>,
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
