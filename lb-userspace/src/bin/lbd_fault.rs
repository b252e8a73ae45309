//! `lbd` with faults that tests ask for (`LBD_FAULT`): built only with the feature `fault`, never shipped.

mod lbd;

fn main() -> std::process::ExitCode {
    lbd::main()
}
