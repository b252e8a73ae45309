//! The host around the data path: its own addresses, the devices from which packets come up to our interfaces, and
//! whether the host forwards what no service takes. This file watches and warns; the program counts and drops packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{counter::Counter, map::size};

use super::{Agent, interfaces::Host, merging};
use crate::{
    api::{kind::Kind, view},
    config::spec::{Spec, Unserved},
    net::{Lower, NetEvent, offload, own},
    reconcile::Desired,
    tables::Tables,
};

/// How long merged packets that came in are a reason to suspect devices that cannot be checked.
const SUSPECTED: Duration = Duration::from_secs(60);

/// What was observed of the host.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Addresses of the host; `None` = the kernel has not reported them yet.
    hosts: Option<BTreeSet<IpAddr>>,
    ports: BTreeMap<String, Port>,
    /// Addresses of services to which the host has a route that leads to another host.
    forwarded: BTreeSet<IpAddr>,
    /// What to do about merged packets, by interface.
    merging: BTreeMap<String, String>,
    /// What to do about addresses of services.
    unserved: Vec<String>,
    /// Packets counted as merged; `None` = not read yet.
    merged: Option<u64>,
    merged_at: Option<Instant>,
    /// The last look found a device that merges.
    merging_found: bool,
}

/// An interface that packets come in on.
#[derive(Debug)]
struct Port {
    index: u32,
    mtu: u32,
    below: Vec<Lower>,
}

impl Surroundings {
    /// Takes in what the kernel says. Returns whether the tables have to follow.
    pub(super) fn note(&mut self, event: &NetEvent) -> bool {
        match event {
            NetEvent::Hops(_) => false,
            NetEvent::Forwarded(addresses) => {
                self.forwarded.clone_from(addresses);
                false
            }
            NetEvent::Addresses(hosts) => {
                let most = size::HOST as usize;
                if hosts.len() > most {
                    log::warn!(
                        "this host has {} addresses, packets for more than {most} of them are not counted apart",
                        hosts.len()
                    );
                }
                self.hosts = Some(hosts.clone());
                true
            }
            NetEvent::Link { name, index, mtu, below, .. } => {
                let port = index.map(|index| Port { index, mtu: *mtu, below: below.clone() });
                let number = |port: Option<&Port>| port.map(|port| (port.index, port.mtu));
                let differs = number(self.ports.get(name)) != number(port.as_ref());
                match port {
                    Some(port) => drop(self.ports.insert(name.clone(), port)),
                    None => drop(self.ports.remove(name)),
                }
                differs
            }
        }
    }

    /// Addresses of the host, if they are known.
    pub(super) fn hosts(&self) -> Option<BTreeSet<IpAddr>> {
        self.hosts.clone()
    }

    /// MTUs of these interfaces, by their numbers.
    pub(super) fn ingress(&self, interfaces: &[String]) -> BTreeMap<u32, u32> {
        let port = |name: &String| self.ports.get(name).map(|port| (port.index, port.mtu));
        interfaces.iter().filter_map(port).collect()
    }

    /// What to do about addresses of services, for `lbctl status`.
    pub(super) fn notes(&self) -> Vec<String> {
        self.unserved.clone()
    }

    /// The interfaces with what to do about merged packets.
    pub(super) fn annotated(&self, mut interfaces: Vec<view::Interface>) -> Vec<view::Interface> {
        for interface in &mut interfaces {
            let Some(merging) = self.merging.get(&interface.name) else { continue };
            interface.note = Some(match interface.note.take() {
                Some(note) => format!("{note}; {merging}"),
                None => merging.clone(),
            });
        }
        interfaces
    }
}

impl<T: Tables + Host> Agent<T> {
    /// What the tables must say of services, and of the host.
    pub(super) fn with_surroundings(&self, spec: &Spec, services: Desired) -> Desired {
        Desired {
            hosts: self.surroundings.hosts(),
            ingress: self.surroundings.ingress(&spec.node.interfaces),
            ..services
        }
    }

    /// Also looks at what changes without a message of the kernel.
    pub(super) fn look_around(&mut self) {
        self.look_for_merging();
        let (spec, forwards) = (self.store.spec(), [forwards(false), forwards(true)]);
        let around = &mut self.surroundings;
        let mut notes = own_addresses(&spec, around.hosts.as_ref(), &own::speaks_from);
        notes.extend(unserved(&spec, forwards, &around.forwarded, around.hosts.as_ref()));
        for note in notes.iter().filter(|note| !around.unserved.contains(note)) {
            self.journal.note(Kind::ServiceAddress, "", note.clone());
        }
        around.unserved = notes;
    }

    fn look_for_merging(&mut self) {
        let counters = self.reconciler.tables().counters();
        let merged = counters.ok().and_then(|all| all.get(Counter::Merged as usize).copied()).unwrap_or(0);
        let around = &mut self.surroundings;
        // Packets that an agent before us has counted are not new.
        if around.merged.is_some_and(|before| merged > before) {
            around.merged_at = Some(Instant::now());
        }
        around.merged = Some(merged);
        // The generic path begins behind the devices that merge; a program in the driver sees packets as they came.
        let view = self.interfaces.view();
        let generic = view.iter().filter(|interface| interface.attached == "generic");
        let below: Vec<(&String, &Vec<Lower>)> = generic
            .filter_map(|interface| {
                around.ports.get(&interface.name).map(|port| (&interface.name, &port.below))
            })
            .collect();
        let advice = |suspected: bool| -> BTreeMap<String, String> {
            let offloads = |name: &str| offload::offloads(name).ok();
            below
                .iter()
                .filter_map(|&(name, below)| {
                    let advice = merging::advice(below, offloads, suspected)?;
                    Some((name.clone(), advice))
                })
                .collect()
        };
        let mut found = advice(false);
        if !found.is_empty() {
            around.merging_found = true;
        } else if std::mem::take(&mut around.merging_found) {
            // That device was the cause; merged packets that come from now on have another one.
            around.merged_at = None;
        } else if around.merged_at.is_some_and(|at| at.elapsed() < SUSPECTED) {
            found = advice(true);
        }
        for (name, advice) in &found {
            if around.merging.get(name) != Some(advice) {
                self.journal.note(Kind::InterfaceMerges, name.clone(), advice.clone());
            }
        }
        around.merging = found;
    }
}

/// Whether the host forwards packets of IPv6, or of IPv4, in this network namespace.
fn forwards(v6: bool) -> bool {
    let setting =
        if v6 { "/proc/sys/net/ipv6/conf/all/forwarding" } else { "/proc/sys/net/ipv4/conf/all/forwarding" };
    fs::read_to_string(setting).is_ok_and(|text| text.trim() != "0")
}

/// Services on addresses that this host speaks from. The agent refuses a file with such a service; but the address may
/// have come later, or the file may have been in force first.
fn own_addresses(
    spec: &Spec,
    hosts: Option<&BTreeSet<IpAddr>>,
    speaks_from: &dyn Fn(IpAddr) -> Option<own::Speaks>,
) -> Vec<String> {
    let hosts = hosts.into_iter().flatten();
    let note = |ip: &IpAddr| {
        let service = spec.services.iter().find(|service| service.listen.address == *ip)?;
        Some(format!("service {}: {}", service.name, speaks_from(*ip)?.refusal(*ip)))
    };
    hosts.filter_map(note).collect()
}

/// What to do about addresses of services. `forwards`: whether the host forwards IPv4, and IPv6.
fn unserved(
    spec: &Spec,
    forwards: [bool; 2],
    forwarded: &BTreeSet<IpAddr>,
    hosts: Option<&BTreeSet<IpAddr>>,
) -> Vec<String> {
    let addresses: BTreeSet<IpAddr> = spec.services.iter().map(|service| service.listen.address).collect();
    let note = |ip: IpAddr| match spec.node.unserved {
        Unserved::Pass if forwarded.contains(&ip) && forwards[usize::from(ip.is_ipv6())] => {
            let (option, length) = if ip.is_ipv6() { (" -6", 128) } else { ("", 32) };
            Some(format!(
                "{ip}: this host forwards packets, and has no route that ends those which no service takes, so that they \
                 go round between it and the router; `ip{option} route add blackhole {ip}/{length}`, or \
                 node.unserved = \"drop\""
            ))
        }
        Unserved::Drop if hosts.is_some_and(|hosts| hosts.contains(&ip)) => Some(format!(
            "{ip} is an address of this host, and node.unserved = \"drop\" drops whatever the host itself offers there, \
             or asks from there (health checks among it)"
        )),
        _ => None,
    };
    addresses.into_iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Configuration, overlay::Overlay};

    fn spec(unserved: &str) -> Spec {
        let text = format!(
            "node = {{ interface = \"eth0\", seed = \"s\", unserved = \"{unserved}\" }}\n\
             [[service]]\nname = \"web\"\nlisten = \"tcp/203.0.113.10:80\"\n"
        );
        let document = config::parse(text.as_bytes(), "lb.toml").unwrap();
        Configuration::new(document, &Overlay::default()).spec().clone()
    }

    #[test]
    fn forwarding_of_a_vip_is_reported_only_where_possible() {
        let spec = spec("pass");
        let ip = spec.services[0].listen.address;
        let forwarded = BTreeSet::from([ip]);
        let notes = |spec: &Spec, forwards, forwarded: &BTreeSet<IpAddr>| {
            unserved(spec, forwards, forwarded, Some(forwarded))
        };
        let note = notes(&spec, [true, false], &forwarded);
        assert!(note[0].contains(&format!("`ip route add blackhole {ip}/32`")), "{note:?}");
        assert_eq!(notes(&spec, [false, true], &forwarded), Vec::<String>::new());
        assert_eq!(notes(&spec, [true, true], &BTreeSet::new()), Vec::<String>::new());
        let spec = self::spec("drop");
        let note = notes(&spec, [true, true], &forwarded);
        assert!(note[0].starts_with(&format!("{ip} is an address of this host")), "{note:?}");
        assert_eq!(unserved(&spec, [true, true], &forwarded, None), Vec::<String>::new());
    }

    #[test]
    fn a_service_on_a_source_address_is_named() {
        let spec = spec("pass");
        let ip = spec.services[0].listen.address;
        let speaks = || own::Speaks { interface: "eth0".into(), towards: [10, 0, 0, 1].into() };
        let hosts = BTreeSet::from([ip, [10, 0, 0, 7].into()]);
        let notes = own_addresses(&spec, Some(&hosts), &|_| Some(speaks()));
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].starts_with(&format!("service web: {ip} is this host's own address on eth0")),
            "{notes:?}"
        );
        assert_eq!(
            own_addresses(&spec, Some(&hosts), &|_| None),
            Vec::<String>::new(),
            "a VIP that VRRP put there"
        );
        assert_eq!(own_addresses(&spec, None, &|_| Some(speaks())), Vec::<String>::new());
    }

    #[test]
    fn tables_follow_only_changed_mtus_and_addresses() {
        let mut around = Surroundings::default();
        let link = |index, mtu| NetEvent::Link {
            name: "eth0".into(),
            index,
            mac: None,
            up: true,
            mtu,
            below: Vec::new(),
        };
        let wanted = ["eth0".to_owned(), "eth1".to_owned()];
        assert!(around.note(&link(Some(2), 1500)));
        assert!(!around.note(&link(Some(2), 1500)));
        assert_eq!(around.ingress(&wanted), BTreeMap::from([(2, 1500)]));
        assert!(around.note(&link(Some(2), 9000)) && around.note(&link(None, 0)));
        assert_eq!(around.ingress(&wanted), BTreeMap::new());
        let hosts = BTreeSet::from([IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(around.hosts(), None);
        assert!(around.note(&NetEvent::Addresses(hosts.clone())));
        assert_eq!(around.hosts(), Some(hosts));
    }
}
