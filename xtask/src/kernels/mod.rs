//! `cargo xtask kernels`: our programs and the whole load balancer on kernels of other ages, booted in virtual machines.
//! `catalogue` says which, `archive` fetches them, `image` packs what they run, `machine` boots them, `report` is what they
//! say, `table` what becomes of that. What is tried inside is `tests/kernels`.

mod archive;
mod catalogue;
mod cpio;
mod image;
mod machine;
pub mod report;
mod scratch;
mod table;

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum as _};

pub(crate) use self::catalogue::Wanted;
pub use self::image::{BINARIES, CONTROL};
pub(crate) use self::table::{DOCUMENT, check as check_table};
use self::{
    archive::Kernel,
    image::Payload,
    report::{Group, Outcome, Report},
    scratch::Scratch,
    table::Row,
};
use crate::{
    build, children, run,
    setup::{self, programs},
    ui, workspace,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask kernels                   every kernel there is\n  \
    cargo xtask kernels 5.10 7.x          the oldest and the newest\n  \
    cargo xtask kernels --write           and the table in install.md from what was seen\n  \
    cargo xtask kernels 6.1 --verbose     every check, and what the kernel printed\n  \
    cargo xtask kernels 6.1 --only devices   one kind of checks alone\n\n\
    Kernels are Debian's, fetched through the mirror in this host's apt configuration and kept in the user's\n\
    cache (LB_KERNEL_CACHE names another place). They run in QEMU without KVM; no root is needed.\n\
    Exit code 0 when everything worked on every kernel that was asked for.")]
pub struct KernelsArgs {
    /// Which: 5.10, 6.1, 6.12, 6.18, 7.x [default: all]
    kernels: Vec<String>,
    /// Write the table in lb-userspace/doc/install.md
    #[arg(long)]
    write: bool,
    /// Try only this (repeatable); what a group needs of another one is tried, too
    #[arg(long, value_name = "GROUP", conflicts_with = "write")]
    only: Vec<Group>,
    /// Look for newer packages of kernels that are in the cache
    #[arg(long)]
    update: bool,
    /// Show every check, not only what failed, and what the kernel printed
    #[arg(long, short)]
    verbose: bool,
}

/// So many machines at a time: each has two processors, which are emulated.
const AT_A_TIME: usize = 2;

/// One kernel's run.
pub(crate) struct Run {
    pub(crate) wanted: Wanted,
    pub(crate) result: Result<Done, Trouble>,
}

/// Why there is no report.
pub(crate) enum Trouble {
    /// The kernel is not to be had.
    Missing(anyhow::Error),
    /// It was to be had and did not run.
    Failed(anyhow::Error),
}

/// A run that came to its end, or nearly.
pub(crate) struct Done {
    pub(crate) release: String,
    pub(crate) report: Report,
    /// What the console had besides the report.
    pub(crate) console: Vec<String>,
    pub(crate) time: Duration,
    /// Of this host, for the machine.
    pub(crate) processor: Duration,
}

/// Runs `kernels`; whether everything worked.
pub fn main(arguments: &KernelsArgs) -> Result<bool> {
    let wanted = Wanted::find(&arguments.kernels).map_err(anyhow::Error::msg)?;
    children::end_with_us(|_| ())?;
    setup::ensure(&[setup::Need::Build, setup::Need::Kernels])?;
    if let Some(why) = unable() {
        bail!("{why}");
    }
    ui::step("building what runs in the guests");
    // Of the workspace as a whole, as everything else is built: nothing is compiled twice.
    let binaries = ["--bin", "lbd", "--bin", "lbctl", "--bin", "guest", "--test", "control"];
    let payload = payload(&build::cargo_build(&[build::HOST.as_slice(), &binaries].concat())?)?;
    let runs = runs(&wanted, &payload, arguments.update, &arguments.only, &ui::step)?;
    let mut rows = Vec::new();
    for run in &runs {
        print!("{}", render(run, arguments.verbose));
        if let Ok(done) = &run.result {
            rows.push(Row::of(&run.wanted, &done.release, &done.report));
        }
    }
    print!("\n{}", ui::table(&table::rows(&rows)));
    let reports = runs.iter().filter_map(|run| run.result.as_ref().ok()).map(|done| &done.report);
    print!("\n{}", ui::table(&table::judges(reports)));
    if arguments.write {
        table::write(&rows)?;
        ui::step(&format!("the table in {DOCUMENT} is written"));
    }
    let good = runs.iter().filter(|run| run.is_good()).count();
    println!("kernels: everything works on {good} of {}", runs.len());
    Ok(good == runs.len())
}

/// Why no machine can be started here.
pub(crate) fn unable() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the kernels are for x86-64, and so must the programs be that run on them".to_owned());
    }
    if run::find(machine::PROGRAM).is_none() {
        let packages: Vec<&str> =
            programs::missing(programs::KERNELS).iter().map(|program| program.package).collect();
        let line = programs::install_line(&packages).join(" ");
        return Some(format!(
            "no {}; `cargo xtask setup` installs it, or, as root, `{line}`",
            machine::PROGRAM
        ));
    }
    let missing = image::missing_tools();
    (!missing.is_empty()).then(|| format!("the guests need {}; `cargo xtask setup`", missing.join(", ")))
}

/// What the guests run, of what cargo built.
pub(crate) fn payload(built: &[build::Executable]) -> Result<Payload> {
    let find = |(name, kind, place): (&str, &str, &'static str)| {
        let built = built.iter().find(|executable| {
            executable.name == name && executable.kind == kind && executable.test == (kind == "test")
        });
        built.map(|built| (place, built.path.clone())).with_context(|| format!("cargo built no {name}"))
    };
    let programs = [
        ("guest", "bin", "guest"),
        ("lbd", "bin", "lbd"),
        ("lbctl", "bin", "lbctl"),
        ("control", "test", CONTROL),
    ];
    Ok(Payload(programs.into_iter().map(find).collect::<Result<_>>()?))
}

/// Boots the kernels, two at a time, and lets the guest try these groups, or everything where there are none. What takes
/// a while is passed to `say` before it begins.
pub(crate) fn runs(
    wanted: &[Wanted],
    payload: &Payload,
    update: bool,
    only: &[Group],
    say: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Run>> {
    let found = archive::kernels(wanted, update, say)?;
    let scratch = Scratch::new(&workspace::target().join("kernels"))?;
    let payload = image::strip(payload, scratch.path())?;
    let queue: Mutex<VecDeque<(usize, Kernel)>> = Mutex::default();
    let runs: Mutex<Vec<(usize, Run)>> = Mutex::default();
    for (number, (wanted, kernel)) in found.into_iter().enumerate() {
        match kernel {
            Ok(kernel) => lock(&queue).push_back((number, kernel)),
            Err(why) => lock(&runs).push((number, Run { wanted, result: Err(Trouble::Missing(why)) })),
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some((number, kernel)) = lock(&queue).pop_front() else { break };
                    say(&format!("booting {}", kernel.release));
                    let result = boot(&kernel, &payload, scratch.path(), only).map_err(Trouble::Failed);
                    lock(&runs).push((number, Run { wanted: kernel.wanted, result }));
                }
            });
        }
    });
    let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.sort_by_key(|(number, _)| *number);
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// What the guest is to try, as its kernel's command line has it.
fn words(only: &[Group]) -> String {
    let names = only.iter().filter_map(clap::ValueEnum::to_possible_value);
    let names: Vec<String> = names.map(|value| value.get_name().to_owned()).collect();
    if names.is_empty() { "all".to_owned() } else { names.join(",") }
}

/// The groups that a guest is to try, by its kernel's command line.
pub fn wanted_groups(command_line: &str) -> Vec<Group> {
    let words = command_line.split_whitespace().find_map(|word| word.strip_prefix(machine::WORDS));
    match words {
        None | Some("all") => Group::ALL.to_vec(),
        Some(names) => names.split(',').filter_map(|name| Group::from_str(name, false).ok()).collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn boot(kernel: &Kernel, payload: &Payload, scratch: &Path, only: &[Group]) -> Result<Done> {
    let initrd = image::write(kernel, payload, scratch).context("packing what it runs")?;
    let started = Instant::now();
    let outcome = machine::run(kernel, &initrd, &words(only));
    fs::remove_file(&initrd).ok();
    let machine::Said { report, console, processor } = outcome?;
    let log = workspace::target().join("kernels").join(format!("{}.log", kernel.wanted.name));
    fs::write(log, console.join("\n")).ok();
    Ok(Done { release: kernel.release.clone(), report, console, time: started.elapsed(), processor })
}

impl Run {
    pub(crate) fn is_good(&self) -> bool {
        self.result.as_ref().is_ok_and(|done| done.report.is_good())
    }
}

/// One kernel, for people.
pub(crate) fn render(run: &Run, verbose: bool) -> String {
    let name = run.wanted.name;
    let done = match &run.result {
        Ok(done) => done,
        Err(Trouble::Missing(why)) => return format!("{} kernel {name}: {why:#}\n", ui::yellow("missing")),
        Err(Trouble::Failed(why)) => return format!("{} kernel {name}: {why:#}\n", ui::red("failed")),
    };
    let mark = if done.report.is_good() { ui::green("ok") } else { ui::red("failed") };
    let checks = &done.report.checks;
    let mut text = format!(
        "{mark} kernel {name} ({}): {} in {}\n",
        done.release,
        ui::count(checks.len(), "check"),
        ui::duration(done.time)
    );
    for (group, check, outcome) in checks {
        let (mark, detail) = match outcome {
            Outcome::Passed(detail) if verbose => (ui::green("ok"), detail),
            Outcome::Passed(_) => continue,
            Outcome::Failed(why) => (ui::red("failed"), why),
            Outcome::Left(why) => (ui::yellow("left out"), why),
        };
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        text.push_str(&format!("  {mark} {}: {check}{detail}\n", group.name()));
    }
    if !done.report.is_whole() {
        text.push_str(&format!("  {} the guest did not come to its end\n", ui::red("failed")));
    }
    if verbose || !done.report.is_whole() {
        text.push_str(&format!("{}\n", machine::last(&done.console)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_tries_what_was_asked_for_and_everything_without_a_word() {
        let asked = |only: &[Group]| wanted_groups(&format!("quiet {}{}", machine::WORDS, words(only)));
        assert_eq!(asked(&[]), Group::ALL);
        assert_eq!(asked(&[Group::Load, Group::Devices]), [Group::Load, Group::Devices]);
        assert_eq!(wanted_groups("quiet"), Group::ALL);
    }
}
