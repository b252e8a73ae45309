//! Checks the privileges of the agent before it needs them, because the kernel's own answer is only "operation not permitted".

use std::collections::HashSet;

use caps::{CapSet, Capability};

use super::sys;

/// The missing privileges.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "missing privileges: {}; run as root, or give the process these capabilities \
     (systemd: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON)",
    .0.join(", ")
)]
pub struct Missing(pub Vec<&'static str>);

/// Checks the capabilities of this process.
///
/// CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON, which exist since kernel 5.8; attaching needs CAP_NET_ADMIN in
/// any case.
pub fn check() -> Result<(), Missing> {
    // Where the capabilities cannot be read, go on: the first operation without a privilege will fail.
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

/// Lifts the limit of locked memory, against which kernels before 5.11 count maps. A failure is not an error: newer kernels do
/// not need it, and on older kernels making the maps will fail with an error of its own.
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
