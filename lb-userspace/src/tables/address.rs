//! Addresses as the maps hold them and as the rest of the agent does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{Address, is_v4, mapped};

/// An IPv4 address as it is in a header.
pub fn v4_to_wire(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// An IPv6 address as it is in a header.
pub fn v6_to_wire(address: Ipv6Addr) -> Address {
    let bytes = address.octets();
    std::array::from_fn(|i| {
        u32::from_ne_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
    })
}

/// An address of either family; IPv4 is mapped into IPv6.
pub fn to_wire(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4_to_wire(v4)),
        IpAddr::V6(v6) => v6_to_wire(v6),
    }
}

/// Back from the form of [`to_wire`].
pub fn from_wire(address: &Address) -> IpAddr {
    if is_v4(address) {
        return IpAddr::V4(Ipv4Addr::from(address[3].to_ne_bytes()));
    }
    let mut bytes = [0; 16];
    for (part, word) in bytes.chunks_exact_mut(4).zip(address) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_as_on_the_wire_and_come_back() {
        assert_eq!(v4_to_wire(Ipv4Addr::new(192, 0, 2, 1)), 0xc000_0201_u32.to_be());
        assert_eq!(to_wire("2001:db8::1".parse().unwrap()), [0x2001_0db8_u32.to_be(), 0, 0, 1_u32.to_be()]);
        for text in ["192.0.2.1", "0.0.0.0", "2001:db8::1", "::", "ff02::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(from_wire(&to_wire(address)), address);
        }
    }
}
