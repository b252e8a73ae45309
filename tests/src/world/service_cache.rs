//! The table in front of the index, which follows what a test writes: every service that the index knows has an entry in its
//! place, unless another service has that place already.

use std::collections::BTreeMap;

use anyhow::Result;
use lb_common::{
    ABI_VERSION,
    map::{Node, name},
    service::Service,
    service_cache::{Entry, place, shift_for},
};

use super::World;

/// The content of the table, and the reason for it.
pub(super) struct ServiceCache {
    entries: Vec<Entry>,
    services: BTreeMap<u32, Service>,
    /// The test itself writes what leads to services, so packets must ask the index.
    by_hand: bool,
}

impl ServiceCache {
    /// For a table that was just made.
    pub(super) fn new(entries: u32) -> Self {
        Self { entries: vec![Entry::default(); entries as usize], services: BTreeMap::new(), by_hand: false }
    }

    fn wanted(&self, node: &Node) -> Vec<Entry> {
        let further = Entry::default();
        if self.by_hand || node.abi_version != ABI_VERSION {
            return vec![further; self.entries.len()];
        }
        let empty = Entry { key: Entry::NO_SERVICE, ..further };
        let mut entries = vec![empty; self.entries.len()];
        let shift = shift_for(entries.len() as u32);
        for (number, service) in &self.services {
            let entry = &mut entries[place(&service.address, service.port_protocol, shift) as usize];
            let ready = service.flags & Service::PRESENT != 0 && service.ring.length() != 0;
            if ready && !entry.is_service() {
                *entry = Entry::of(&service.address, service.port_protocol, service.ring, node.seed, *number);
            } else if !entry.is_service() {
                *entry = further;
            }
        }
        entries
    }
}

impl World {
    /// Adds a service that the index knows to the table.
    pub(super) fn stand(&mut self, number: u32, service: Service) -> Result<()> {
        self.service_cache.services.insert(number, service);
        self.keep_service_cache()
    }

    /// The record of a service has changed.
    pub(super) fn stood(&mut self, number: u32, service: Service) -> Result<()> {
        match self.service_cache.services.get_mut(&number) {
            Some(record) => *record = service,
            None => return Ok(()),
        }
        self.keep_service_cache()
    }

    /// From now on the table has no entries, whatever services are added: packets ask the index.
    pub fn ask_index(&mut self) -> Result<()> {
        self.service_cache.by_hand = true;
        self.keep_service_cache()
    }

    /// Forgets the services; the table follows with the next change.
    pub(super) fn clear_service_cache(&mut self) {
        self.service_cache.services.clear();
    }

    /// Brings the table into the state of the services and the node.
    pub(super) fn keep_service_cache(&mut self) -> Result<()> {
        let wanted = self.service_cache.wanted(&self.node);
        self.write_service_cache(wanted)
    }

    /// Writes the entries that differ.
    fn write_service_cache(&mut self, wanted: Vec<Entry>) -> Result<()> {
        let changed: Vec<usize> =
            (0..wanted.len()).filter(|&at| wanted[at] != self.service_cache.entries[at]).collect();
        let mut table = self.array::<Entry>(name::SVC_FRONT)?;
        for &at in &changed {
            table.set(at as u32, wanted[at], 0)?;
        }
        self.service_cache.entries = wanted;
        Ok(())
    }

    /// The table, by place.
    pub fn service_cache(&self) -> &[Entry] {
        &self.service_cache.entries
    }

    /// Writes a whole table that comes from elsewhere.
    pub fn set_service_cache(&mut self, entries: &[Entry]) -> Result<()> {
        self.service_cache.by_hand = true;
        self.write_service_cache(entries.to_vec())
    }
}
