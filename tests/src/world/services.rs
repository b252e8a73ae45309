//! Services, their place in the index, and their rings.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use lb_common::{
    Address,
    map::{Node, name},
    owner,
    ring::Ring,
    service::{ANY_SERVICE, Bucket, Service, home_bucket, port_protocol},
    slot::Slot,
};

use super::{World, address};

impl World {
    /// Adds a service whose ring has the given slots. Returns its number.
    pub fn add_service(&mut self, listen: SocketAddr, protocol: u8, slots: &[Slot]) -> Result<u32> {
        let number = self.make_service(listen, protocol, slots)?;
        let service = self.service(number)?;
        self.add_word(&service.address, service.port_protocol, number)?;
        // One word for each address, which leads to any of the address's services.
        let services = self.array::<Service>(name::SERVICES)?;
        let mut known = false;
        for other in 0..number {
            known |= services.get(&other, 0)?.has_address(&service.address);
        }
        if !known {
            self.add_word(&service.address, ANY_SERVICE, number)?;
        }
        self.stand(number, service)?;
        Ok(number)
    }

    /// Adds a service to which no word of the index leads, and lets the test fill the index by hand.
    pub fn add_unindexed_service(&mut self, listen: SocketAddr, protocol: u8, slots: &[Slot]) -> Result<u32> {
        self.ask_index()?;
        self.make_service(listen, protocol, slots)
    }

    fn make_service(&mut self, listen: SocketAddr, protocol: u8, slots: &[Slot]) -> Result<u32> {
        let number = self.next_service;
        self.next_service += 1;
        let ring = self.add_ring(slots)?;
        let service = Service {
            address: address(listen.ip()),
            port_protocol: port_protocol(listen.port(), protocol),
            flags: Service::PRESENT,
            ring,
            ..Service::default()
        };
        self.know(&service.address)?;
        self.array::<Service>(name::SERVICES)?.set(number, service, 0)?;
        if listen.port() == 0 {
            self.set_node(|node| node.flags |= Node::ANY_PORT)?;
        }
        if protocol == lb_common::wire::protocol::UDP {
            self.set_node(|node| node.udp_ports |= Node::bits_of([listen.port()]))?;
        }
        Ok(number)
    }

    pub fn service(&mut self, number: u32) -> Result<Service> {
        Ok(self.array::<Service>(name::SERVICES)?.get(&number, 0)?)
    }

    /// Changes a service's record.
    pub fn change_service(&mut self, number: u32, change: impl FnOnce(&mut Service)) -> Result<()> {
        let mut services = self.array::<Service>(name::SERVICES)?;
        let mut service = services.get(&number, 0)?;
        change(&mut service);
        services.set(number, service, 0)?;
        self.stood(number, service)
    }

    /// Writes a ring into the arena.
    pub fn add_ring(&mut self, slots: &[Slot]) -> Result<Ring> {
        let ring = Ring::new(self.next_slot, slots.len() as u32);
        self.next_slot += slots.len() as u32;
        self.write_ring(ring, slots)?;
        Ok(ring)
    }

    /// Overwrites the slots of a ring.
    pub fn write_ring(&mut self, ring: Ring, slots: &[Slot]) -> Result<()> {
        let mut words = self.array::<u64>(name::RING)?;
        for (i, slot) in (ring.offset()..).zip(slots) {
            words.set(i, slot.0, 0)?;
        }
        let mut owners = self.array::<u64>(name::SLOT_OWNERS)?;
        for (i, slot) in (ring.offset()..).zip(slots) {
            // 0 is valid for every word: the packet then asks the word. Every eighth slot has 0, so that packets meet both.
            let owner = if i % 8 == 7 { 0 } else { owner::of(*slot) };
            let entry = owners.get(&owner::word(i), 0)?;
            owners.set(owner::word(i), owner::set(entry, i, owner), 0)?;
        }
        Ok(())
    }

    /// The slots of a ring.
    pub fn read_ring(&mut self, ring: Ring) -> Result<Vec<Slot>> {
        let words = self.array::<u64>(name::RING)?;
        let places = ring.offset()..ring.offset() + ring.length();
        places.map(|place| Ok(Slot(words.get(&place, 0)?))).collect()
    }

    /// Overwrites every slot of a service.
    pub fn set_slots(&mut self, service: u32, slot: Slot) -> Result<()> {
        let ring = self.service(service)?.ring;
        self.write_ring(ring, &vec![slot; ring.length() as usize])
    }

    /// Writes the word that leads from a key to a service into the first free place.
    pub fn add_word(&mut self, address: &Address, key: u32, service: u32) -> Result<()> {
        let hash = lb_common::service::hash(address, key);
        for at in self.places(hash) {
            let mut bucket = self.bucket(at)?;
            if let Some(free) = bucket.words.iter_mut().find(|w| **w == Bucket::EMPTY) {
                *free = Bucket::word(hash, service);
                return self.set_bucket(at, bucket);
            }
        }
        bail!("both buckets of service {service} are full")
    }

    /// The two buckets in which a key of that hash may be.
    pub fn places(&self, hash: u64) -> [u32; 2] {
        let mask = self.node.index_mask;
        [home_bucket(hash, mask), home_bucket(hash, mask).wrapping_add(1) & mask]
    }

    pub fn bucket(&mut self, at: u32) -> Result<Bucket> {
        Ok(self.array::<Bucket>(name::SVC_INDEX)?.get(&at, 0)?)
    }

    pub fn set_bucket(&mut self, at: u32, bucket: Bucket) -> Result<()> {
        Ok(self.array::<Bucket>(name::SVC_INDEX)?.set(at, bucket, 0)?)
    }
}
