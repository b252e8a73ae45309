//! What the agent may do: said before trying, because the kernel's own answer is "operation not permitted".

use std::collections::HashSet;

use caps::{CapSet, Capability};

use super::sys;

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
    // Where the kernel does not say, the attempt will.
    caps::read(None, CapSet::Effective).map_or(Ok(()), |set| check_set(&set))
}

fn check_set(set: &HashSet<Capability>) -> Result<(), Missing> {
    let has = |capability| set.contains(&capability);
    let admin = has(Capability::CAP_SYS_ADMIN);
    let needs = [
        ("CAP_BPF (or CAP_SYS_ADMIN) to make maps and load programs", admin || has(Capability::CAP_BPF)),
        (
            "CAP_PERFMON (or CAP_SYS_ADMIN) to have them verified as privileged ones",
            admin || has(Capability::CAP_PERFMON),
        ),
        ("CAP_NET_ADMIN to attach them to interfaces", has(Capability::CAP_NET_ADMIN)),
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

    use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};

    #[test]
    fn roots_set_is_enough_and_so_are_the_three() {
        assert_eq!(check_set(&caps::all()), Ok(()));
        assert_eq!(check_set(&[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN].into()), Ok(()));
        assert_eq!(check_set(&[CAP_SYS_ADMIN, CAP_NET_ADMIN].into()), Ok(()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = check_set(&HashSet::new()).unwrap_err().to_string();
        for name in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
            assert!(error.contains(name), "{error}");
        }
        assert_eq!(check_set(&[CAP_BPF, CAP_PERFMON].into()).unwrap_err().0.len(), 1);
    }
}
