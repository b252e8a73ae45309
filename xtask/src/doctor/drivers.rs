//! Drivers that run XDP programs themselves (native mode), the kernel that brought it, and what to mind with each.
//! Sources: the drivers' commits that answer XDP_SETUP_PROG, the iovisor/bcc list of kernel versions, the drivers' pages
//! under Documentation/networking/device_drivers.

use super::kernel::Version;

/// A driver with native XDP.
#[derive(Debug)]
pub(super) struct Driver {
    /// As in /sys/class/net/<interface>/device/driver.
    pub(super) name: &'static str,
    pub(super) since: Version,
    /// What to mind; empty = nothing known.
    pub(super) mind: &'static str,
}

const fn driver(name: &'static str, since: Version, mind: &'static str) -> Driver {
    Driver { name, since, mind }
}

const HALF_OF_THE_QUEUES: &str =
    "leave half of the queues free for what XDP sends: `ethtool -L <interface> combined <half>`";
const LRO_OFF: &str = "receive offload in hardware must be off: `ethtool -K <interface> lro off`";

pub(super) const DRIVERS: &[Driver] = &[
    driver("atlantic", Version(5, 19), ""),
    driver("bnxt_en", Version(4, 11), ""),
    driver("cpsw", Version(5, 3), ""),
    driver("dpaa2-eth", Version(5, 0), ""),
    driver("ena", Version(5, 6), HALF_OF_THE_QUEUES),
    driver("fec", Version(6, 2), ""),
    driver("fsl_dpaa2_eth", Version(5, 0), ""),
    driver("fsl_enetc", Version(5, 13), ""),
    driver("gve", Version(6, 4), HALF_OF_THE_QUEUES),
    driver("hv_netvsc", Version(5, 6), LRO_OFF),
    driver("i40e", Version(4, 13), ""),
    driver("ice", Version(5, 5), ""),
    driver("igb", Version(5, 10), ""),
    driver("igc", Version(5, 13), ""),
    driver("ixgbe", Version(4, 12), LRO_OFF),
    driver("ixgbevf", Version(4, 17), ""),
    driver("mana", Version(5, 17), ""),
    driver("mlx4_core", Version(4, 8), ""),
    driver("mlx5_core", Version(4, 9), LRO_OFF),
    driver("mtk_soc_eth", Version(6, 0), ""),
    driver("mvneta", Version(5, 5), ""),
    driver("mvpp2", Version(5, 9), ""),
    driver("netsec", Version(5, 3), ""),
    driver("nfp", Version(4, 10), ""),
    driver("qede", Version(4, 10), ""),
    driver("rvu_nicpf", Version(5, 17), ""),
    driver("sfc", Version(5, 5), ""),
    driver("stmmac", Version(5, 13), ""),
    driver("thunder-nicvf", Version(4, 12), ""),
    driver("tun", Version(4, 14), ""),
    driver("veth", Version(4, 19), "the other end needs an XDP program too, to receive what XDP sends"),
    driver("vif", Version(5, 9), ""),
    driver(
        "virtio_net",
        Version(4, 10),
        "best with a queue more for each CPU than it receives on; the host may have to switch off guest receive offloads",
    ),
    driver("vmxnet3", Version(6, 6), LRO_OFF),
];

/// What is known of a driver.
pub(super) fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_in_alphabetical_order_without_repeats() {
        assert!(DRIVERS.is_sorted_by(|a, b| a.name < b.name));
    }
}
