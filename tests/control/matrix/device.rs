//! The device that leads from the balancer to the segment, and the commands that make it. `scene` makes the other parts.

/// What leads from the balancer to the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Device {
    /// The far end has neither an XDP program nor GRO.
    Veth,
    VethWithGro,
    VethWithProgram,
    Bridge,
    Macvlan,
    Tap,
    Vlan,
    /// Has two ports, each with an XDP program at its far end.
    Bond,
    /// Has two ports, whose far ends have neither an XDP program nor GRO.
    BondWithout,
}

impl Device {
    pub(super) const ALL: [Self; 9] = [
        Self::Veth,
        Self::VethWithGro,
        Self::VethWithProgram,
        Self::Bridge,
        Self::Macvlan,
        Self::Tap,
        Self::Vlan,
        Self::Bond,
        Self::BondWithout,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::VethWithGro => "veth, GRO at its far end",
            Self::VethWithProgram => "veth, XDP program at its far end",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Tap => "TAP",
            Self::Vlan => "VLAN device",
            Self::Bond => "bond, XDP programs at its far ends",
            Self::BondWithout => "bond, nothing at its far ends",
        }
    }

    /// For kinds that many kernels lack: a command that makes such a device for a try, and the module that has it.
    pub(super) fn optional(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Vlan => Some(("ip link add link lb0 name try0 type vlan id 7", "8021q")),
            Self::Bond | Self::BondWithout => Some(("ip link add name try0 type bond", "bonding")),
            _ => None,
        }
    }

    /// The interface that has the balancer's address.
    pub(super) fn interface(self) -> &'static str {
        match self {
            Self::Veth | Self::VethWithGro | Self::VethWithProgram => "out0",
            Self::Bridge => "br0",
            Self::Macvlan => "mv0",
            Self::Tap => "tap0",
            Self::Vlan => "vlan7",
            Self::Bond | Self::BondWithout => "bond0",
        }
    }

    /// The cables to the segment: the name of the interface here, and of the one there.
    pub(super) fn cables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Tap => &[("tap0", "far")],
            Self::Bond | Self::BondWithout => &[("out0", "far"), ("out1", "far1")],
            _ => &[("out0", "far")],
        }
    }

    /// The commands that make the device from the cables here.
    pub(super) fn above(self) -> &'static str {
        match self {
            Self::Veth | Self::VethWithGro | Self::VethWithProgram | Self::Tap => "true",
            Self::Bridge => {
                "ip link add br0 mtu 1600 type bridge; ip link set out0 master br0; ip link set br0 up"
            }
            // Without this setting the lower device answers ARP for the addresses of the macvlan device above it.
            Self::Macvlan => {
                "sysctl -qw net.ipv4.conf.all.arp_ignore=1\n\
                 ip link add mv0 link out0 mtu 1600 type macvlan mode bridge; ip link set mv0 up"
            }
            Self::Vlan => "ip link add link out0 name vlan7 mtu 1600 type vlan id 7; ip link set vlan7 up",
            // A bond takes only interfaces that are down.
            Self::Bond | Self::BondWithout => {
                "ip link add name bond0 mtu 1600 type bond mode active-backup miimon 100\n\
                 for port in out0 out1; do ip link set $port down; ip link set $port master bond0; done\n\
                 ip link set bond0 up"
            }
        }
    }
}
