//! What a test does that needs more rights than it has: it prints so where the summary finds it, and passes.
//!
//! The test harness swallows what a passing test prints through `eprintln!`; these lines go to standard error itself.

use std::io::Write as _;

use caps::{
    CapSet,
    Capability::{self, CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN},
};

/// Whether this thread may load XDP programs and run packets through them. It needs CAP_NET_ADMIN, and CAP_PERFMON and CAP_BPF
/// (since kernel 5.8) or CAP_SYS_ADMIN, which contains these two.
pub fn may_load_programs() -> bool {
    has(CAP_NET_ADMIN) && (has(CAP_SYS_ADMIN) || has(CAP_PERFMON) && has(CAP_BPF))
}

/// Whether this thread may make network namespaces and devices in them.
pub fn may_make_namespaces() -> bool {
    has(CAP_SYS_ADMIN) && has(CAP_NET_ADMIN)
}

/// Whether this thread has the capability; `false` where the kernel does not say.
fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Says that a test was skipped and why, in one line that begins with `SKIP `.
pub fn skip(name: &str, reason: &str) {
    // A closed standard error is not a reason to fail.
    let _written = writeln!(std::io::stderr(), "SKIP {name}: {reason}");
}

/// The path of the function in which the macro is used, without the crate's name: the harness uses this name for a test.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here).trim_end_matches("::here");
        path.split_once("::").map_or(path, |(_, name)| name)
    }};
}

/// Leaves the test in which the macro is used (it returns a `Result<()>`) with a message, unless XDP programs can be loaded.
#[macro_export]
macro_rules! need_bpf {
    () => {
        if !$crate::privilege::may_load_programs() {
            $crate::privilege::skip(
                $crate::test_name!(),
                "needs root (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)",
            );
            return Ok(());
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_test_knows_its_name() {
        assert_eq!(crate::test_name!(), "privilege::tests::a_test_knows_its_name");
    }
}
