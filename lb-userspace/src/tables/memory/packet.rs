//! The path of a packet through the in-memory tables, step by step as in the kernel half.

use std::sync::atomic::Ordering;

use lb_common::{
    Address,
    backend::Backend,
    counter::Counter,
    evidence::Decision,
    hash::{self, Seed},
    known,
    map::Node,
    martian, owner,
    ring::Ring,
    service::{self, Bucket, Service},
    service_cache::{Entry, place, shift_for},
    slot::{PREVIOUS_RING, Slot},
    wire,
};

use super::{Packet, Twin, Verdict, flows::Tracked};

impl Twin {
    fn find_key(&self, address: &Address, port_protocol: u32) -> Option<u32> {
        let hash = service::hash(address, port_protocol);
        let home = service::home_bucket(hash, self.node.index_mask);
        for bucket in [home, (home + 1) & self.node.index_mask] {
            for i in 0..Bucket::WORDS {
                let word = self.index.get(bucket as usize * Bucket::WORDS + i)?.load(Ordering::Acquire);
                if word == Bucket::EMPTY {
                    return None;
                }
                if word == Bucket::TOMBSTONE || !Bucket::tag_matches(word, hash) {
                    continue;
                }
                let number = Bucket::service(word);
                let record = self.services.get(number as usize)?;
                let present = record.flags & Service::PRESENT != 0;
                let fits = if port_protocol == service::ANY_SERVICE {
                    record.has_address(address)
                } else {
                    record.is(address, port_protocol)
                };
                if present && fits {
                    return Some(number);
                }
            }
        }
        None
    }

    fn may_be_known(&self, address: &Address) -> bool {
        let mark = known::mark(address);
        let word = self.known.get(known::word(mark) as usize);
        word.is_none_or(|word| word.load(Ordering::Acquire) & known::bit(mark) != 0)
    }

    /// The verdict for a packet that no service takes.
    fn not_service(&self, address: &Address) -> Verdict {
        if !self.may_be_known(address) {
            Verdict::Passed(Counter::PassedNotService)
        } else if self.is_virtual(address) {
            if self.node.flags & Node::DROP_UNSERVED != 0 {
                Verdict::Dropped(Counter::Unserved)
            } else {
                Verdict::Passed(Counter::PassedUnserved)
            }
        } else if self.hosts.contains(address) {
            Verdict::Passed(Counter::PassedHost)
        } else {
            Verdict::Passed(Counter::PassedNotService)
        }
    }

    /// Whether a service listens at that address.
    pub fn is_virtual(&self, address: &Address) -> bool {
        self.find_key(address, service::ANY_SERVICE).is_some()
    }

    fn find_service(&self, packet: &Packet) -> Option<u32> {
        let exact = service::port_protocol(packet.destination_port, packet.protocol);
        self.find_key(&packet.destination, exact).or_else(|| {
            let any = self.node.flags & Node::ANY_PORT != 0 && self.may_be_known(&packet.destination);
            any.then(|| self.find_key(&packet.destination, service::port_protocol(0, packet.protocol)))?
        })
    }

    /// Whether the packet's source cannot be a client's.
    fn is_martian(&self, packet: &Packet) -> bool {
        let Packet { source, destination, source_port, .. } = *packet;
        let back = Packet { destination: source, destination_port: source_port, ..*packet };
        martian::is(&source, &destination)
            || packet.protocol == wire::protocol::UDP
                && self.node.udp_ports & Node::port_bit(source_port) != 0
                && self.find_service(&back).is_some()
    }

    /// The slot's place in the arena, and its word.
    fn slot(&self, seed: &Seed, ring: Ring, packet: &Packet) -> (u32, Slot) {
        if ring.length() == 0 {
            return (0, Slot::EMPTY);
        }
        let Packet { source, destination, protocol, .. } = packet;
        let place = ring.slot(hash::slot_hash(seed, ring, source, destination, packet.ports(), *protocol));
        (place, Slot(self.slots.get(place as usize).map_or(0, |word| word.load(Ordering::Acquire))))
    }

    /// The slot as a plain packet reads it: the owner in front, and the word only where the owner is 0.
    fn slot_by_owner(&self, seed: &Seed, ring: Ring, packet: &Packet) -> (u32, Slot) {
        let Packet { source, destination, protocol, .. } = packet;
        let place = ring.slot(hash::slot_hash(seed, ring, source, destination, packet.ports(), *protocol));
        match owner::get(self.owners.get(owner::word(place) as usize).copied().unwrap_or(0), place) {
            0 => self.slot(seed, ring, packet),
            owner => (place, Slot::stable(owner.into())),
        }
    }

    pub(super) fn is_alive(&self, backend: u32) -> bool {
        self.backends.get(backend as usize).is_some_and(Backend::is_alive)
    }

    /// Sends one packet through the tables: decides, counts, and writes flow records like the kernel half.
    pub fn packet(&mut self, packet: &Packet) -> Verdict {
        let (mut verdict, mut tracked) = self.route(packet);
        if let Some((tracked, decision)) = &mut tracked {
            if let Some(backend) = self.balance(tracked.service, decision) {
                *decision = decision.balanced(backend);
                verdict = self.verdict(tracked.service, backend);
            }
            self.record(tracked, decision);
        }
        if let Verdict::Forwarded { service, backend } = verdict {
            let tallies =
                [&mut self.service_tallies[service as usize], &mut self.backend_tallies[backend as usize]];
            for tally in tallies {
                tally.packets += 1;
                tally.new_connections += u64::from(packet.syn);
            }
        }
        verdict
    }

    /// The verdict for a packet, without writing anything.
    pub fn peek(&self, packet: &Packet) -> Verdict {
        self.route(packet).0
    }

    fn route(&self, packet: &Packet) -> (Verdict, Option<(Tracked, Decision)>) {
        let port_protocol = service::port_protocol(packet.destination_port, packet.protocol);
        let cached = self.service_cache
            [place(&packet.destination, port_protocol, shift_for(self.sizes.service_cache)) as usize];
        let wanted = Entry::of(&packet.destination, port_protocol, Ring::NONE, Seed::default(), 0);
        if cached.key == Entry::NO_SERVICE && !self.may_be_known(&packet.destination) {
            return (Verdict::Passed(Counter::PassedNotService), None);
        }
        let (number, (place_of_slot, slot)) = if (cached.key, cached.address) == (wanted.key, wanted.address)
        {
            (cached.number, self.slot_by_owner(&cached.seed, cached.ring, packet))
        } else if self.node.abi_version != lb_common::ABI_VERSION {
            return (Verdict::Passed(Counter::PassedNotReady), None);
        } else {
            let Some(number) = self.find_service(packet) else {
                return (self.not_service(&packet.destination), None);
            };
            (number, self.slot(&self.node.seed, self.services[number as usize].ring, packet))
        };
        if self.is_martian(packet) {
            return (Verdict::Dropped(Counter::MartianSource), None);
        }
        let record = self.services.get(number as usize).copied().unwrap_or_default();
        let tracked = slot.is_tracked().then(|| {
            let key = self.flow_key(packet);
            let tracked = Tracked { service: number, key, place: place_of_slot, slot };
            let unknown = self.owner_of_unknown(slot, &record, packet);
            (tracked, self.decide(&tracked, record.tracks_always(), packet, unknown))
        });
        let backend = tracked.map_or(slot.current(), |(_, decision)| decision.backend());
        (self.verdict(number, backend), tracked)
    }

    fn verdict(&self, service: u32, backend: u32) -> Verdict {
        match self.backends.get(backend as usize) {
            None => Verdict::Dropped(Counter::NoBackend),
            Some(_) if backend == 0 => Verdict::Dropped(Counter::NoBackend),
            Some(record) if record.interface == 0 => Verdict::Dropped(Counter::NoNextHop),
            Some(record) if !self.egress.contains(&record.interface) => Verdict::Dropped(Counter::NoEgress),
            Some(_) => Verdict::Forwarded { service, backend },
        }
    }

    /// The backend of an unknown flow, and whether it only replaces the flow's own backend, which is down.
    fn owner_of_unknown(&self, word: Slot, service: &Service, packet: &Packet) -> (u32, bool) {
        let mut unknown = word.owner_of_unknown();
        if unknown == PREVIOUS_RING {
            let (_, old) = self.slot(&self.node.seed, service.old_ring, packet);
            unknown = match old.owner_of_unknown() {
                PREVIOUS_RING => old.current(),
                owner => owner,
            };
        }
        if self.is_alive(unknown) { (unknown, false) } else { (word.current(), unknown != 0) }
    }
}
