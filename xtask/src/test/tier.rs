//! The tiers, cheapest first: what each runs, and whether it needs root.

use std::{env, path::Path, process::Command};

use clap::ValueEnum;

use super::{
    miri,
    programs::{self, Choice},
    report::{Failure, Outcome},
};
use crate::{
    build::{Executable, HOST},
    lab, privilege, run,
    setup::toolchain,
    tidy, ui, workspace,
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

    /// Runs it.
    pub fn run(self, executables: &[Executable], choice: Choice<'_>) -> Outcome {
        if self.needs_root()
            && let privilege::Way::None(why) = privilege::way()
        {
            return Outcome::skipped("all of it", why);
        }
        match self {
            Self::Tidy => tidy(),
            Self::Format => format(),
            Self::Clippy => clippy(),
            Self::Unit | Self::Datapath => self.programs(executables, choice),
            Self::Miri => miri::run(choice),
            Self::Fuzz => programs::fuzz(executables),
            Self::Namespace => match sweep() {
                Ok(()) => self.programs(executables, choice),
                Err(outcome) => outcome,
            },
            Self::Demo => match sweep() {
                Ok(()) => programs::demo(),
                Err(outcome) => outcome,
            },
            // It takes away by itself what an earlier one left.
            Self::Churn => programs::churn(choice),
            Self::Kernels => super::kernels::run(executables),
        }
    }

    fn programs(self, executables: &[Executable], choice: Choice<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut some = false;
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
                    choice.arguments().into_iter().chain(left_out).collect()
                }
                (_, true) => choice.arguments(),
                (Self::Namespace, false) if !kernel.is_empty() => match programs::list(executable) {
                    Ok(names) => {
                        let chosen = |name: &String| is_below(name, kernel) && choice.takes(name);
                        let chosen: Vec<String> = names.into_iter().filter(chosen).collect();
                        if chosen.is_empty() {
                            continue;
                        }
                        chosen.into_iter().chain(["--exact".to_owned()]).collect()
                    }
                    Err(why) => {
                        outcome.add(Failure::new(&executable.name).saying(&why).into());
                        continue;
                    }
                },
                _ => continue,
            };
            some = true;
            outcome.add(programs::run(executable, self, &arguments));
        }
        if some || choice.filter.is_some() {
            outcome
        } else {
            Outcome::skipped("all of it", "there are no tests of this tier")
        }
    }
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

fn tidy() -> Outcome {
    let rules = match tidy::check() {
        Ok(rules) => rules,
        Err(error) => return Outcome::failed(format!("{error:#}")),
    };
    print!("{}", tidy::render(&rules));
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
fn check(name: &str, command: &mut Command) -> Outcome {
    let shown = run::shown(command);
    ui::step(&shown);
    let mut said = String::new();
    let ended = programs::stream(command.current_dir(workspace::root()), |line| {
        println!("{line}");
        if said.is_empty() && ["error", "warning", "Diff in "].iter().any(|word| line.starts_with(word)) {
            line.clone_into(&mut said);
        }
    });
    let failure = Failure::new(name).again(shown);
    match ended {
        Ok(true) => Outcome::passed(1),
        Ok(false) => failure.saying(&said).into(),
        Err(why) => failure.saying(&why).into(),
    }
}

fn format() -> Outcome {
    if !run::succeeds(Command::new("cargo").args(["fmt", "--version"])) {
        return Outcome::skipped("rustfmt", "not installed and not to be had; `cargo xtask setup`");
    }
    check("cargo fmt", Command::new("cargo").args(["fmt", "--all", "--check"]))
}

fn clippy() -> Outcome {
    let mut outcome = if run::succeeds(Command::new("cargo").args(["clippy", "--version"])) {
        let mut host = Command::new("cargo");
        host.arg("clippy").args(HOST).args(["--all-targets", "--", "-D", "warnings"]);
        let mut outcome = check("clippy, host half", &mut host);
        // What only tests are built with: the agent that kills itself, and the targets as libFuzzer takes them.
        outcome.add(check(
            "clippy, the agent that kills itself",
            &mut featured("lb-userspace", "fault-injection"),
        ));
        outcome.add(match run::find("c++") {
            Some(_) => check("clippy, guided fuzzing", &mut featured("lb-tests", "guided")),
            None => Outcome::skipped("guided fuzzing", "there is no C++ compiler (package g++)"),
        });
        outcome
    } else {
        Outcome::skipped("host half", "clippy is not installed and not to be had; `cargo xtask setup`")
    };
    outcome.add(match toolchain::compiler() {
        Ok(compiler) if compiler.has_clippy() => check("clippy, BPF half", &mut bpf_clippy(&compiler.name)),
        Ok(compiler) => Outcome::skipped("BPF half", format!("toolchain {} has no clippy", compiler.name)),
        Err(why) => Outcome::failed(format!("clippy, BPF half: {why}")),
    });
    outcome
}

/// clippy for a package's programs with a feature that only tests have.
fn featured(package: &str, feature: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["clippy", "--package", package, "--features", feature, "--bins", "--", "-D", "warnings"]);
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
fn sweep() -> Result<(), Outcome> {
    let failed = |error: anyhow::Error| Outcome::failed(format!("{error:#}"));
    if nix::unistd::geteuid().is_root() {
        let swept = lab::sweep(&lab::Config::default()).map_err(failed)?;
        if !swept.is_nothing() {
            println!("took away a lab that was left: {swept}");
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
