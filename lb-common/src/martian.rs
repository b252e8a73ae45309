//! Sources that no client has: the answer of a backend to them would come back to the balancer, or go nowhere.

use crate::{Address, is_v4, join};

/// Decides by the first byte of an IPv4 address: 0/8 and 127/8 (RFC 1122, 3.2.1.3), 224/4 multicast, 240/4 reserved.
#[inline(always)]
pub const fn v4(first: u8) -> bool {
    // In 32 bits, as the kernel's instructions compute.
    (first as u32).wrapping_sub(1) >= 223 || first == 127
}

/// Decides by the first half of an IPv6 address as it lies in memory: 0 in unspecified, loopback, mapped and compatible
/// addresses (RFC 4291, 2.5); ff00::/8 is multicast.
#[inline(always)]
pub const fn v6(upper: u64) -> bool {
    upper == 0 || u64::from_be(upper) >> 56 == 0xff
}

/// Whether no client of `destination` has that source, whatever services exist.
pub fn is(source: &Address, destination: &Address) -> bool {
    let own = if is_v4(source) {
        v4((u32::from_be(source[3]) >> 24) as u8)
    } else {
        v6(join(source[0], source[1]))
    };
    own || source == destination
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::mapped;

    #[test]
    fn the_first_byte_says_what_an_ipv4_address_is() {
        for first in 0..=u8::MAX {
            let address = Ipv4Addr::new(first, 1, 2, 3);
            let martian = first == 0 || address.is_loopback() || address.is_multicast() || first >= 240;
            assert_eq!(v4(first), martian, "{address}");
            let word = u32::from_ne_bytes(address.octets());
            assert_eq!(is(&mapped(word), &mapped(7)), martian, "{address}");
        }
        assert!(is(&mapped(7), &mapped(7)));
    }

    #[test]
    fn the_first_half_says_what_an_ipv6_address_is() {
        let words = |text: &str| {
            let octets = text.parse::<Ipv6Addr>().unwrap().octets();
            [0, 4, 8, 12].map(|i| u32::from_ne_bytes(octets[i..i + 4].try_into().unwrap()))
        };
        let other = words("2001:db8::1");
        for text in ["::", "::1", "::1.2.3.4", "ff02::1", "ffff::"] {
            assert!(is(&words(text), &other), "{text}");
        }
        for text in ["2001:db8::2", "fe80::1", "fd00::1", "64:ff9b::1.2.3.4", "0:0:0:1::"] {
            assert!(!is(&words(text), &other), "{text}");
        }
        assert!(is(&other, &other));
    }
}
