//! The pure diff: what the tables must say against what they say, as steps in an order in which every packet
//! finds its service and a valid backend between any two writes.
//!
//! Forward: bits of known addresses, names of numbers, backend records, slots, service records, index words, and entries in
//! front of the index. Then what is not needed any more, in reverse: index words, service records, backend records, names,
//! addresses. Only a later plan uses a number or a ring again that a plan takes out of use.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use lb_common::{
    ABI_VERSION,
    backend::Backend,
    balance::Balance,
    map::{NameRecord, Node, size},
    ring::Ring,
    service::Service,
};

use super::{
    allocate::{self, Assigned, AssignedService},
    desired::{self, Desired},
    known,
    mirror::{self, Mirror},
    operation::Operation,
    refusal::Refusal,
    returning,
    service_cache::{self, CachedService},
    service_index::{self, Entry},
    slot as words,
    summary::{Changes, alteration},
    takeover,
};
use crate::{config::spec::Protocol, tables::address};

/// Steps of the `since` clock after which no packet can hold a number any more that was taken out of use: two,
/// so that at least one whole step passes.
const GRACE: u16 = 2;

/// What to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    pub operations: Vec<Operation>,
    /// Windows of the services by number, for the sweep.
    pub windows: HashMap<u32, Duration>,
    /// What changes, one sentence for each change, for people.
    pub summary: Vec<String>,
}

impl Plan {
    /// Map entries that the plan writes; 0 = the tables say everything already.
    pub fn entries(&self) -> u64 {
        self.operations.iter().map(Operation::entries).sum()
    }
}

/// The tables that the mirror does not copy. They are read where packets read them, as in [`crate::tables::Tables`].
#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub slots: &'a [AtomicU64],
    pub index: &'a [AtomicU64],
    pub known: &'a [AtomicU64],
}

/// The plan from the tables as they are to `desired`, at `now` (from `slot::since`).
pub fn plan(mirror: &Mirror, words: Words<'_>, desired: &Desired, now: u16) -> Result<Plan, Vec<Refusal>> {
    let refusals = allocate::check(mirror, desired);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let assigned = allocate::allocate(mirror, words.slots, desired, now)?;
    Planner { mirror, desired, now, assigned, steps: Steps::default(), summary: Vec::new() }.run(words)
}

/// The steps, grouped by the time when they may be carried out.
#[derive(Default)]
struct Steps {
    /// Flow records, devices, names, records of backends that are alive.
    prepare: Vec<Operation>,
    slots: Vec<Operation>,
    /// Keys of entries in front of the index that must stop saying what they say.
    close: Vec<Operation>,
    services: Vec<Operation>,
    /// Node flags and index words that make services findable.
    publish: Vec<Operation>,
    /// Records of backends that lose their flows.
    dead: Vec<Operation>,
    /// Index words, records and names of what is gone.
    remove: Vec<Operation>,
    /// Interfaces that no record names any more.
    unplug: Vec<Operation>,
    /// Entries in front that no packet may read before packets under way have left, or before the node record is valid.
    last: Vec<Operation>,
}

struct Planner<'a> {
    mirror: &'a Mirror,
    desired: &'a Desired,
    now: u16,
    assigned: Assigned,
    steps: Steps,
    summary: Vec<String>,
}

impl Planner<'_> {
    fn run(mut self, words: Words<'_>) -> Result<Plan, Vec<Refusal>> {
        let Words { slots, index, known } = words;
        let assigned = std::mem::replace(&mut self.assigned, Assigned { services: Vec::new() });
        let keeps = returning::keeps(self.mirror, self.desired, &assigned, self.now);
        let interfaces = self.add_egress()?;
        let forgotten = self.known(known);
        self.ingress();
        let mut wanted_backends = BTreeSet::new();
        let mut recovered = BTreeSet::new();
        for (service, numbers) in self.desired.services.iter().zip(&assigned.services) {
            self.name_service(service, numbers);
            let mut changes = Changes::default();
            for (backend, &number) in service.backends.iter().zip(&numbers.backends[1..]) {
                wanted_backends.insert(number);
                let meta =
                    returning::meta(self.mirror, (service, numbers.number), (backend, number), self.now);
                self.backend(backend, number, meta, &mut changes, &mut recovered);
            }
            self.slots(service, numbers, slots, &keeps, &mut changes);
            self.service_record(service, numbers);
            let was_called = mirror::name(&self.mirror.service_metas[numbers.number as usize]);
            self.summary.extend(changes.describe(service, numbers, &was_called));
        }
        let kept: BTreeSet<u32> = assigned.services.iter().map(|service| service.number).collect();
        let index_removals = self.index(&assigned, index)?;
        let node = self.publish_node();
        self.steps.remove.extend(index_removals.into_iter().map(|(at, word)| Operation::Index { at, word }));
        let freed_rings = self.remove_services(&kept);
        self.remove_backends(&wanted_backends, &kept);
        self.steps.remove.extend(node);
        let unneeded = self.mirror.egress.iter().filter(|interface| !interfaces.contains(interface));
        self.steps.unplug.extend(unneeded.map(|interface| Operation::RemoveEgress(*interface)));
        let freed_entries = self.service_cache(&assigned);
        self.steps.remove.extend(forgotten);
        if freed_rings || freed_entries {
            self.steps.remove.push(Operation::Barrier);
        }
        Ok(self.finish(&assigned, recovered))
    }

    fn finish(self, assigned: &Assigned, recovered: BTreeSet<u32>) -> Plan {
        let windows = self.desired.services.iter().zip(&assigned.services);
        let windows = windows.map(|(service, numbers)| (numbers.number, service.window)).collect();
        let Steps { prepare, slots, close, services, publish, dead, remove, unplug, last } = self.steps;
        let purge = (!recovered.is_empty()).then_some(Operation::PurgeFlows(recovered));
        let operations = purge
            .into_iter()
            .chain(prepare)
            .chain(slots)
            .chain(close)
            .chain(services)
            .chain(publish)
            .chain(dead)
            .chain(remove)
            .chain(unplug)
            .chain(last);
        Plan { operations: behind_packets(operations), windows, summary: self.summary }
    }

    /// Adds interfaces: each must be in the device map before a record names it. Returns the interfaces that are needed.
    fn add_egress(&mut self) -> Result<BTreeSet<u32>, Vec<Refusal>> {
        let backends = self.desired.services.iter().flat_map(|service| &service.backends);
        let needed: BTreeSet<u32> =
            backends.map(|backend| backend.record.interface).filter(|interface| *interface != 0).collect();
        let all = needed.union(&self.mirror.egress).count() as u64;
        if all > u64::from(self.mirror.sizes.egress) {
            return Err(vec![Refusal::Egress { wanted: all, size: self.mirror.sizes.egress }]);
        }
        let missing = needed.difference(&self.mirror.egress);
        self.steps.prepare.extend(missing.map(|interface| Operation::AddEgress(*interface)));
        Ok(needed)
    }

    /// Marks addresses as known before anything says whose they are. Returns the last steps, which clear those of others.
    fn known(&mut self, known: &[AtomicU64]) -> Vec<Operation> {
        let running = &self.mirror.hosts;
        let hosts = self.desired.hosts.as_ref().map_or_else(
            || running.clone(),
            |hosts| hosts.iter().map(|ip| address::to_wire(*ip)).take(size::HOST as usize).collect(),
        );
        let of_services = self.desired.services.iter().map(|service| desired::key(&service.listen).0);
        let changes = known::plan(known, of_services.chain(hosts.iter().copied()));
        self.steps.prepare.extend(changes.set);
        // Old addresses go first, so that there is room for the new ones.
        self.steps.prepare.extend(running.difference(&hosts).copied().map(Operation::RemoveHost));
        self.steps.prepare.extend(hosts.difference(running).copied().map(Operation::AddHost));
        changes.clear
    }

    /// Sets the largest length of packets that come in unmerged: the MTU of their interface.
    fn ingress(&mut self) {
        let running = &self.mirror.ingress;
        let wanted: BTreeMap<u32, u32> =
            self.desired.ingress.iter().take(size::INGRESS as usize).map(|(n, mtu)| (*n, *mtu)).collect();
        let gone = running.keys().filter(|interface| !wanted.contains_key(interface));
        self.steps.prepare.extend(gone.map(|interface| Operation::RemoveIngress(*interface)));
        let changed = wanted.into_iter().filter(|(interface, mtu)| running.get(interface) != Some(mtu));
        self.steps.prepare.extend(changed.map(|(interface, mtu)| Operation::Ingress { interface, mtu }));
    }

    fn name_service(&mut self, service: &desired::Service, numbers: &AssignedService) {
        let number = numbers.number;
        let meta = NameRecord {
            name: mirror::name_bytes(&service.name),
            flags: NameRecord::USED,
            max_backends: service.max_backends,
            ..NameRecord::FREE
        };
        if !numbers.running {
            let takes_over = numbers.takes_from.is_some();
            self.steps.prepare.push(Operation::ResetService { number, takes_over });
        }
        if self.mirror.service_metas[number as usize] != meta {
            self.steps.prepare.push(Operation::ServiceMeta { number, meta });
        }
    }

    fn backend(
        &mut self,
        backend: &desired::Backend,
        number: u32,
        meta: NameRecord,
        changes: &mut Changes,
        recovered: &mut BTreeSet<u32>,
    ) {
        let (meta_was, was) =
            (&self.mirror.backend_metas[number as usize], &self.mirror.backends[number as usize]);
        let new = meta_was.flags & NameRecord::USED == 0;
        // A packet under way may have seen that the backend is alive, and not yet the way there; its flow may be a recorded
        // one, for which no barrier behind the slots waits. So a backend that dies without a next hop keeps the old one.
        let record = match backend.record {
            dead if !new && !dead.is_alive() && dead.interface == 0 => {
                Backend { flags: dead.flags, weight: dead.weight, ..*was }
            }
            record => record,
        };
        if new {
            self.steps.prepare.push(Operation::ResetBackend(number));
            changes.added.push(backend.name.clone());
        }
        // "May return" is written before "down", and taken back after "alive again".
        let named = (*meta_was != meta).then_some(Operation::BackendMeta { number, meta });
        if *was == record {
            self.steps.prepare.extend(named);
            return;
        }
        if !new {
            changes.altered.push(format!("{} {}", backend.name, alteration(was, &record)));
        }
        let step = Operation::Backend { number, record };
        if was.is_alive() && !record.is_alive() {
            self.steps.prepare.extend(named);
            self.steps.dead.push(step);
        } else if self.mirror.may_return(number) && record.is_alive() {
            self.steps.prepare.push(step);
            self.steps.prepare.extend(named);
        } else {
            if !was.is_alive() && record.is_alive() && self.mirror.stale_flow_owners.contains(&number) {
                recovered.insert(number);
            }
            self.steps.prepare.extend(named);
            self.steps.prepare.push(step);
        }
    }

    fn slots(
        &mut self,
        service: &desired::Service,
        numbers: &AssignedService,
        slots: &[AtomicU64],
        keeps: &[bool],
        changes: &mut Changes,
    ) {
        let owners = service.ring.iter().map(|&owner| numbers.backends[owner as usize]);
        let keeps = |number: u32| keeps.get(number as usize).copied().unwrap_or(false);
        let balanced = service.balance != Balance::Hash;
        let before = self.mirror.services[numbers.number as usize].balance() != Balance::Hash;
        let words = match (numbers.running, numbers.replaces) {
            (false, _) => match numbers.takes_from {
                Some(from) => takeover::words(slots, self.mirror, service, numbers, from.ring, self.now),
                None => words::fresh(slots, numbers.ring, service.track, owners),
            },
            (true, None) if balanced => {
                words::change_balanced(slots, numbers.ring, before, owners, keeps, self.now)
            }
            // All flows are recorded: no packet has to ask the old ring.
            (true, Some(old)) if balanced && before && !words::learns(slots, old) => {
                words::fresh(slots, numbers.ring, service.track, owners)
            }
            (true, None) => words::change(slots, numbers.ring, service.track, owners, keeps, self.now),
            (true, Some(old)) => words::resized(slots, numbers.ring, old, service.track, owners, self.now),
        };
        if !words.is_empty() {
            changes.slots = words.len();
            self.steps.slots.push(Operation::Slots { service: numbers.number, words });
        }
        // What was in the ring's places before does not say what its slots have recorded.
        if numbers.replaces.is_some() {
            self.steps.slots.push(Operation::NoteElsewhere(numbers.ring));
        }
    }

    /// A change of length or hash takes two writes, since a record of several words is not written at once. The first write
    /// puts the old ring where slots will ask for it; in the second one a single word changes to the new ring.
    fn service_record(&mut self, service: &desired::Service, numbers: &AssignedService) {
        let number = numbers.number;
        let was = &self.mirror.services[number as usize];
        let (address, port_protocol) = desired::key(&service.listen);
        let flags = service.flags();
        let running = Service {
            address,
            port_protocol,
            flags,
            longest: service.longest(),
            idle_after: jiffies(service.idle_after, self.mirror.hz),
            ..Service::default()
        };
        let mut push = |record| self.steps.services.push(Operation::Service { number, record });
        if let Some(old) = numbers.replaces {
            push(Service { ring: old, old_ring: old, ..running });
            push(Service { ring: numbers.ring, old_ring: old, ..running });
            return;
        }
        let taken = numbers.takes_from.map_or(Ring::NONE, |from| from.ring);
        let old_ring = if numbers.running { was.old_ring } else { taken };
        let record = Service { ring: numbers.ring, old_ring, ..running };
        if *was != record {
            push(record);
        }
    }

    /// Publishes the words that make services findable, and returns the words to take away.
    fn index(&mut self, assigned: &Assigned, index: &[AtomicU64]) -> Result<Vec<(u32, u64)>, Vec<Refusal>> {
        let words: Vec<u64> = index.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let services = self.desired.services.iter().zip(&assigned.services);
        let entries: Vec<_> = services
            .map(|(service, numbers)| {
                let (address, port_protocol) = desired::key(&service.listen);
                Entry { number: numbers.number, address, port_protocol }
            })
            .collect();
        let changes = service_index::plan(&words, &entries).map_err(|full| {
            let mut services = self.desired.services.iter().zip(&assigned.services);
            let name = services.find(|(_, numbers)| numbers.number == full.number);
            vec![Refusal::Index { service: name.map_or(String::new(), |(service, _)| service.name.clone()) }]
        })?;
        let additions = changes.additions.into_iter();
        self.steps.publish.extend(additions.map(|(at, word)| Operation::Index { at, word }));
        Ok(changes.removals)
    }

    /// Plans the entries in front of the index. Returns whether a place became free.
    fn service_cache(&mut self, assigned: &Assigned) -> bool {
        let services = self.desired.services.iter().zip(&assigned.services);
        let services: Vec<CachedService> = services
            .map(|(service, numbers)| {
                let (address, port_protocol) = desired::key(&service.listen);
                CachedService { number: numbers.number, address, port_protocol, ring: numbers.ring }
            })
            .collect();
        let changes = service_cache::plan(&self.mirror.service_cache, &services, self.desired.seed);
        self.steps.close.extend(changes.close);
        // While the node record is not valid, packets must read it. An open entry lets them skip it, so it comes last then.
        let open = if self.mirror.node.abi_version == ABI_VERSION {
            &mut self.steps.publish
        } else {
            &mut self.steps.last
        };
        open.extend(changes.open);
        self.steps.last.extend(changes.reassign);
        changes.freed
    }

    /// Publishes the node record that packets need before they find the services. Returns the step that writes the final one.
    fn publish_node(&mut self) -> Option<Operation> {
        let was = self.mirror.node;
        let any_port = self.desired.services.iter().any(|service| service.listen.port == 0);
        let udp = self.desired.services.iter().filter(|service| service.listen.protocol == Protocol::Udp);
        let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
        let last = Node {
            abi_version: ABI_VERSION,
            flags: flag(any_port, Node::ANY_PORT)
                | flag(self.desired.drop_unserved, Node::DROP_UNSERVED)
                | flag(self.desired.answer_too_big, Node::ANSWER_TOO_BIG)
                | Node::ping_flags(self.desired.ping),
            index_mask: self.mirror.sizes.buckets.max(1) - 1,
            seed: self.desired.seed,
            configuration: self.desired.configuration,
            udp_ports: Node::bits_of(udp.map(|service| service.listen.port)),
            ..Node::default()
        };
        let first = if was.abi_version == 0 {
            // The version declares the rest valid: it comes last, in a write of its own.
            Node { abi_version: 0, ..last }
        } else {
            // While services come and go: look on every port if either record says so, drop what is unserved if both do.
            let dropped = was.flags & last.flags & Node::DROP_UNSERVED;
            let any_port = (was.flags | last.flags) & Node::ANY_PORT;
            let flags = last.flags & !Node::DROP_UNSERVED | dropped | any_port;
            let udp_ports = was.udp_ports | last.udp_ports;
            Node { flags, udp_ports, configuration: was.configuration, ..last }
        };
        if first != was {
            self.steps.publish.insert(0, Operation::Node(first));
        }
        (last != first).then_some(Operation::Node(last))
    }

    /// Clears the records of services that are not wanted and retires their numbers. Returns whether a ring
    /// became free.
    fn remove_services(&mut self, kept: &BTreeSet<u32>) -> bool {
        let gone: BTreeMap<u32, bool> = self
            .mirror
            .named_services()
            .map(|number| (number, false))
            .chain(self.mirror.present().map(|(number, ..)| (number, true)))
            .filter(|(number, _)| !kept.contains(number))
            .collect();
        for (&number, &present) in &gone {
            if present {
                self.steps.remove.push(Operation::Service { number, record: Service::default() });
            }
            let meta = &self.mirror.service_metas[number as usize];
            self.summary.push(format!("service {} is removed", mirror::name(meta)));
            let meta = self.retired(*meta);
            self.steps.remove.push(Operation::ServiceMeta { number, meta });
        }
        gone.into_values().any(|present| present)
    }

    fn remove_backends(&mut self, wanted: &BTreeSet<u32>, kept: &BTreeSet<u32>) {
        for number in self.mirror.used_backends().filter(|number| !wanted.contains(number)) {
            let (meta, record) =
                (&self.mirror.backend_metas[number as usize], &self.mirror.backends[number as usize]);
            if kept.contains(&meta.service) {
                let service = mirror::name(&self.mirror.service_metas[meta.service as usize]);
                self.summary.push(format!("backend {service}/{} is removed", mirror::name(meta)));
            }
            // The rest of the record stays for packets that are under way.
            let buried = Backend { flags: record.flags & !Backend::ALIVE, ..*record };
            if buried != *record {
                self.steps.remove.push(Operation::Backend { number, record: buried });
            }
            let meta = self.retired(*meta);
            self.steps.remove.push(Operation::BackendMeta { number, meta });
        }
    }

    fn retired(&self, meta: NameRecord) -> NameRecord {
        let free_after = u32::from(self.now.wrapping_add(GRACE) & 0x7fff);
        NameRecord { flags: NameRecord::RETIRED, free_after, ..meta }
    }
}

/// The same steps with barriers. A packet reads what leads to a backend, then the backend's record, then the record's
/// interface, and may be interrupted in between. So a step that takes a record or an interface away is behind a barrier.
fn behind_packets(steps: impl Iterator<Item = Operation>) -> Vec<Operation> {
    let mut operations = Vec::new();
    // Written since the last barrier: `led` = what leads to a backend, `left` = what leads to an interface.
    let (mut led, mut left) = (false, false);
    for step in steps {
        let takes_away = match &step {
            Operation::Backend { record, .. } => led && !record.is_alive(),
            Operation::RemoveEgress(_) => led || left,
            _ => false,
        };
        if takes_away {
            operations.push(Operation::Barrier);
        }
        if takes_away || step == Operation::Barrier {
            (led, left) = (false, false);
        }
        match &step {
            Operation::Slots { .. }
            | Operation::Service { .. }
            | Operation::Index { .. }
            | Operation::ServiceCache { .. }
            | Operation::ServiceCacheKeys(_)
            | Operation::Node(_) => led = true,
            Operation::Backend { .. } => left = true,
            _ => {}
        }
        operations.push(step);
    }
    operations
}

/// A time on the clock of the flow records, as a service's record has it: at least 1, since 0 means never.
fn jiffies(time: Duration, hz: u64) -> u32 {
    let jiffies = time.as_millis().saturating_mul(hz.into()).div_ceil(1000);
    u32::try_from(jiffies).unwrap_or(u32::MAX).max(1)
}
