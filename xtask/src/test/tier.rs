//! The tiers, cheapest first: what each runs, and whether it needs root.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;

use super::{
    jobs::{Job, Load},
    miri,
    programs::{self, Choice},
    report::{Failure, Outcome},
    screen::Log,
    steps,
};
use crate::{
    build::{AS_TESTS, Executable, HOST},
    lab, privilege, run,
    setup::toolchain,
    tidy, workspace,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tier {
    /// The repository's own rules
    Tidy,
    /// rustfmt
    Format,
    /// clippy, both halves, warnings are errors
    Clippy,
    /// Tests in the code that need no right, no mounted file system and no program
    Unit,
    /// Properties of what both halves share, under Miri
    Miri,
    /// Packets through the programs in the kernel (root)
    Datapath,
    /// Half a minute of random packets through the programs and their model (root)
    Fuzz,
    /// Agent, command line, lab and the tests in the code that need the kernel, in network namespaces (root)
    Namespace,
    /// The demo, every step of it a test (root)
    Demo,
    /// Thousands of connections while everything changes, and single troubles (root)
    Churn,
    /// The oldest and the newest kernel, in virtual machines
    Kernels,
}

impl Tier {
    pub const ALL: [Self; 11] = [
        Self::Tidy,
        Self::Format,
        Self::Clippy,
        Self::Unit,
        Self::Miri,
        Self::Datapath,
        Self::Fuzz,
        Self::Namespace,
        Self::Demo,
        Self::Churn,
        Self::Kernels,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tidy => "tidy",
            Self::Format => "format",
            Self::Clippy => "clippy",
            Self::Unit => "unit",
            Self::Miri => "miri",
            Self::Datapath => "datapath",
            Self::Fuzz => "fuzz",
            Self::Namespace => "namespace",
            Self::Demo => "demo",
            Self::Churn => "churn",
            Self::Kernels => "kernels",
        }
    }

    /// Whether it runs what cargo builds for [`HOST`] with all targets.
    pub fn needs_build(self) -> bool {
        matches!(
            self,
            Self::Unit
                | Self::Datapath
                | Self::Fuzz
                | Self::Namespace
                | Self::Demo
                | Self::Churn
                | Self::Kernels
        )
    }

    pub(super) fn needs_root(self) -> bool {
        matches!(self, Self::Datapath | Self::Fuzz | Self::Namespace | Self::Demo | Self::Churn)
    }

    /// The tier a test program belongs to.
    pub fn of(executable: &Executable) -> Option<Self> {
        if !executable.test || executable.kind == "bin" {
            return None;
        }
        Some(match (executable.package.as_str(), executable.name.as_str()) {
            ("tests", "datapath") => Self::Datapath,
            ("tests", _) if executable.kind == "test" => Self::Namespace,
            ("xtask", "lab") => Self::Namespace,
            _ => Self::Unit,
        })
    }

    /// What it runs, as jobs that may run next to each other; at least one.
    pub(super) fn jobs<'a>(self, built: &'a Built, choice: Choice<'a>) -> Vec<Job<'a>> {
        if self.needs_root()
            && let privilege::Way::None(why) = privilege::way()
        {
            return self.nothing(Outcome::skipped("all of it", why));
        }
        let jobs = self.parts(built, choice);
        match (jobs.is_empty(), choice.filter) {
            (false, _) => jobs,
            (true, Some(_)) => self.nothing(Outcome::default()),
            (true, None) => self.nothing(Outcome::skipped("all of it", "there are no tests of this tier")),
        }
    }

    fn parts<'a>(self, built: &'a Built, choice: Choice<'a>) -> Vec<Job<'a>> {
        let Built { executables, directory } = built;
        match self {
            Self::Tidy => self.whole(tidy),
            Self::Format => self.whole(format),
            Self::Clippy => self.whole(clippy),
            Self::Unit | Self::Datapath => {
                let programs = self.programs(executables, choice);
                if programs.is_empty() {
                    return Vec::new();
                }
                self.whole(move |log| {
                    let mut outcome = Outcome::default();
                    programs.into_iter().for_each(|program| outcome.add(program.run(self, log)));
                    outcome
                })
            }
            Self::Namespace => {
                let programs = self.programs(executables, choice).into_iter();
                let job = |program: Program<'a>| Job {
                    tier: self,
                    part: Some(program.executable.shown()),
                    load: Load::Waits,
                    work: Box::new(move |log| program.run(self, log)),
                };
                programs.map(job).collect()
            }
            Self::Miri => self.whole(move |log| miri::run(choice, log)),
            Self::Fuzz => self.whole(|log| programs::fuzz(executables, log)),
            Self::Demo => self.whole(|log| match sweep(log) {
                Ok(()) => steps::demo(directory, log),
                Err(outcome) => outcome,
            }),
            // Each takes away by itself what an earlier one left.
            Self::Churn => steps::churn(directory, choice),
            Self::Kernels => self.whole(|log| super::kernels::run(executables, log)),
        }
    }

    /// All of it as one job.
    fn whole<'a>(self, work: impl FnOnce(&Log<'_>) -> Outcome + Send + 'a) -> Vec<Job<'a>> {
        let load = if self == Self::Demo { Load::Waits } else { Load::Computes };
        vec![Job { tier: self, part: None, load, work: Box::new(work) }]
    }

    /// Nothing to run.
    fn nothing<'a>(self, outcome: Outcome) -> Vec<Job<'a>> {
        vec![Job { tier: self, part: None, load: Load::Waits, work: Box::new(|_| outcome) }]
    }

    /// The test programs of this tier, and which of their tests.
    fn programs<'a>(self, executables: &'a [Executable], choice: Choice<'_>) -> Vec<Program<'a>> {
        let mut programs = Vec::new();
        for executable in executables {
            let ours = Self::of(executable) == Some(self);
            let kernel = in_the_kernel(executable);
            let arguments = match (self, ours) {
                (Self::Unit, true) if !kernel.is_empty() => {
                    if choice.exact && choice.filter.is_some_and(|name| is_below(name, kernel)) {
                        continue;
                    }
                    // libtest takes what is left out as exactly as what is chosen.
                    let left_out = kernel.iter().filter(|_| !choice.exact);
                    let left_out = left_out.flat_map(|module| ["--skip".to_owned(), (*module).to_owned()]);
                    Ok(choice.arguments().into_iter().chain(left_out).collect())
                }
                (_, true) => Ok(choice.arguments()),
                (Self::Namespace, false) if !kernel.is_empty() => match programs::list(executable) {
                    Ok(names) => {
                        let chosen = |name: &String| is_below(name, kernel) && choice.takes(name);
                        let chosen: Vec<String> = names.into_iter().filter(chosen).collect();
                        if chosen.is_empty() {
                            continue;
                        }
                        Ok(chosen.into_iter().chain(["--exact".to_owned()]).collect())
                    }
                    Err(why) => Err(why),
                },
                _ => continue,
            };
            programs.push(Program { executable, arguments });
        }
        programs
    }
}

/// A test program, and libtest's arguments for it; or why these are not known.
struct Program<'a> {
    executable: &'a Executable,
    arguments: Result<Vec<String>, String>,
}

impl Program<'_> {
    fn run(self, tier: Tier, log: &Log<'_>) -> Outcome {
        match self.arguments {
            Ok(arguments) => programs::run(self.executable, tier, &arguments, log),
            Err(why) => Failure::new(&self.executable.name).saying(&why).into(),
        }
    }
}

/// What cargo built: what can be run of it, and where lbd and lbctl are.
#[derive(Debug, Default)]
pub struct Built {
    pub executables: Vec<Executable>,
    pub directory: PathBuf,
}

/// Modules whose tests need the kernel: they make namespaces, mount file systems and call `ip`. They are run as root, with
/// the tier that has these prepared.
const IN_THE_KERNEL: [(&str, &[&str]); 1] = [("lb-userspace", &["kernel::tests::", "net::watcher::tests::"])];

/// Those modules of a test program.
fn in_the_kernel(executable: &Executable) -> &'static [&'static str] {
    let of = |(package, _): &&(&str, &[&str])| {
        executable.test && executable.kind == "lib" && *package == executable.package
    };
    IN_THE_KERNEL.iter().find(of).map_or(&[], |(_, modules)| modules)
}

fn is_below(test: &str, modules: &[&str]) -> bool {
    modules.iter().any(|module| test.starts_with(module))
}

fn tidy(log: &Log<'_>) -> Outcome {
    let rules = match tidy::check() {
        Ok(rules) => rules,
        Err(error) => return Outcome::failed(format!("{error:#}")),
    };
    log.line(tidy::render(&rules).trim_end());
    let mut outcome = Outcome::default();
    for (name, findings) in rules {
        outcome.add(match findings.first() {
            None => Outcome::passed(1),
            Some(first) => Failure::new(name).saying(&first.to_string()).again("cargo xtask tidy").into(),
        });
    }
    outcome
}

/// A command as one check. Its first complaint is what it said.
fn check(name: &str, command: &mut Command, log: &Log<'_>) -> Outcome {
    let shown = run::shown(command);
    log.step(&shown);
    let mut said = String::new();
    let ended = programs::stream(command.current_dir(workspace::root()), |line| {
        log.line(line);
        if said.is_empty() && ["error", "warning", "Diff in "].iter().any(|word| line.starts_with(word)) {
            line.clone_into(&mut said);
        }
    });
    let failure = Failure::new(name).again(shown);
    match ended {
        Ok(ended) => {
            let outcome = if ended.ok { Outcome::passed(1) } else { failure.saying(&said).into() };
            Outcome { processor: ended.processor, ..outcome }
        }
        Err(why) => failure.saying(&why).into(),
    }
}

fn format(log: &Log<'_>) -> Outcome {
    if !run::succeeds(Command::new("cargo").args(["fmt", "--version"])) {
        return Outcome::skipped("rustfmt", "not installed and not to be had; `cargo xtask setup`");
    }
    check("cargo fmt", Command::new("cargo").args(["fmt", "--all", "--check"]), log)
}

fn clippy(log: &Log<'_>) -> Outcome {
    let mut outcome = if run::succeeds(Command::new("cargo").args(["clippy", "--version"])) {
        let mut host = Command::new("cargo");
        host.arg("clippy").args(HOST).args(["--all-targets", "--", "-D", "warnings"]);
        let mut outcome = check("clippy, host half", &mut host, log);
        // What only tests are built with: the agent that kills itself, and the targets as libFuzzer takes them.
        outcome.add(check(
            "clippy, the agent that kills itself",
            &mut featured("lb-userspace/fault-injection"),
            log,
        ));
        outcome.add(match run::find("c++") {
            Some(_) => check("clippy, guided fuzzing", &mut featured("lb-tests/guided"), log),
            None => Outcome::skipped("guided fuzzing", "there is no C++ compiler (package g++)"),
        });
        outcome
    } else {
        Outcome::skipped("host half", "clippy is not installed and not to be had; `cargo xtask setup`")
    };
    outcome.add(match toolchain::compiler() {
        Ok(compiler) if compiler.has_clippy() => {
            check("clippy, BPF half", &mut bpf_clippy(&compiler.name), log)
        }
        Ok(compiler) => Outcome::skipped("BPF half", format!("toolchain {} has no clippy", compiler.name)),
        Err(why) => Outcome::failed(format!("clippy, BPF half: {why}")),
    });
    outcome
}

/// clippy for the programs with a feature that only tests have. Of the workspace as a whole, as everything else: a
/// dependency has the features then that it was compiled with before.
fn featured(feature: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg("clippy").args(HOST).args(["--features", feature, "--bins"]).args(AS_TESTS);
    command.args(["--", "-D", "warnings"]);
    command
}

/// As in `lb-userspace/build/bpf.rs`: with other flags `core` would be compiled once more.
const BPF_FLAGS: &str = "-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Ctarget-cpu=v3";

/// clippy for the BPF target, with the compiler that target is built with.
fn bpf_clippy(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo", "clippy", "--release", "--locked", "-Z", "build-std=core"]);
    command.args(["--target", "bpfel-unknown-none", "--package", "lb-ebpf", "--all-features"]);
    command.arg("--target-dir").arg(workspace::target().join("bpf"));
    command.args(["--", "-D", "warnings"]);
    // What the cargo that runs us has set is meant for another compiler.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let ours = name.starts_with("CARGO") || name.starts_with("RUST");
        if ours && name != "CARGO_HOME" && name != "RUSTUP_HOME" {
            command.env_remove(&*name);
        }
    }
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", BPF_FLAGS);
    command
}

/// Takes away what an earlier lab left, or says who is using it.
fn sweep(log: &Log<'_>) -> Result<(), Outcome> {
    let failed = |error: anyhow::Error| Outcome::failed(format!("{error:#}"));
    if nix::unistd::geteuid().is_root() {
        let swept = lab::sweep(&lab::Config::default()).map_err(failed)?;
        if !swept.is_nothing() {
            log.line(&format!("took away a lab that was left: {swept}"));
        }
        return Ok(());
    }
    let this = run::this_program().map_err(failed)?;
    run::run(privilege::command(Path::new(&this)).args(["lab", "down"])).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn tier(package: &str, name: &str, kind: &str, test: bool) -> Option<Tier> {
        Tier::of(&Executable {
            package: package.into(),
            name: name.into(),
            kind: kind.into(),
            test,
            directory: PathBuf::new(),
            path: PathBuf::new(),
        })
    }

    #[test]
    fn every_test_program_has_its_tier() {
        assert_eq!(tier("lb-common", "lb_common", "lib", true), Some(Tier::Unit));
        assert_eq!(tier("tests", "lb_tests", "lib", true), Some(Tier::Unit));
        assert_eq!(tier("tests", "control", "test", true), Some(Tier::Namespace));
        assert_eq!(tier("tests", "datapath", "test", true), Some(Tier::Datapath));
        assert_eq!(tier("tests", "e2e", "test", true), Some(Tier::Namespace));
        assert_eq!(tier("xtask", "lab", "test", true), Some(Tier::Namespace));
    }

    #[test]
    fn tests_in_the_code_that_need_the_kernel_are_known() {
        let of = |package: &str, kind: &str| {
            in_the_kernel(&Executable {
                package: package.into(),
                name: "lb_userspace".into(),
                kind: kind.into(),
                test: true,
                directory: PathBuf::new(),
                path: PathBuf::new(),
            })
        };
        assert!(is_below("kernel::tests::live::a", of("lb-userspace", "lib")));
        assert!(!is_below("bpf::pin::tests::a", of("lb-userspace", "lib")));
        assert!(of("lb-userspace", "test").is_empty() && of("tests", "lib").is_empty());
    }

    #[test]
    fn programs_that_are_no_tests_belong_to_no_tier() {
        assert_eq!(tier("lb-userspace", "lbd", "bin", false), None);
        assert_eq!(tier("xtask", "xtask", "bin", true), None);
    }
}
