//! Addresses of this host, asked for one by one: whether the host itself speaks from one. A service on such an address takes
//! what is meant for the host: its SSH, and the answers to its own health checks.
//!
//! A virtual address that is on this host for another reason (VRRP, a router's announcement of `lo`) is not among them: no
//! packet of the host's begins there. What begins where is the kernel's to say, so it is asked instead of guessed from names of
//! interfaces, lengths of prefixes or flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use super::source;

/// An address on an interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    interface: String,
    address: IpAddr,
    /// Bits of the prefix.
    length: u8,
}

/// Where this host speaks from an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaks {
    pub interface: String,
    /// A destination that it would speak to from there.
    pub towards: IpAddr,
}

impl Speaks {
    /// Why no service may have that address, to be read on from the key's name.
    pub fn refusal(&self, address: IpAddr) -> String {
        format!(
            "{address} is this host's own address on {}: the service would take what is meant for the host, SSH and the answers \
             to its health checks among it; give the service an address that no host has",
            self.interface
        )
    }
}

/// Where this host would speak from `address`; `None` = it does not have it, or no packet of its own begins there.
pub fn speaks_from(address: IpAddr) -> Option<Speaks> {
    let own = own()?;
    let first = own.iter().find(|own| own.address == address)?;
    let towards = destinations(&own, address).into_iter().find(|to| source::towards(*to) == Some(address))?;
    Some(Speaks { interface: first.interface.clone(), towards })
}

/// All addresses of this host that others may send packets to; `None` = the kernel does not tell.
fn own() -> Option<Vec<Own>> {
    let ip = |address: &SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        _ => None,
    };
    let found = getifaddrs().ok()?.filter_map(|found| {
        let address = found.address.as_ref().and_then(ip)?;
        let length = match found.netmask.as_ref().and_then(ip)? {
            IpAddr::V4(mask) => mask.to_bits().leading_ones(),
            IpAddr::V6(mask) => mask.to_bits().leading_ones(),
        };
        let length = u8::try_from(length).ok()?;
        (!address.is_loopback()).then_some(Own { interface: found.interface_name, address, length })
    });
    Some(found.collect())
}

/// Where packets from `address` may go: a neighbour on each link that has it, and the world.
fn destinations(own: &[Own], address: IpAddr) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = own
        .iter()
        .filter(|own| own.address == address)
        .flat_map(|own| neighbours(own.address, own.length))
        .collect();
    // Addresses that no host has, of blocks of their own: routes to them are those to the world.
    let world: [IpAddr; 2] = match address {
        IpAddr::V4(_) => [[192, 0, 2, 254].into(), [203, 0, 113, 254].into()],
        IpAddr::V6(_) => [
            Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe).into(),
            Ipv6Addr::new(0x2600, 0xffff, 0xffff, 0, 0, 0, 0, 0xfffe).into(),
        ],
    };
    all.extend(world.into_iter().filter(|ip| *ip != address));
    all
}

/// Two other addresses of the prefix, neither of them its first or last one; none where there is no room.
fn neighbours(address: IpAddr, length: u8) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) if length <= 30 => {
            let network = v4.to_bits() & (u32::MAX << (32 - u32::from(length).max(1)));
            [1, 2].map(|n| IpAddr::V4(Ipv4Addr::from_bits(network | n))).into()
        }
        IpAddr::V6(v6) if length <= 126 => {
            let network = v6.to_bits() & (u128::MAX << (128 - u32::from(length).max(1)));
            [1, 2].map(|n| IpAddr::V6(Ipv6Addr::from_bits(network | n))).into()
        }
        // A pair: the other one.
        IpAddr::V4(v4) if length == 31 => vec![Ipv4Addr::from_bits(v4.to_bits() ^ 1).into()],
        IpAddr::V6(v6) if length == 127 => vec![Ipv6Addr::from_bits(v6.to_bits() ^ 1).into()],
        _ => Vec::new(),
    }
    .into_iter()
    .filter(|ip| *ip != address)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_link_is_not_asked_for_the_address_itself() {
        for (address, length, expected) in [
            ("10.0.0.5", 24, vec!["10.0.0.1", "10.0.0.2"]),
            ("10.0.0.1", 24, vec!["10.0.0.2"]),
            ("10.0.0.5", 31, vec!["10.0.0.4"]),
            ("10.0.0.5", 32, vec![]),
            ("2001:db8::1", 64, vec!["2001:db8::2"]),
            ("2001:db8::1", 128, vec![]),
        ] {
            let expected: Vec<IpAddr> = expected.into_iter().map(ip).collect();
            assert_eq!(neighbours(ip(address), length), expected, "{address}/{length}");
        }
    }

    #[test]
    fn an_address_of_another_host_is_not_spoken_from() {
        assert_eq!(speaks_from(ip("192.0.2.77")), None);
        assert_eq!(speaks_from(ip("127.0.0.1")), None, "only this host can send packets there");
    }

    #[test]
    fn a_refusal_names_address_and_interface() {
        let speaks = Speaks { interface: "eth0".into(), towards: ip("10.0.0.1") };
        let why = speaks.refusal(ip("10.0.0.5"));
        assert!(why.starts_with("10.0.0.5 is this host's own address on eth0: "), "{why}");
    }
}
