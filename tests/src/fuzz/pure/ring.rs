//! Slots and pinned state. The first byte chooses one of two tests: slot words, and the effects of changes and packets on them,
//! compared with a second implementation of the rule; or tables with any content, which an agent adopts and brings into the
//! wanted state, by every hash and balance.

use std::{
    net::IpAddr,
    sync::{LazyLock, atomic::Ordering},
    time::Duration,
};

use lb_common::{
    backend::Backend,
    encap::Kind,
    evidence::{Known, Packet, Segment, Write, asks_pending, decide},
    flow::Record,
    hash::Seed,
    map::{NameRecord, Node},
    ring::{Ring, length_for},
    service::Service,
    service_cache,
    slot::{MAX_BACKEND, PREVIOUS_RING, Slot, Track},
};
use lb_userspace::{
    config::spec::{Balance, Hash, Listen, Protocol},
    reconcile::{
        Desired, PlanError, Reconciler,
        backend::{Sources, Standing, record},
        desired,
    },
    ring::{Builder, Entry, build},
    tables::{Sizes, Tables as _, address, memory::Twin},
};

/// Bytes as a source of numbers; zeros when no bytes are left.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = N.min(self.0.len());
        let (now, rest) = self.0.split_at(count);
        taken[..count].copy_from_slice(now);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

pub(super) fn judge(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    match bytes.byte() % 2 {
        0 => words(&mut bytes),
        _ => pinned(&mut bytes),
    }
}

/// The meaning of a slot: whether it is tracked, its owner, and the owner of unknown flows if that is another backend.
type Meaning = (bool, u32, Option<u32>);

fn meaning(slot: Slot) -> Meaning {
    let learning = slot.is_tracked() && slot.previous() != 0;
    (slot.is_tracked(), slot.current(), learning.then(|| slot.previous()))
}

/// The rule of lb-common/doc/slots.md, "What a change makes of a slot", a second time. For words that the agent writes.
fn changed(
    (tracked, owner, unknown): Meaning,
    track: Track,
    new: u32,
    alive: impl Fn(u32) -> bool,
) -> Meaning {
    if track == Track::Never && new != owner {
        return (tracked, new, None);
    }
    let belongs_to = unknown.unwrap_or(owner);
    let stays = belongs_to != 0 && belongs_to != new && (belongs_to == PREVIOUS_RING || alive(belongs_to));
    let unknown = stays.then_some(belongs_to);
    (tracked || stays || track == Track::Always, new, unknown)
}

/// The same for services that balance other than by the hash, from "When a service begins to balance"; `before`: it did so.
fn changed_balanced(
    (_, owner, unknown): Meaning,
    before: bool,
    new: u32,
    alive: impl Fn(u32) -> bool,
) -> Meaning {
    let belongs_to = unknown.unwrap_or(owner);
    let waits = (unknown.is_some() || !before) && belongs_to != 0;
    let unknown = (waits && (belongs_to == PREVIOUS_RING || alive(belongs_to))).then_some(belongs_to);
    (true, new, unknown)
}

/// A history of one slot.
fn words(bytes: &mut Bytes<'_>) {
    let first = u32::from(bytes.byte() % 5);
    let mut slot = Slot::stable(first);
    let mut wanted: Meaning = (false, first, None);
    while !bytes.0.is_empty() {
        let what = bytes.byte();
        let now = bytes.half();
        match what % 8 {
            0..=2 => {
                let track = [Track::OnChange, Track::Always, Track::Never][usize::from(what % 3)];
                // Mostly few backends, so that the same ones come back.
                let new = if what & 0x80 == 0 { u32::from(now & 3) } else { bytes.word() % MAX_BACKEND };
                let dead = u32::from(bytes.byte() & 3);
                let alive = |number: u32| number != dead;
                let before = slot;
                slot = slot.next(track, new, alive, now);
                wanted = changed(wanted, track, new, alive);
                assert_eq!(slot.next(track, new, alive, now.wrapping_add(9)), slot, "the same change twice");
                if before.is_learning() && slot.previous() == before.previous() {
                    assert_eq!(slot.since(), before.since(), "a window that runs began again");
                }
            }
            6 | 7 => {
                let new = if what & 0x80 == 0 { u32::from(now & 3) } else { bytes.word() % MAX_BACKEND };
                let dead = u32::from(bytes.byte() & 3);
                let alive = |number: u32| number != dead;
                let (began, was) = (what & 0x40 != 0, slot);
                slot = slot.next_balanced(began, new, alive, now);
                wanted = changed_balanced(wanted, began, new, alive);
                let again = slot.next_balanced(true, new, alive, now.wrapping_add(9));
                assert_eq!(again, slot, "the same change of a balanced slot twice");
                if was.is_learning() && slot.is_learning() {
                    assert_eq!(slot.since(), was.since(), "a balanced slot's window that runs began again");
                }
            }
            3 => {
                slot = slot.end_learning();
                wanted = (true, wanted.1, None);
            }
            4 => {
                slot = slot.settle();
                wanted.0 = wanted.2.is_some();
            }
            _ => {
                slot = Slot::after_resize(wanted.1, now);
                wanted = (true, wanted.1, Some(PREVIOUS_RING));
            }
        }
        assert_eq!(meaning(slot), wanted, "after {what}: {slot:?}");
        packets(slot, bytes);
    }
}

/// Checks what holds for any packet in a slot, whatever is recorded.
fn packets(slot: Slot, bytes: &mut Bytes<'_>) {
    let mut record = || {
        let (backend, flags) = (u32::from(bytes.byte() % 5), u32::from(bytes.byte()));
        let sequence = u32::from(bytes.byte()) << 24 | u32::from(bytes.byte());
        let record = Record { backend, flags, sequence, last_seen: 0 };
        if backend == 0 { Record::NONE } else { record }
    };
    let (flow, pending, shape) = (record(), record(), record());
    let flow = Record { flags: flow.flags & !Record::ELDER, ..flow };
    let segments = [
        Segment::Syn,
        Segment::Ordinary { fin: false },
        Segment::Ordinary { fin: true },
        Segment::Reset,
        Segment::Stray,
        Segment::Datagram,
    ];
    let segment = segments[shape.flags as usize % segments.len()];
    let packet = Packet { segment, sequence: shape.sequence, now: shape.flags };
    let alone = Known { flow, pending: Record::NONE, dead_flow: false, dead_pending: false, away: false };
    let pending = if asks_pending(&packet, &flow) { pending } else { Record::NONE };
    let unknown = slot.owner_of_unknown();
    let unknown = if unknown == PREVIOUS_RING { slot.current() } else { unknown };
    let dead = Known { dead_flow: flow.is_there(), away: true, ..alone };
    if !matches!(segment, Segment::Syn | Segment::Datagram) {
        let decision = decide(slot, shape.backend == 1, &packet, &dead, slot.current());
        let written = (decision.backend(), decision.flow(), decision.pending());
        let wanted = (slot.current(), Write::Keep, Write::Keep);
        assert_eq!(written, wanted, "a segment moved the flow of a backend that is down: {slot:?}");
    }
    let known = Known { pending, ..alone };
    let decision = decide(slot, shape.backend == 1, &packet, &known, unknown);
    let after = decision.flow_after(&flow);
    let is_live = flow.is_there() && !flow.has(Record::CLOSING | Record::ONCE);
    if is_live && segment == Segment::Syn {
        assert_eq!(after.backend, flow.backend, "a SYN moved a flow");
    }
    // What the flow's number is not near to may be nearer to another record.
    let elders = pending.has(Record::ELDER) && pending.is_near(packet.sequence);
    let is_nearer = !flow.is_near(packet.sequence) && (elders || pending.is_continued_by(packet.sequence));
    let fits = flow.fits(packet.sequence) && !flow.has(Record::CONTESTED);
    if is_live && segment != Segment::Syn && fits && is_nearer {
        assert!([flow.backend, pending.backend].contains(&decision.backend()), "to a third: {slot:?}");
    } else if is_live && segment != Segment::Syn && fits {
        assert_eq!(
            (decision.backend(), after.backend),
            (flow.backend, flow.backend),
            "a flow moved: {slot:?}"
        );
    }
    if flow.is_there() && after.backend != flow.backend {
        assert!(pending.is_continued_by(packet.sequence), "another took its place: {packet:?} {flow:?}");
    }
    if !flow.is_there() && !pending.is_there() {
        let wanted = if segment == Segment::Syn { slot.current() } else { unknown };
        assert_eq!(decision.backend(), wanted, "an unknown flow: {slot:?} {segment:?}");
    }
    if decision.backend() == 0 {
        assert_eq!(
            (decision.flow(), decision.pending()),
            (Write::Keep, Write::Keep),
            "recorded for no backend"
        );
    }
    if decision.begins() {
        let datagram = segment == Segment::Datagram && !slot.is_learning();
        assert!(segment == Segment::Syn || datagram, "{segment:?} begins no flow: {slot:?}");
        let owner = if segment == Segment::Syn { slot.current() } else { unknown };
        assert_eq!(decision.backend(), owner, "what begins is the owner's where the hash balances: {slot:?}");
    }
}

/// Tables with any content: an agent reads them, brings them into the wanted state, sweeps, and does not fail.
fn pinned(bytes: &mut Bytes<'_>) {
    let sizes = Sizes::new(4, 12, 1024);
    let mut tables = Twin::new(sizes);
    let order: [u8; 3] = bytes.take();
    while !bytes.0.is_empty() {
        put(&mut tables, sizes, bytes);
    }
    let mut reconciler = Reconciler::new(tables).expect("reading memory");
    let wishes = order.map(|place| &WISHES[usize::from(place) % WISHES.len()]);
    for (round, wish) in (0..).zip(wishes) {
        for again in [false, true] {
            match reconciler.plan(wish, round * 3) {
                Ok(plan) => {
                    assert!(!again || plan.entries() == 0, "the second time writes {:?}", plan.operations);
                    reconciler.apply(&plan).expect("every entry that is written is there");
                    says(reconciler.tables(), wish);
                }
                // The content of the tables may leave no room; the agent says so and changes nothing.
                Err(PlanError::Refused(why)) => {
                    assert!(!why.is_empty(), "refused without a reason");
                    break;
                }
                Err(PlanError::Tables(error)) => panic!("{error}"),
            }
        }
        reconciler.sweep(round * 3 + 1).expect("every entry that is written is there");
    }
}

/// Checks that the tables are in the wanted state: each service has a record, and its ring has the owner of each slot.
fn says(tables: &Twin, wish: &Desired) {
    let services = tables.services().expect("memory is read");
    let metas = tables.backend_metas().expect("memory is read");
    for service in &wish.services {
        let key = desired::key(&service.listen);
        let mut records = services.iter().filter(|record| record.flags & Service::PRESENT != 0);
        let record = records.find(|record| record.is(&key.0, key.1)).expect("the service has a record");
        let flags = Service::flags_of(service.track, service.balance);
        assert_eq!(record.flags, flags, "how flows are recorded and balanced");
        if record.ring.length() as usize != service.ring.len()
            || record.ring.source_bits() != u32::from(service.hash.source_bits())
        {
            // A ring of another length or hash waits until no packet asks the old ring any more.
            assert_ne!(record.old_ring, Ring::NONE, "a ring waits for none before it");
            continue;
        }
        for (at, owner) in (record.ring.offset()..).zip(service.ring.iter()) {
            let current = Slot(tables.slots()[at as usize].load(Ordering::Relaxed)).current();
            let wanted = (*owner as usize).checked_sub(1).map(|place| service.backends[place].address);
            let found = (current != 0).then(|| address::from_wire(&metas[current as usize].address));
            assert_eq!(found, wanted, "the owner of a slot");
        }
    }
}

/// Writes one entry of some table.
fn put(tables: &mut Twin, sizes: Sizes, bytes: &mut Bytes<'_>) {
    let (what, at) = (bytes.byte(), bytes.half());
    let place = |size: u32| u32::from(at) % size;
    let address = |bytes: &mut Bytes<'_>| match bytes.byte() {
        few @ 0..=7 => lb_common::mapped(u32::from_ne_bytes([203, 0, 113, few])),
        _ => std::array::from_fn(|_| bytes.word()),
    };
    let ring = |bytes: &mut Bytes<'_>| {
        if bytes.byte() & 1 == 0 {
            return Ring::NONE;
        }
        // Within the arena, as every agent writes them: packets rely on that.
        let offset = u32::from(bytes.half()) % sizes.slots;
        let ring = Ring::new(offset, (u32::from(bytes.half()) % 300).min(sizes.slots - offset));
        let bits = bytes.byte();
        ring.with_source_prefix(if bits <= 128 { bits } else { 0 })
    };
    let outcome = match what % 8 {
        0 => {
            let node = Node {
                abi_version: [0, lb_common::ABI_VERSION][usize::from(what >> 7)],
                flags: bytes.word(),
                index_mask: sizes.buckets - 1,
                seed: Seed([bytes.long(), bytes.long()]),
                ..Node::default()
            };
            tables.set_node(&node)
        }
        1 => {
            let record = Service {
                address: address(bytes),
                port_protocol: bytes.word(),
                flags: bytes.word(),
                ring: ring(bytes),
                old_ring: ring(bytes),
                ..Service::default()
            };
            tables.set_service(place(sizes.services), &record)
        }
        2 => tables.set_service_meta(place(sizes.services), &meta(bytes)),
        3 => {
            let record = Backend {
                interface: bytes.word(),
                flags: bytes.byte(),
                source_bits: bytes.byte(),
                room: bytes.half(),
                ..Backend::default()
            };
            tables.set_backend(place(sizes.backends + 1), &record)
        }
        4 => tables.set_backend_meta(place(sizes.backends + 1), &meta(bytes)),
        5 => tables.set_slots(&[(place(sizes.slots), bytes.long())]),
        6 => tables.add_live(place(sizes.backends + 1), bytes.long().cast_signed()),
        _ if what & 0x80 == 0 => tables.set_index(place(sizes.buckets * 8), bytes.long()),
        _ => {
            let entry = service_cache::Entry {
                key: bytes.long(),
                ring: ring(bytes),
                number: bytes.word(),
                ..service_cache::Entry::default()
            };
            tables.set_service_cache(place(sizes.service_cache), &entry)
        }
    };
    outcome.expect("places are inside");
}

fn meta(bytes: &mut Bytes<'_>) -> NameRecord {
    let mut meta = NameRecord {
        flags: u32::from(bytes.byte()),
        service: u32::from(bytes.byte() % 6),
        max_backends: u32::from(bytes.half()),
        free_after: bytes.word(),
        ..NameRecord::FREE
    };
    meta.name[..4].copy_from_slice(&bytes.take::<4>());
    meta.address = lb_common::mapped(u32::from_ne_bytes([10, 0, 0, bytes.byte() % 8]));
    meta
}

/// How services record flows, find slots and balance: every difference that the tables can have.
const KINDS: [(Track, Hash, Balance); 9] = [
    (Track::OnChange, Hash::FiveTuple, Balance::Hash),
    (Track::Always, Hash::FiveTuple, Balance::Hash),
    (Track::Never, Hash::FiveTuple, Balance::Hash),
    (Track::OnChange, Hash::Source(24), Balance::Hash),
    (Track::Never, Hash::Source(32), Balance::Hash),
    (Track::Always, Hash::FiveTuple, Balance::RoundRobin),
    (Track::Always, Hash::Source(24), Balance::RoundRobin),
    (Track::Always, Hash::FiveTuple, Balance::Random),
    (Track::Always, Hash::Source(32), Balance::LeastConnections),
];

/// The states that an agent may want: each kind with each backend dead and with none dead; made once, since rings take time.
static WISHES: LazyLock<Vec<Desired>> = LazyLock::new(|| {
    (0..4)
        .flat_map(|dead| KINDS.map(|kind| (dead, kind)))
        .zip(0..)
        .map(|(of, number)| wish(number, of))
        .collect()
});

/// `dead`: the backend that is down; 0 = none.
fn wish(number: u64, (dead, (track, hash, balance)): (u8, (Track, Hash, Balance))) -> Desired {
    let seed = Seed([1, 2]);
    let backend = |number: u8| {
        let address = IpAddr::from([10, 0, 0, number]);
        let standing = Standing { alive: number != dead, draining: false };
        let hop = super::config::hop(address);
        let record = record(Kind::Ipip, address, false, Some(&hop), &Sources::default(), standing);
        desired::Backend { name: format!("b{number}"), address, record, returns: true }
    };
    let backends: Vec<_> = (1..=3).map(backend).collect();
    let weight = |backend: &desired::Backend| if backend.record.is_alive() { 10 } else { 0 };
    let entries: Vec<_> =
        backends.iter().map(|backend| Entry { name: &backend.name, weight: weight(backend) }).collect();
    let length = length_for(2).expect("two backends are few");
    let builder = match balance {
        Balance::RoundRobin => Builder::RoundRobin,
        Balance::LeastConnections => Builder::Runs,
        Balance::Hash | Balance::Random => Builder::Maglev,
    };
    let ring = build(builder, &seed, &entries, length).into();
    let listen = Listen { protocol: Protocol::Tcp, address: [203, 0, 113, 1].into(), port: 443 };
    let service = desired::Service {
        name: "web".to_owned(),
        listen,
        max_backends: 2,
        hash,
        balance,
        track,
        window: Duration::from_secs(60),
        idle_after: Duration::from_secs(30),
        answers_ping: false,
        backends,
        ring,
    };
    Desired { seed, configuration: number, services: vec![service], ..Desired::default() }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let random = crate::fuzz::Random::new(4711);
    let mut seeds = Vec::new();
    for first in 0..2 {
        for length in [16, 64, 256, 1024] {
            let mut bytes = vec![first];
            bytes.extend(random.bytes(length));
            seeds.push(bytes);
        }
    }
    seeds
}
