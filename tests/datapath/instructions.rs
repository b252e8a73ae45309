//! The cost of a packet must not rise unnoticed: the test counts instructions, not time.

use anyhow::{Result, ensure};
use lb_tests::{bench::instructions, need_bpf};

#[test]
fn untagged_ipip_takes_no_more_than_the_log_says() -> Result<()> {
    need_bpf!();
    let above = instructions::above_the_log()?;
    ensure!(
        above.is_empty(),
        "{}: a change that needs them adds a line to tests/src/bench/instructions/tries.md that says what for",
        above.join("; ")
    );
    Ok(())
}
