//! The memory of a walked program: the regions are far apart from each other, so that an access outside of its region is
//! always noticed.

use anyhow::{Context as _, Result, bail};

/// Addresses of a region are this many bits apart from those of the next region.
const APART: u32 = 32;

/// Regions by number; the first region has number 1, so that no pointer is 0.
#[derive(Default)]
pub(super) struct Memory {
    regions: Vec<Vec<u8>>,
}

impl Memory {
    /// Adds a region and returns its first address.
    pub(super) fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.regions.push(bytes);
        (self.regions.len() as u64) << APART
    }

    /// `length` bytes from an address on.
    pub(super) fn bytes(&mut self, address: u64, length: usize) -> Result<&mut [u8]> {
        let (number, offset) = ((address >> APART) as usize, address as u32 as usize);
        let region = number.checked_sub(1).and_then(|place| self.regions.get_mut(place));
        let region = region.with_context(|| format!("an access to {address:#x}, where nothing is"))?;
        let size = region.len();
        offset
            .checked_add(length)
            .and_then(|end| region.get_mut(offset..end))
            .with_context(|| format!("{length} bytes at {offset} of region {number}, which has {size}"))
    }

    pub(super) fn load(&mut self, address: u64, length: usize) -> Result<u64> {
        let bytes = self.bytes(address, length)?;
        let mut word = [0; 8];
        match length {
            1 | 2 | 4 | 8 => word[..length].copy_from_slice(bytes),
            _ => bail!("a load of {length} bytes"),
        }
        Ok(u64::from_le_bytes(word))
    }

    pub(super) fn store(&mut self, address: u64, length: usize, value: u64) -> Result<()> {
        let word = value.to_le_bytes();
        let value = word.get(..length).with_context(|| format!("a store of {length} bytes"))?;
        self.bytes(address, length)?.copy_from_slice(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_outside_of_a_region_is_refused() {
        let mut memory = Memory::default();
        let first = memory.add(vec![0; 8]);
        let second = memory.add(vec![1; 2]);
        memory.store(first + 6, 2, 0x0102).unwrap();
        assert_eq!(memory.load(first, 8).unwrap(), 0x0102 << 48);
        assert_eq!(memory.load(second, 2).unwrap(), 0x0101);
        for (address, length) in
            [(first + 7, 2), (second, 4), (second + (1 << 32), 1), (0, 1), (first - 1, 1)]
        {
            assert!(memory.load(address, length).is_err(), "{address:#x}");
        }
    }
}
