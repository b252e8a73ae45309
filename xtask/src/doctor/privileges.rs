//! What this process may do: capabilities, memory limits, and whether the kernel takes an XDP program from it.

use std::fs;

use super::{Item, Verdict, kernel};
use crate::{
    lab::xdp,
    privilege::{self, Way},
};

const AREA: &str = "privileges";

/// Capabilities by number (include/uapi/linux/capability.h), what each is for, and one that includes it.
const CAPABILITIES: &[(u32, &str, &str, Option<u32>)] = &[
    (12, "CAP_NET_ADMIN", "attaches programs to interfaces, makes the lab's cables", None),
    (39, "CAP_BPF", "loads programs and makes maps", Some(SYS_ADMIN)),
    (38, "CAP_PERFMON", "lets programs read the packet by pointer", Some(SYS_ADMIN)),
    (SYS_ADMIN, "CAP_SYS_ADMIN", "mounts bpffs and makes the lab's namespaces", None),
];
const SYS_ADMIN: u32 = 21;

/// Everything about privileges.
pub(super) fn look() -> Vec<Item> {
    match privilege::way() {
        Way::Root => {}
        Way::Sudo => {
            return vec![Item::ok(AREA, "root", "through sudo, which is asked for the privileged part only")];
        }
        Way::None(why) => {
            return vec![Item::new(AREA, "root", Verdict::Missing, why, "run it as root, or configure sudo")];
        }
    }
    let mut items = capabilities(effective().unwrap_or(0));
    items.push(memlock());
    items.push(match xdp::can_load() {
        Ok(()) => Item::ok(AREA, "load a program", "the kernel takes an XDP program"),
        Err(error) => {
            let advice =
                "kernel lockdown, a seccomp filter of a container, or missing capabilities forbid it";
            Item::new(
                AREA,
                "load a program",
                Verdict::Missing,
                format!("the kernel refuses: {error}"),
                advice,
            )
        }
    });
    items
}

/// The effective set of this process.
fn effective() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn capabilities(set: u64) -> Vec<Item> {
    let has = |number: u32| set >> number & 1 == 1;
    CAPABILITIES
        .iter()
        .map(|(number, name, purpose, includes)| {
            if has(*number) {
                Item::ok(AREA, name, *purpose)
            } else if includes.is_some_and(has) {
                Item::ok(AREA, name, format!("{purpose} (by CAP_SYS_ADMIN)"))
            } else {
                let advice =
                    format!("start it with {name}: as root, or AmbientCapabilities={name} in a systemd unit");
                Item::new(AREA, name, Verdict::Missing, format!("{purpose}: not held"), advice)
            }
        })
        .collect()
}

/// Kernels before 5.11 count maps against the limit for locked memory (commit 97306be45fbe and those around it).
fn memlock() -> Item {
    let name = "locked memory";
    if kernel::version() >= kernel::Version(5, 11) {
        return Item::ok(AREA, name, "maps are counted by the memory controller");
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match limit.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => Item::ok(AREA, name, "unlimited"),
        limit => {
            let detail =
                format!("limited to {} bytes, and this kernel counts maps against it", limit.unwrap_or("?"));
            Item::new(
                AREA,
                name,
                Verdict::Missing,
                detail,
                "ulimit -l unlimited, or LimitMEMLOCK=infinity in a systemd unit",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_them_all() {
        assert!(capabilities(u64::MAX).iter().all(|item| item.verdict == Verdict::Ok));
    }

    #[test]
    fn old_kernels_have_the_new_ones_in_sys_admin() {
        let items = capabilities(1 << SYS_ADMIN | 1 << 12);
        assert!(items.iter().all(|item| item.verdict == Verdict::Ok), "{items:?}");
    }

    #[test]
    fn what_is_not_held_is_named() {
        let items = capabilities(1 << SYS_ADMIN);
        let missing: Vec<&str> = items
            .iter()
            .filter(|item| item.verdict == Verdict::Missing)
            .map(|item| item.name.as_str())
            .collect();
        assert_eq!(missing, ["CAP_NET_ADMIN"]);
    }
}
