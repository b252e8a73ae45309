//! What an interface merges, or lets a sender merge, before a program in the kernel's generic path sees it: asked by
//! ioctl (ethtool), in the calling thread's network namespace.

use std::{io, os::fd::OwnedFd};

use super::link::{self, SIOCETHTOOL};

/// Offloads that make one long packet of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Merged by the kernel on receiving.
    pub gro: bool,
    /// Merged by the hardware on receiving.
    pub lro: bool,
    pub gro_hw: bool,
    /// Programs on this host hand over segments longer than a packet, which this device would cut up.
    pub tso: bool,
}

/// Commands and the set of feature names of `linux/ethtool.h`.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// More than any kernel has: what it tells beyond is not believed.
const MOST_FEATURES: u32 = 4096;

/// Asks the kernel.
///
/// # Errors
/// No such interface (`ENODEV`), or one whose features the kernel does not tell.
pub fn offloads(name: &str) -> io::Result<Offloads> {
    let socket = link::socket()?;
    let names = names(&socket, name)?;
    let active = active(&socket, name, names.len())?;
    let is_on = |wanted: &[&str]| {
        names.iter().zip(&active).any(|(name, active)| *active && wanted.contains(&name.as_str()))
    };
    Ok(Offloads {
        gro: is_on(&["rx-gro"]),
        lro: is_on(&["rx-lro"]),
        gro_hw: is_on(&["rx-gro-hw"]),
        tso: is_on(&["tx-tcp-segmentation", "tx-tcp6-segmentation"]),
    })
}

/// Sends words to the kernel, which overwrites them with its answer.
fn exchange(socket: &OwnedFd, name: &str, words: &mut [u32]) -> io::Result<()> {
    let mut request = link::request(name)?;
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    link::ask(socket, SIOCETHTOOL, &mut request)
}

/// Names of all features, by their numbers.
fn names(socket: &OwnedFd, name: &str) -> io::Result<Vec<String>> {
    // `struct ethtool_sset_info`: command, reserved, a mask of 64 bits, and a number for each bit of it.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
    let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
    for (word, bytes) in info[2..4].iter_mut().zip(mask.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    exchange(socket, name, &mut info)?;
    let count = info[4].min(MOST_FEATURES) as usize;
    // `struct ethtool_gstrings`: command, set, how many, and the strings.
    let mut words = vec![0u32; 3 + count * ETH_GSTRING_LEN / size_of::<u32>()];
    (words[0], words[1], words[2]) = (ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4].min(MOST_FEATURES));
    exchange(socket, name, &mut words)?;
    let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let text = |string: &[u8]| {
        let end = string.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(end).into_owned()
    };
    Ok(bytes.chunks_exact(ETH_GSTRING_LEN).map(text).collect())
}

/// Whether each of as many features is in force.
fn active(socket: &OwnedFd, name: &str, count: usize) -> io::Result<Vec<bool>> {
    // `struct ethtool_gfeatures`: command, how many blocks; a block of 32 features says which are available, requested,
    // active, and never changed.
    let blocks = count.div_ceil(32);
    let mut words = vec![0u32; 2 + blocks * 4];
    (words[0], words[1]) = (ETHTOOL_GFEATURES, blocks as u32);
    exchange(socket, name, &mut words)?;
    Ok((0..count).map(|feature| words[2 + feature / 32 * 4 + 2] >> (feature % 32) & 1 != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_lets_programs_hand_over_long_segments() {
        let offloads = offloads("lo").unwrap();
        assert!(offloads.tso && !offloads.lro, "{offloads:?}");
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert_eq!(offloads("lb-not-there").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
