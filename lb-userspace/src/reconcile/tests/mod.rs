//! Planning, applying and sweeping on the in-memory tables. This file makes the wishes and packets of the tests.

mod first;
mod histories;
mod impact;
mod order;
mod room;
mod steps;
mod sweeps;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_common::{backend::Backend, encap::Kind, hash::Seed, slot::Track};

use super::{
    Reconciler,
    desired::{self, Desired},
};
use crate::{
    config::spec::{Balance, Hash, Listen, Protocol},
    net::Hop,
    reconcile::{
        apply,
        backend::{Sources, Standing, record},
        operation::Operation,
        plan::Plan,
    },
    ring::{self, Entry},
    tables::{
        Sizes, Tables, address,
        memory::{Packet, Twin, Verdict},
    },
};

const SEED: Seed = Seed([0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321]);
const WINDOW: Duration = Duration::from_secs(96);
/// `idle_after` of the tests' services.
const IDLE_AFTER: Duration = Duration::from_secs(24);

/// The state of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Up,
    Draining,
    Down,
    Disabled,
}

/// A wished service: short, so that histories can be written and generated.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wish {
    name: &'static str,
    /// Number of its `listen`; every fifth number listens on every port.
    listen: u8,
    length: u32,
    track: Track,
    hash: Hash,
    balance: Balance,
    /// Backend number in its address → the backend's state.
    backends: BTreeMap<u8, State>,
}

fn wish(name: &'static str, listen: u8, length: u32, backends: &[(u8, State)]) -> Wish {
    let hash = Hash::FiveTuple;
    let balance = Balance::Hash;
    Wish {
        name,
        listen,
        length,
        track: Track::OnChange,
        hash,
        balance,
        backends: backends.iter().copied().collect(),
    }
}

fn listen(number: u8) -> Listen {
    let address = if number.is_multiple_of(2) {
        IpAddr::from([203, 0, 113, number / 4])
    } else {
        format!("2001:db8::{}", number / 4).parse().unwrap()
    };
    let port = if number % 5 == 4 { 0 } else { 440 + u16::from(number % 3) };
    Listen { protocol: if number.is_multiple_of(3) { Protocol::Udp } else { Protocol::Tcp }, address, port }
}

fn backend_address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

fn hop(number: u8) -> Hop {
    Hop {
        interface: 1 + u32::from(number % 3),
        interface_name: format!("eth{}", number % 3),
        via: backend_address(number),
        mac: [2, 0, 0, 0, 0, number],
        local_mac: [2, 0, 0, 0, 1, 0],
        mtu: 1500,
        source: IpAddr::from([10, 0, 0, 254]),
    }
}

fn desired(wishes: &[Wish]) -> Desired {
    Desired {
        seed: SEED,
        configuration: 7,
        services: wishes.iter().map(service).collect(),
        ..Desired::default()
    }
}

fn service(wish: &Wish) -> desired::Service {
    let names: Vec<String> = wish.backends.keys().map(|number| format!("b{number}")).collect();
    let weight = |standing| if standing == State::Up { 100 } else { 0 };
    let entries: Vec<_> = names
        .iter()
        .zip(wish.backends.values())
        .map(|(name, standing)| Entry { name, weight: weight(*standing) })
        .collect();
    let builder = match wish.balance {
        Balance::RoundRobin => ring::Builder::RoundRobin,
        Balance::LeastConnections => ring::Builder::Runs,
        Balance::Hash | Balance::Random => ring::Builder::Maglev,
    };
    let listen = listen(wish.listen);
    let backends = names.iter().zip(&wish.backends).map(|(name, (&number, &standing))| {
        let address = backend_address(number);
        let returns = standing != State::Disabled;
        let alive = matches!(standing, State::Up | State::Draining);
        let standing = Standing { alive, draining: standing == State::Draining };
        let inner_is_v6 = listen.address.is_ipv6();
        // The agent looks for no next hop of a disabled backend.
        let hop = returns.then(|| hop(number));
        let record = record(Kind::Ipip, address, inner_is_v6, hop.as_ref(), &Sources::default(), standing);
        desired::Backend { name: name.clone(), address, record, returns }
    });
    desired::Service {
        name: wish.name.into(),
        listen,
        max_backends: wish.length / 4,
        track: wish.track,
        hash: wish.hash,
        balance: wish.balance,
        window: WINDOW,
        idle_after: IDLE_AFTER,
        answers_ping: false,
        backends: backends.collect(),
        ring: ring::build(builder, &SEED, &entries, wish.length).into(),
    }
}

fn new_reconciler() -> Reconciler<Twin> {
    Reconciler::new(Twin::new(Sizes::new(8, 64, 600))).unwrap()
}

/// A packet of client number `client` to a service.
fn packet(listen: &Listen, client: u32, syn: bool) -> Packet {
    let record = desired::key(listen);
    let host = client / 5000 * 256 + client % 97;
    Packet {
        source: address::to_wire(match listen.address {
            IpAddr::V4(_) => IpAddr::from((0x0a01_0000 + host).to_be_bytes()),
            IpAddr::V6(_) => IpAddr::from((0x2001_0db8_0001 << 80 | u128::from(host)).to_be_bytes()),
        }),
        destination: record.0,
        source_port: 1024 + (client % 5000) as u16 * 7,
        destination_port: if listen.port == 0 { 8000 + (client % 3) as u16 } else { listen.port },
        protocol: (record.1 >> 16) as u8,
        syn,
        closes: false,
        sequence: 1000,
    }
}

/// The address of the backend that a verdict sends to, and the service number.
fn target(reconciler_tables: &Twin, verdict: Verdict) -> Option<(u32, IpAddr)> {
    let Verdict::Forwarded { service, backend } = verdict else { return None };
    let metas = reconciler_tables.backend_metas().unwrap();
    let meta = metas[backend as usize];
    assert_eq!(meta.service, service, "a backend of another service");
    Some((service, address::from_wire(&meta.address)))
}

fn plan(reconciler: &mut Reconciler<Twin>, wishes: &[Wish], now: u16) -> Plan {
    reconciler.plan(&desired(wishes), now).unwrap()
}

/// Plans and applies. Returns the number of entries written.
fn put(reconciler: &mut Reconciler<Twin>, wishes: &[Wish], now: u16) -> u64 {
    let plan = plan(reconciler, wishes, now);
    let before = reconciler.tables().writes();
    let applied = reconciler.apply(&plan).unwrap();
    assert_eq!(applied.writes, reconciler.tables().writes() - before, "every entry is counted");
    assert_eq!(applied.writes, plan.entries());
    applied.writes
}

/// The steps of a plan cut into single writes.
fn single_writes(plan: &Plan) -> Vec<Operation> {
    let mut single = Vec::new();
    for operation in &plan.operations {
        match operation {
            Operation::Slots { service, words } => {
                single.extend(
                    words.iter().map(|word| Operation::Slots { service: *service, words: vec![*word] }),
                );
            }
            Operation::ServiceCacheKeys(keys) => {
                single.extend(keys.iter().map(|key| Operation::ServiceCacheKeys(vec![*key])));
            }
            other => single.push(other.clone()),
        }
    }
    single
}

/// Checks that the tables say exactly what is wished.
fn assert_says(reconciler: &Reconciler<Twin>, wishes: &[Wish]) {
    let running = reconciler.running(0);
    assert_eq!(running.len(), wishes.len());
    for wish in wishes {
        let wanted = service(wish);
        let service = running.iter().find(|service| service.listen == wanted.listen).unwrap();
        assert_eq!(
            (service.name.as_str(), service.max_backends, service.ring.length()),
            (wish.name, wanted.max_backends, wish.length)
        );
        let mut backends = wanted.backends.clone();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(service.backends.len(), backends.len());
        for (found, wanted) in service.backends.iter().zip(&backends) {
            let mut record = found.record;
            if !wanted.returns && !record.is_alive() {
                // A backend that was alive keeps its next hop for packets under way.
                record = Backend { flags: record.flags, weight: record.weight, ..Backend::default() };
            }
            assert_eq!(
                (&found.name, found.address, record),
                (&wanted.name, wanted.address, wanted.record),
                "{:?}",
                service.backends
            );
        }
        let words = super::slot::words(reconciler.tables().slots(), service.ring);
        for ((at, word), owner) in words.zip(wanted.ring.iter()) {
            let owner = owner.checked_sub(1).map(|place| wanted.backends[place as usize].address);
            let current = service.backends.iter().find(|backend| backend.number == word.current());
            assert_eq!(current.map(|backend| backend.address), owner, "slot {at}: {word:?}");
        }
        assert!(reconciler.tables().is_virtual(&desired::key(&wanted.listen).0));
    }
    let words = reconciler.tables().index();
    let taken = words.iter().filter(|word| {
        let word = word.load(std::sync::atomic::Ordering::Relaxed);
        word != 0 && word != lb_common::service::Bucket::TOMBSTONE
    });
    let addresses: std::collections::BTreeSet<_> =
        wishes.iter().map(|wish| listen(wish.listen).address).collect();
    assert_eq!(taken.count(), wishes.len() + addresses.len(), "no word leads nowhere");
}
