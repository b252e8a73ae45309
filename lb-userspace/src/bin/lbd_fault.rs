//! `lbd` as tests kill it: the same program, which ends itself by SIGKILL before the write that `LB_FAULT` names. Built with
//! the feature `fault-injection` only, never in a release.

#[path = "lbd.rs"]
mod lbd;

use std::process::ExitCode;

fn main() -> ExitCode {
    lbd::main()
}
