//! The kernel: its version and what that brings, BTF, bpffs, the JIT.

use std::{fmt, fs, path::Path};

use super::{Item, Verdict};
use crate::lab::xdp;

const AREA: &str = "kernel";

/// A kernel's version, without its patch level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The oldest kernel it runs on: XDP links are of 5.9 (commit aa8d3a716b59), and 5.10 is the oldest long-term release
/// after that.
const OLDEST: Version = Version(5, 10);

/// What later kernels bring.
const FEATURES: &[(Version, &str, &str)] =
    &[(Version(6, 10), "per-CPU arrays", "counters cost a few instructions, no call")];

/// The running kernel's; 0.0 when it does not say.
pub(super) fn version() -> Version {
    parse(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()).unwrap_or(Version(0, 0))
}

fn parse(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some(Version(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Everything about the kernel.
pub(super) fn look() -> Vec<Item> {
    let version = version();
    let mut items = vec![if version >= OLDEST {
        Item::ok(AREA, "version", version.to_string())
    } else {
        let advice = format!("a kernel from {OLDEST} on");
        Item::new(AREA, "version", Verdict::Missing, format!("{version}, too old"), advice)
    }];
    for (since, name, benefit) in FEATURES {
        items.push(if version >= *since {
            Item::ok(AREA, name, format!("{benefit} (since {since})"))
        } else {
            Item::new(
                AREA,
                name,
                Verdict::Slower,
                format!("{benefit}: not in {version}"),
                format!("kernel {since} has it"),
            )
        });
    }
    items.push(btf());
    items.push(bpffs());
    items.extend(jit());
    items.push(unprivileged());
    items
}

fn btf() -> Item {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Item::ok(AREA, "BTF", "/sys/kernel/btf/vmlinux")
    } else {
        let detail = "the kernel does not describe its types; tools that look into it need them, the load balancer does not";
        Item::new(AREA, "BTF", Verdict::Absent, detail, "a kernel with CONFIG_DEBUG_INFO_BTF")
    }
}

fn bpffs() -> Item {
    let place = Path::new(xdp::BPFFS);
    if xdp::is_bpffs(place) {
        Item::ok(AREA, "bpffs", format!("mounted at {}", place.display()))
    } else {
        let advice = format!(
            "mount -t bpf bpf {0} (on a host that balances, in /etc/fstab; the lab has its own)",
            place.display()
        );
        Item::new(AREA, "bpffs", Verdict::Absent, format!("not mounted at {}", place.display()), advice)
    }
}

fn sysctl(name: &str) -> Option<u32> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

fn jit() -> Vec<Item> {
    let enabled = match sysctl("net/core/bpf_jit_enable") {
        Some(0) => Item::new(
            AREA,
            "JIT",
            Verdict::Slower,
            "off: programs are interpreted",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Item::ok(AREA, "JIT", "on"),
        None => Item::ok(AREA, "JIT", "not to be read here"),
    };
    let mut items = vec![enabled];
    if sysctl("net/core/bpf_jit_harden") == Some(2) {
        let detail = "constants are blinded for root's programs too";
        items.push(Item::new(
            AREA,
            "JIT hardening",
            Verdict::Slower,
            detail,
            "sysctl -w net.core.bpf_jit_harden=1",
        ));
    }
    items
}

fn unprivileged() -> Item {
    match sysctl("kernel/unprivileged_bpf_disabled") {
        Some(0) => {
            let advice = "sysctl -w kernel.unprivileged_bpf_disabled=2 (nothing here needs it)";
            Item::new(AREA, "unprivileged BPF", Verdict::Ok, "every user may load programs", advice)
        }
        _ => Item::ok(AREA, "unprivileged BPF", "off, as it should be"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases_of_distributions() {
        assert_eq!(parse("6.1.0-38-amd64\n"), Some(Version(6, 1)));
        assert_eq!(parse("5.15.167.4-microsoft-standard-WSL2"), Some(Version(5, 15)));
        assert_eq!(parse("6.18-rc1"), Some(Version(6, 18)));
        assert_eq!(parse("unknown"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(Version(6, 10) > Version(6, 9) && Version(5, 18) < Version(6, 0));
    }
}
