//! The tier of other kernels: the oldest and the newest of them, each check of a guest a test. Without QEMU or the archive
//! it says that it was skipped; `LB_KERNELS=all` takes all of them.

use super::{
    report::{Failure, Outcome},
    screen::Log,
};
use crate::{
    build::Executable,
    kernels::{self, Wanted, report},
};

/// Which kernels: `all`, or names separated by commas; without it the two ends.
const VARIABLE: &str = "LB_KERNELS";

pub(super) fn run(executables: &[Executable], log: &Log<'_>) -> Outcome {
    if let Some(why) = kernels::unable() {
        return Outcome::skipped("all of it", why);
    }
    let chosen = std::env::var(VARIABLE).unwrap_or_default();
    let wanted = match wanted(&chosen) {
        Ok(wanted) => wanted,
        Err(why) => return Outcome::failed(format!("{VARIABLE}: {why}")),
    };
    let say = |text: &str| log.step(text);
    let runs =
        kernels::payload(executables).and_then(|payload| kernels::runs(&wanted, &payload, false, &[], &say));
    let runs = match runs {
        Ok(runs) => runs,
        Err(error) => return Outcome::failed(format!("{error:#}")),
    };
    let mut outcome = Outcome::default();
    for run in &runs {
        log.line(kernels::render(run, false).trim_end());
        outcome.add(of(run));
    }
    outcome
}

fn wanted(chosen: &str) -> Result<Vec<Wanted>, String> {
    match chosen {
        "" => Ok(Wanted::ends()),
        "all" => Wanted::find(&[]),
        names => Wanted::find(&names.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()),
    }
}

/// One kernel's checks as tests. A kernel that is not to be had is skipped; one that was booted has to come to its end.
fn of(run: &kernels::Run) -> Outcome {
    let name = run.wanted.name;
    let again = format!("cargo xtask kernels {name}");
    let done = match &run.result {
        Ok(done) => done,
        Err(kernels::Trouble::Missing(why)) => {
            return Outcome::skipped(format!("kernel {name}"), format!("{why:#}"));
        }
        Err(kernels::Trouble::Failed(why)) => {
            return Failure::new(format!("kernel {name}")).saying(&format!("{why:#}")).again(again).into();
        }
    };
    let (notes, processor) = (vec![note(name, &done.report)], done.processor);
    let mut outcome = Outcome { notes, processor, ..Outcome::default() };
    for (_, check, result) in &done.report.checks {
        let check = format!("kernel {name}: {check}");
        outcome.add(match result {
            report::Outcome::Passed(_) => Outcome::passed(1),
            report::Outcome::Failed(why) => Failure::new(check).saying(why).again(&again).into(),
            report::Outcome::Left(why) => Outcome::skipped(check, why.clone()),
        });
    }
    if !done.report.is_whole() {
        let failure = Failure::new(format!("kernel {name}")).saying("the guest did not come to its end");
        outcome.add(failure.again(again).into());
    }
    outcome
}

/// What a kernel said, in a line: programs that load, then the checks of each other group.
fn note(name: &str, report: &report::Report) -> String {
    let groups = report::Group::ALL.map(|group| {
        let (passed, failed, left) = report.count(group);
        let left = if left > 0 { format!(", {left} left out by design") } else { String::new() };
        format!("{} {passed} of {}{left}", group.name(), passed + failed)
    });
    let release = report.release.as_deref().unwrap_or(name);
    format!("kernel {name} ({release}): {}", groups.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_summed_up_by_its_own_words() {
        let mut said = report::Report::default();
        for (group, outcome) in [
            (report::Group::Load, report::Outcome::Passed(String::new())),
            (report::Group::Load, report::Outcome::Left("old".into())),
            (report::Group::Tunnels, report::Outcome::Failed("why".into())),
        ] {
            let fact = report::Fact::Check { group, name: "a".into(), outcome };
            assert!(said.take(&fact.line()));
        }
        let wanted = "kernel 5.10 (5.10): loads 1 of 1, 1 left out by design; attaches and forwards 0 of 0; \
                      upgraded in place 0 of 0; tunnel devices 0 of 1; over VLAN and bond 0 of 0";
        assert_eq!(note("5.10", &said), wanted);
    }

    #[test]
    fn without_a_choice_the_oldest_and_the_newest_are_tried() {
        let names = |chosen: &str| -> Vec<&str> {
            wanted(chosen).unwrap_or_default().iter().map(|wanted| wanted.name).collect()
        };
        assert_eq!(names(""), ["5.10", "7.x"]);
        assert_eq!(names("all").len(), 5);
        assert_eq!(names("6.1, 6.12"), ["6.1", "6.12"]);
        assert!(wanted("9").is_err());
    }
}
