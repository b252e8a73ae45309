//! The flow tables from user space, and the hash that leads to a flow's slot.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    flow::{Key, Record},
    hash,
    map::name,
    wire,
};

use super::{World, address};

/// The key under which a client's flow to a port of a service is recorded.
pub fn key(source: SocketAddr, port: u16, service: u32) -> Key {
    Key { source: address(source.ip()), ports: wire::ports(source.port(), port), service }
}

impl World {
    fn table(&mut self, map: &str) -> Result<HashMap<&mut MapData, Key, Record>> {
        Ok(HashMap::try_from(self.ebpf.map_mut(map).context("no flow table")?)?)
    }

    /// A flow's record in `FLOWS` or `PENDING`.
    pub fn record(&mut self, map: &str, key: &Key) -> Result<Option<Record>> {
        match self.table(map)?.get(key, 0) {
            Ok(record) => Ok(Some(record)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Every record in `FLOWS` or `PENDING`.
    pub fn records(&mut self, map: &str) -> Result<Vec<(Key, Record)>> {
        Ok(self.table(map)?.iter().collect::<Result<_, _>>()?)
    }

    pub fn set_record(&mut self, map: &str, key: &Key, record: Record) -> Result<()> {
        Ok(self.table(map)?.insert(key, record, 0)?)
    }

    /// Removes a record, if there is one.
    pub fn remove_record(&mut self, map: &str, key: &Key) -> Result<()> {
        match self.table(map)?.remove(key) {
            Err(MapError::KeyNotFound) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// Empties both tables.
    pub fn forget_flows(&mut self) -> Result<()> {
        for map in [name::FLOWS, name::PENDING] {
            for (key, _) in self.records(map)? {
                self.remove_record(map, &key)?;
            }
        }
        Ok(())
    }

    /// The flow hash of a packet, with the seed of this world.
    pub fn hash(&self, source: SocketAddr, destination: SocketAddr, protocol: u8) -> u64 {
        let ports = wire::ports(source.port(), destination.port());
        hash::flow(&self.node.seed, &address(source.ip()), &address(destination.ip()), ports, protocol)
    }
}
