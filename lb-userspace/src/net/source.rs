//! The address from which this host would send, asked of the kernel's routes without sending anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The source address of packets to `address`; `None` = there is no route.
pub fn towards(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting a UDP socket looks the route up and sends nothing; 9 is the discard port.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(address, 9)).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_begins_at_oneself() {
        let home: IpAddr = Ipv4Addr::LOCALHOST.into();
        // A new network namespace has its loopback down.
        assert!(towards(home).is_none_or(|source| source == home));
        assert_eq!(towards(IpAddr::from([255, 255, 255, 255])), None);
    }
}
