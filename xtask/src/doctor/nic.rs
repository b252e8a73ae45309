//! Interfaces: native XDP, MTU against the bytes encapsulation adds, queues, offloads, reverse-path filter.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Item, Verdict, drivers, kernel::Version, merging};
use crate::run;

/// What is said of a driver's own mode.
const NATIVE: &str = "native XDP";

/// What an outer header adds, in bytes.
const OUTER_V4: u32 = 20;
const OUTER_V6: u32 = 40;
/// The MTU most clients have.
const CLIENT_MTU: u32 = 1500;
/// Up to here a packet lies in one page with the room XDP wants around it: 4096 minus 256 before, 320 behind and the
/// Ethernet header (veth takes 3,506, drivers a little less).
const LINEAR_MTU: u32 = 3498;

/// What was read of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    driver: Option<String>,
    mtu: u32,
    receive_queues: usize,
    lro: bool,
    rp_filter: u32,
}

/// Everything about the named interfaces, or about all that have hardware behind them.
pub(super) fn look(names: &[String], kernel: Version) -> Vec<Item> {
    let names = if names.is_empty() { hardware() } else { names.to_vec() };
    if names.is_empty() {
        return vec![Item::new("network", "interface", Verdict::Absent, "no network hardware here", "")];
    }
    let item = |name: &String| match read(name) {
        Some(facts) => {
            let mut items = judge(&facts, kernel);
            // A driver's program sees packets as they came.
            let native = items.iter().any(|item| item.name == NATIVE && item.verdict == Verdict::Ok);
            items.extend(if native { None } else { merging::look(name) });
            items
        }
        None => vec![Item::new(
            name,
            "interface",
            Verdict::Missing,
            "there is no such interface",
            "see `ip link`",
        )],
    };
    names.iter().flat_map(item).collect()
}

fn directory(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

fn hardware() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| directory(name).join("device").exists())
        .collect();
    names.sort();
    names
}

fn read(name: &str) -> Option<Facts> {
    let directory = directory(name);
    let mtu = fs::read_to_string(directory.join("mtu")).ok()?.trim().parse().ok()?;
    let queues = fs::read_dir(directory.join("queues")).into_iter().flatten().flatten();
    let receive_queues =
        queues.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
    let features = run::capture(Command::new("ethtool").args(["-k", name])).unwrap_or_default();
    let filter = |scope: &str| -> u32 {
        let text =
            fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    Some(Facts {
        driver: driver(name),
        name: name.to_owned(),
        mtu,
        receive_queues,
        lro: features.lines().any(|line| line.starts_with("large-receive-offload: on")),
        // The kernel takes the stricter of both (Documentation/networking/ip-sysctl.rst).
        rp_filter: filter("all").max(filter(name)),
    })
}

/// By the device's link in sysfs; virtual interfaces have none and say it to ethtool only.
fn driver(name: &str) -> Option<String> {
    let link = fs::read_link(directory(name).join("device/driver")).ok();
    let of_device = link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    of_device.or_else(|| {
        let text = run::capture(Command::new("ethtool").args(["-i", name])).ok()?;
        text.lines().find_map(|line| line.strip_prefix("driver: ").map(str::to_owned))
    })
}

/// What the facts mean. Pure.
fn judge(facts: &Facts, kernel: Version) -> Vec<Item> {
    let Facts { name, driver, mtu, receive_queues, lro, rp_filter } = facts;
    let mut items = vec![native(name, driver.as_deref(), kernel)];
    items.extend(driver.as_deref().map(|driver| sends(name, driver)));
    items.extend(budget(name, *mtu));
    items.push(if *receive_queues > 1 {
        Item::ok(
            name,
            "queues",
            format!("{receive_queues} receive queues, so {receive_queues} CPUs share the packets"),
        )
    } else {
        let advice = format!(
            "more queues, where the hardware has them: `ethtool -l {name}`, `ethtool -L {name} combined N`"
        );
        Item::new(name, "queues", Verdict::Slower, "one receive queue: one CPU sees every packet", advice)
    });
    if *lro {
        let detail = "the hardware joins packets before XDP sees them; most drivers then refuse native mode";
        items.push(Item::new(name, "LRO", Verdict::Slower, detail, format!("ethtool -K {name} lro off")));
    }
    items.push(match rp_filter {
        1 => {
            let advice = format!(
                "as a backend: sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{name}.rp_filter=0"
            );
            let detail =
                "strict: fine on a balancer, but a backend would drop what arrives through a tunnel device";
            Item::new(name, "rp_filter", Verdict::Ok, detail, advice)
        }
        2 => Item::ok(name, "rp_filter", "loose"),
        _ => Item::ok(name, "rp_filter", "off"),
    });
    items
}

fn native(interface: &str, driver: Option<&str>, kernel: Version) -> Item {
    let Some(driver) = driver else {
        let advice = "generic mode works everywhere, at a fraction of the rate";
        return Item::new(interface, NATIVE, Verdict::Slower, "the driver is not known", advice);
    };
    match drivers::find(driver) {
        Some(known) if kernel >= known.since => {
            let mind = known.mind.replace("<interface>", interface);
            let detail = format!("driver {driver} has it since {}", known.since);
            Item::new(interface, NATIVE, Verdict::Ok, detail, mind)
        }
        Some(known) => {
            let detail =
                format!("driver {driver} has it only from kernel {} on; generic mode is used", known.since);
            Item::new(interface, NATIVE, Verdict::Slower, detail, format!("kernel {}", known.since))
        }
        None => {
            let detail =
                format!("driver {driver} is not known to have it; generic mode is used if it has not");
            let advice = "attaching tells: `lbctl status` shows the mode; other hardware, where rates matter";
            Item::new(interface, NATIVE, Verdict::Slower, detail, advice)
        }
    }
}

/// Drivers of virtual devices that send nothing a program in another interface's driver redirects to them, as ethtool calls
/// them.
const NEVER_SEND: [&str; 12] = [
    "802.1Q VLAN Support",
    "bridge",
    "dummy",
    "geneve",
    "ipvlan",
    "macsec",
    "macvlan",
    "macvtap",
    "team",
    "vrf",
    "vxlan",
    "wireguard",
];

/// Whether the interface can send packets that came in over another one. The agent asks the kernel and says more.
fn sends(interface: &str, driver: &str) -> Item {
    let what = "sends XDP frames";
    let detail = |text: &str| format!("driver {driver}: {text}");
    match driver {
        _ if NEVER_SEND.contains(&driver) => {
            let advice = "attach to it itself, or set node.mode = \"generic\"";
            let detail =
                detail("no; backends behind it are `unresolved` for a native program of another interface");
            Item::new(interface, what, Verdict::Slower, detail, advice)
        }
        "veth" => {
            let advice = "at its far end: `ethtool -K IF gro on` for packets of another interface, an XDP program for \
                          those that are sent back";
            Item::new(interface, what, Verdict::Ok, detail("as its far end lets it"), advice)
        }
        "tun" => Item::ok(interface, what, detail("yes")),
        "bonding" => Item::ok(interface, what, detail("if all its ports do")),
        _ => Item::ok(
            interface,
            what,
            detail(
                "while an XDP program is on it, if it has native XDP; `lbd` puts `lb_pass` there where it needs one",
            ),
        ),
    }
}

/// How large a client's packet may be so that it still fits with an outer header.
fn budget(interface: &str, mtu: u32) -> Vec<Item> {
    let mut items = Vec::new();
    let (v4, v6) = (mtu.saturating_sub(OUTER_V4), mtu.saturating_sub(OUTER_V6));
    let detail = format!("{mtu}: takes client packets of {v4} bytes behind IPv4, {v6} behind IPv6");
    items.push(if v6 >= CLIENT_MTU {
        Item::ok(interface, "MTU", detail)
    } else {
        let advice = format!(
            "larger ones are dropped and counted: raise the MTU towards the backends to {} or more, or have the \
             backends announce a smaller MSS ({} for IPv4, {} for IPv6: route option `advmss`)",
            CLIENT_MTU + OUTER_V6,
            v6.saturating_sub(40),
            v6.saturating_sub(60),
        );
        Item::new(interface, "MTU", Verdict::Slower, detail, advice)
    });
    if mtu > LINEAR_MTU {
        let detail = format!(
            "above {LINEAR_MTU}, where packets no longer lie in one page: native mode may be refused"
        );
        let advice = format!("ip link set {interface} mtu {LINEAR_MTU}");
        items.push(Item::new(interface, "MTU for XDP", Verdict::Slower, detail, advice));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(driver: &str, mtu: u32) -> Facts {
        Facts {
            name: "eth7".into(),
            driver: Some(driver.into()),
            mtu,
            receive_queues: 8,
            lro: false,
            rp_filter: 0,
        }
    }

    fn verdict(items: &[Item], name: &str) -> Option<Verdict> {
        items.iter().find(|item| item.name == name).map(|item| item.verdict)
    }

    #[test]
    fn a_good_interface_is_fine() {
        let items = judge(&facts("mlx5_core", 1600), Version(6, 12));
        assert!(items.iter().all(|item| item.verdict == Verdict::Ok), "{items:?}");
    }

    #[test]
    fn a_driver_older_than_its_native_mode_is_slower() {
        assert_eq!(verdict(&judge(&facts("vmxnet3", 1600), Version(6, 1)), NATIVE), Some(Verdict::Slower));
        assert_eq!(verdict(&judge(&facts("vmxnet3", 1600), Version(6, 6)), NATIVE), Some(Verdict::Ok));
        assert_eq!(verdict(&judge(&facts("e1000", 1600), Version(6, 6)), NATIVE), Some(Verdict::Slower));
    }

    #[test]
    fn the_budget_is_the_mtu_without_the_outer_header() {
        assert_eq!(verdict(&budget("eth7", 1540), "MTU"), Some(Verdict::Ok));
        let items = budget("eth7", 1500);
        assert_eq!(verdict(&items, "MTU"), Some(Verdict::Slower));
        assert!(items[0].detail.contains("1480 bytes behind IPv4, 1460 behind IPv6"), "{}", items[0].detail);
        assert!(items[0].advice.contains("1420 for IPv4, 1400 for IPv6"), "{}", items[0].advice);
    }

    #[test]
    fn jumbo_frames_do_not_fit_a_page() {
        assert_eq!(verdict(&budget("eth7", 9000), "MTU for XDP"), Some(Verdict::Slower));
        assert_eq!(verdict(&budget("eth7", 3498), "MTU for XDP"), None);
    }

    #[test]
    fn one_queue_and_joined_packets_are_slower() {
        let items = judge(&Facts { receive_queues: 1, lro: true, ..facts("ixgbe", 1600) }, Version(6, 12));
        assert_eq!(verdict(&items, "queues"), Some(Verdict::Slower));
        assert_eq!(verdict(&items, "LRO"), Some(Verdict::Slower));
    }

    #[test]
    fn what_cannot_send_is_said_with_the_way_out() {
        let of = |driver: &str| verdict(&judge(&facts(driver, 1600), Version(6, 12)), "sends XDP frames");
        for driver in NEVER_SEND {
            assert_eq!(of(driver), Some(Verdict::Slower), "{driver}");
        }
        for driver in ["mlx5_core", "tun", "veth", "bonding"] {
            assert_eq!(of(driver), Some(Verdict::Ok), "{driver}");
        }
        assert!(sends("eth7", "bridge").advice.contains("node.mode"));
    }

    #[test]
    fn a_strict_filter_is_said_for_backends() {
        let items = judge(&Facts { rp_filter: 1, ..facts("ice", 1600) }, Version(6, 12));
        let item = items.iter().find(|item| item.name == "rp_filter").unwrap();
        assert!(item.advice.starts_with("as a backend"), "{}", item.advice);
    }
}
