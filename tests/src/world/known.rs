//! Addresses that the program knows: those of services and of the host, their bits, and the MTU of the ingress interface.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapError};
use lb_common::{Address, known, map::name};

use super::{INGRESS, World, address};

impl World {
    /// Sets the bit of an address; the word is written if that changes it.
    pub(super) fn know(&mut self, address: &Address) -> Result<()> {
        let mark = known::mark(address);
        let at = known::word(mark);
        let was = self.known[at as usize];
        self.set_known(at, was | known::bit(mark))
    }

    /// Writes a word of the bits.
    pub fn set_known(&mut self, at: u32, word: u64) -> Result<()> {
        if self.known[at as usize] != word {
            self.known[at as usize] = word;
            self.array::<u64>(name::KNOWN)?.set(at, word, 0)?;
        }
        Ok(())
    }

    /// Sets every bit, as with very many addresses: the program must then look further at each packet.
    pub fn suspect_all(&mut self) -> Result<()> {
        (0..known::WORDS).try_for_each(|at| self.set_known(at, u64::MAX))
    }

    /// From now on no address is known.
    pub(super) fn know_none(&mut self) -> Result<()> {
        (0..known::WORDS).try_for_each(|at| self.set_known(at, 0))?;
        for address in self.hosts()? {
            self.host_map()?.remove(&address)?;
        }
        self.forget_ingress_mtu()
    }

    /// From now on the MTU of [`INGRESS`] is not known.
    pub fn forget_ingress_mtu(&mut self) -> Result<()> {
        match self.ingress_map()?.remove(&INGRESS) {
            // The entry does not exist, as it should be.
            Ok(()) | Err(MapError::KeyNotFound | MapError::SyscallError(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the host an address.
    pub fn add_host(&mut self, ip: IpAddr) -> Result<()> {
        self.know(&address(ip))?;
        Ok(self.host_map()?.insert(address(ip), 1, 0)?)
    }

    /// The same, without a change of the address's bit.
    pub fn set_host(&mut self, address: Address, there: bool) -> Result<()> {
        let mut hosts = self.host_map()?;
        if there {
            hosts.insert(address, 1, 0)?;
        } else {
            hosts.remove(&address)?;
        }
        Ok(())
    }

    /// Addresses of the host.
    pub fn hosts(&mut self) -> Result<Vec<Address>> {
        Ok(self.host_map()?.keys().collect::<Result<_, MapError>>()?)
    }

    /// The MTU of [`INGRESS`].
    pub fn set_ingress_mtu(&mut self, mtu: u32) -> Result<()> {
        Ok(self.ingress_map()?.insert(INGRESS, mtu, 0)?)
    }

    fn host_map(&mut self) -> Result<HashMap<&mut aya::maps::MapData, Address, u32>> {
        Ok(HashMap::try_from(self.ebpf.map_mut(name::HOST).context("no map of the host")?)?)
    }

    fn ingress_map(&mut self) -> Result<HashMap<&mut aya::maps::MapData, u32, u32>> {
        Ok(HashMap::try_from(self.ebpf.map_mut(name::INGRESS).context("no ingress map")?)?)
    }
}
