//! Finds the process that listens at a TCP address, so that a refusal can name it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A process that listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// The name that the process gives itself (`comm`).
    pub(super) name: String,
}

/// `None` where this process sees no listener; also where it has no right to look at other processes.
pub(super) fn holder(address: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let inode = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| table.lines().find_map(|line| listens(line, address)))?;
    let socket = format!("socket:[{inode}]");
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.into_iter().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == &*socket)
        })
    };
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A process chooses its name itself, so the name may hold control characters.
    Some(Holder { pid, name: name.trim_end().escape_debug().to_string() })
}

/// The inode of the socket of a line of `/proc/net/tcp` or `tcp6`, if it listens at `wanted`. A socket that listens at all
/// addresses counts, and so does every address where `wanted` is all addresses.
fn listens(line: &str, wanted: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let &[_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields.as_slice() else { return None };
    let (ip, port) = local.split_once(':')?;
    let (ip, port) = (address(ip)?, u16::from_str_radix(port, 16).ok()?);
    let meets = ip.to_canonical() == wanted.ip().to_canonical()
        || ip.is_unspecified()
        || wanted.ip().is_unspecified();
    (port == wanted.port() && meets).then(|| inode.parse().ok()).flatten()
}

/// Parses an address: words of four bytes, each in the host's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|word| u32::from_str_radix(hex.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let bytes = words?.concat();
    match hex.len() {
        8 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        32 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_proc_are_read() {
        let line = "   0: 0100007F:238C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x";
        let wanted = |text: &str| listens(line, text.parse().unwrap());
        assert_eq!(wanted("127.0.0.1:9100"), Some(4711));
        assert_eq!(wanted("0.0.0.0:9100"), Some(4711), "all addresses meet each");
        assert_eq!(wanted("127.0.0.1:9101"), None);
        assert_eq!(wanted("10.0.0.1:9100"), None);
        assert_eq!(listens(&line.replace(" 0A ", " 01 "), "127.0.0.1:9100".parse().unwrap()), None);
        assert_eq!(address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(address("0100"), None);
        assert_eq!(listens("garbage", "127.0.0.1:1".parse().unwrap()), None);
    }
}
