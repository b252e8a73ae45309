//! What a test does that needs more rights than it has: it says so where the summary finds it, and passes.
//!
//! The test harness swallows what a passing test prints through `eprintln!`; these lines go to standard error itself.

use std::io::Write as _;

/// Numbers of the capabilities asked for (linux/capability.h).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Whether this thread may load XDP programs and run packets through them: CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF
/// (since kernel 5.8), or CAP_SYS_ADMIN, which contains the latter two.
pub fn may_load_programs() -> bool {
    let held = effective();
    let has = |capability: u32| held & 1 << capability != 0;
    has(NET_ADMIN) && (has(SYS_ADMIN) || has(PERFMON) && has(BPF))
}

/// Whether this thread may make network namespaces and devices in them.
pub fn may_make_namespaces() -> bool {
    let held = effective();
    held & 1 << SYS_ADMIN != 0 && held & 1 << NET_ADMIN != 0
}

/// The effective capabilities of this thread as a bit set; none where `/proc` does not tell.
fn effective() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Says that a test was skipped and why, in one line that begins with `SKIP `.
pub fn skip(name: &str, reason: &str) {
    // A closed standard error is no reason to fail.
    let _written = writeln!(std::io::stderr(), "SKIP {name}: {reason}");
}

/// The path of the function it stands in, without the crate's name: how the harness names a test.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here).trim_end_matches("::here");
        path.split_once("::").map_or(path, |(_, name)| name)
    }};
}

/// Leaves the test it stands in (which returns a `Result<()>`), saying so, unless XDP programs can be loaded.
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
