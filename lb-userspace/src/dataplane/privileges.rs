//! What the agent may do: said before trying, because the kernel's own answer is "operation not permitted".

use std::fs;

use super::sys;

/// Bits of a capability set (linux/capability.h).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// What is missing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "missing privileges: {}; run as root, or give the process these capabilities \
     (systemd: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON)",
    .0.join(", ")
)]
pub struct Missing(pub Vec<&'static str>);

/// Checks the capabilities of this process.
///
/// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, which are younger (kernel 5.8); attaching takes CAP_NET_ADMIN in
/// any case.
pub fn check() -> Result<(), Missing> {
    // Without /proc nothing can be told, and trying tells.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective(&status) {
        Some(set) => check_set(set),
        None => Ok(()),
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn check_set(set: u64) -> Result<(), Missing> {
    let has = |bit: u32| set & 1 << bit != 0;
    let admin = has(SYS_ADMIN);
    let needs = [
        ("CAP_BPF (or CAP_SYS_ADMIN) to make maps and load programs", admin || has(BPF)),
        ("CAP_PERFMON (or CAP_SYS_ADMIN) to have them verified as privileged ones", admin || has(PERFMON)),
        ("CAP_NET_ADMIN to attach them to interfaces", has(NET_ADMIN)),
    ];
    let missing: Vec<_> = needs.iter().filter(|(_, has)| !has).map(|(what, _)| *what).collect();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

/// Lifts the limit of locked memory, which kernels before 5.11 count maps against. It may fail: newer kernels do not
/// ask for it, and on older ones making the maps will say so.
pub fn raise_locked_memory() {
    if let Err(error) = sys::raise_locked_memory() {
        log::debug!("the limit of locked memory stays as it is: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_set_is_enough_and_so_are_the_three() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(check_set(0x1ff_ffff_ffff), Ok(()));
        assert_eq!(check_set(1 << BPF | 1 << PERFMON | 1 << NET_ADMIN), Ok(()));
        assert_eq!(check_set(1 << SYS_ADMIN | 1 << NET_ADMIN), Ok(()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = check_set(0).unwrap_err().to_string();
        for name in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
            assert!(error.contains(name), "{error}");
        }
        assert_eq!(check_set(1 << BPF | 1 << PERFMON).unwrap_err().0.len(), 1);
        assert_eq!(effective("nonsense"), None);
    }
}
