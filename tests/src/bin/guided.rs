//! The targets of `fuzz::pure` under libFuzzer, which sees the code that its bytes reach. `cargo xtask fuzz` builds it with the
//! coverage that libFuzzer needs; `LB_FUZZ_TARGET` has the name of the target.
#![no_main]

use std::sync::LazyLock;

use lb_tests::fuzz::pure::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("LB_FUZZ_TARGET").unwrap_or_default();
    Target::of(&name).expect("LB_FUZZ_TARGET is config, socket or ring")
});

fuzz_target!(|bytes: &[u8]| TARGET.judge(bytes));
