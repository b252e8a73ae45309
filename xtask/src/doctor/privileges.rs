//! What this process may do: capabilities, memory limits, and whether the kernel takes an XDP program from it.

use std::{collections::HashSet, fs};

use caps::{
    CapSet,
    Capability::{self, CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN},
};

use super::{Item, Verdict, kernel};
use crate::{
    lab::xdp,
    privilege::{self, Way},
};

const AREA: &str = "privileges";

/// What each capability is for, and one that includes it.
const CAPABILITIES: &[(Capability, &str, Option<Capability>)] = &[
    (CAP_NET_ADMIN, "attaches programs to interfaces, makes the lab's cables", None),
    (CAP_BPF, "loads programs and makes maps", Some(CAP_SYS_ADMIN)),
    (CAP_PERFMON, "lets programs read the packet by pointer", Some(CAP_SYS_ADMIN)),
    (CAP_SYS_ADMIN, "mounts bpffs and makes the lab's namespaces", None),
];

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
    let mut items = capabilities(&caps::read(None, CapSet::Effective).unwrap_or_default());
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

fn capabilities(set: &HashSet<Capability>) -> Vec<Item> {
    CAPABILITIES
        .iter()
        .map(|(capability, purpose, includes)| {
            let name = &capability.to_string();
            if set.contains(capability) {
                Item::ok(AREA, name, *purpose)
            } else if includes.is_some_and(|includes| set.contains(&includes)) {
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
        assert!(capabilities(&caps::all()).iter().all(|item| item.verdict == Verdict::Ok));
    }

    #[test]
    fn old_kernels_have_the_new_ones_in_sys_admin() {
        let items = capabilities(&[CAP_SYS_ADMIN, CAP_NET_ADMIN].into());
        assert!(items.iter().all(|item| item.verdict == Verdict::Ok), "{items:?}");
    }

    #[test]
    fn what_is_not_held_is_named() {
        let items = capabilities(&[CAP_SYS_ADMIN].into());
        let missing: Vec<&str> = items
            .iter()
            .filter(|item| item.verdict == Verdict::Missing)
            .map(|item| item.name.as_str())
            .collect();
        assert_eq!(missing, ["CAP_NET_ADMIN"]);
    }
}
