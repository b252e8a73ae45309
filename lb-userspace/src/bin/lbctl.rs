//! The command line's entry point; all of it is in `lb_userspace::ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::ctl::main()
}
