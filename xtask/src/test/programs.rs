//! Running what was built: test programs as the user or through sudo, the demo and churn, with their output shown as it
//! comes.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use super::{
    reader::Reader,
    report::{Failure, Outcome},
    tier::Tier,
};
use crate::{build::Executable, privilege, run, ui};

/// How long one test program may take, also on a slow machine that has other work: a hung one must not hold up the rest for
/// ever.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Which tests of a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Those whose name contains this; all without it.
    pub filter: Option<&'a str>,
    /// Only the one whose name is the filter.
    pub exact: bool,
}

impl Choice<'_> {
    pub(super) fn takes(self, name: &str) -> bool {
        self.filter.is_none_or(|filter| if self.exact { name == filter } else { name.contains(filter) })
    }

    /// As libtest's arguments.
    pub(super) fn arguments(self) -> Vec<String> {
        let exact = self.exact.then(|| "--exact".to_owned());
        self.filter.map(str::to_owned).into_iter().chain(exact).collect()
    }
}

/// The command that repeats one test of a tier.
pub(super) fn again(tier: &str, test: &str) -> String {
    format!("cargo xtask test --tier {tier} --filter {test} --exact")
}

/// The names of a program's tests.
pub(super) fn list(executable: &Executable) -> Result<Vec<String>, String> {
    let mut command = Command::new(&executable.path);
    command.args(["--list", "--format", "terse"]).current_dir(&executable.directory);
    let names = run::capture(&mut command).map_err(|error| format!("{error:#}"))?;
    Ok(names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Takes the bpf file system away from a program's view and runs it: `sh -c WITHOUT_BPFFS sh PROGRAM ARGUMENTS`.
const WITHOUT_BPFFS: &str = "while umount --lazy /sys/fs/bpf 2>/dev/null; do :; done; exec \"$@\"";

/// Runs one test program of a tier with libtest's `arguments`.
pub(super) fn run(executable: &Executable, tier: Tier, arguments: &[String]) -> Outcome {
    let name = format!("{}/{}", executable.package, executable.name);
    ui::step(&format!("tests of {name}"));
    let mut command = match tier {
        // One host has a bpf file system mounted and another has not. Unit tests never see one, so that none comes to need
        // it.
        Tier::Unit if nix::unistd::geteuid().is_root() && may_unshare() => {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", WITHOUT_BPFFS, "sh", "env"]);
            command
        }
        tier if tier.needs_root() => privilege::command("env"),
        _ => Command::new("env"),
    };
    // As cargo does for its tests; and what sudo does not hand on.
    command.arg(format!("CARGO_MANIFEST_DIR={}", executable.directory.display()));
    for (variable, value) in std::env::vars() {
        if ["LB_", "PROPTEST_", "RUST_"].iter().any(|prefix| variable.starts_with(prefix)) {
            command.arg(format!("{variable}={value}"));
        }
    }
    command.arg(&executable.path).arg("--show-output").args(arguments);
    command.current_dir(&executable.directory);
    let mut reader = Reader::default();
    let mut listing = false;
    let ended = stream(&mut command, |line| {
        // The harness lists the successes a second time; once is enough.
        listing = line == "successes:" || listing && (line.is_empty() || line.starts_with("    "));
        if !listing {
            println!("{line}");
        }
        reader.line(line);
    });
    let mut outcome = reader.finish(&name, ended == Ok(true), |test| again(tier.name(), test));
    if let Err(why) = ended {
        outcome.add(Failure::new(&name).saying(&why).into());
    }
    outcome
}

/// Whether this root may make mount namespaces; one in a container may not.
fn may_unshare() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| run::succeeds(Command::new("unshare").args(["--mount", "true"])))
}

/// Seconds of fuzzing in every run, by target. Only packets need root.
const FUZZING: [(&str, &str); 4] = [("packet", "30"), ("config", "5"), ("socket", "5"), ("ring", "5")];

/// Runs the fuzzer; its closing lines, which count what it tried, go into the summary.
pub(super) fn fuzz(executables: &[Executable]) -> Outcome {
    let ours =
        |executable: &&Executable| executable.name == "fuzz" && executable.kind == "bin" && !executable.test;
    let Some(executable) = executables.iter().find(ours) else {
        return Outcome::failed("cargo built no fuzzer");
    };
    let mut all = Outcome::default();
    for (target, seconds) in FUZZING {
        let root = target == "packet";
        let mut command =
            if root { privilege::command(&executable.path) } else { Command::new(&executable.path) };
        all.add(fuzz_one(target, seconds, command.args(["--target", target, "--seconds", seconds])));
    }
    all
}

/// What the fuzzer's lines begin with that say what it came upon.
const FOUND: [&str; 4] = ["difference: ", "found: ", "unreached: ", "Error: "];

fn fuzz_one(target: &str, seconds: &str, command: &mut Command) -> Outcome {
    let (mut notes, mut seed, mut found) = (Vec::new(), None, String::new());
    let ended = stream(command, |line| {
        println!("{line}");
        notes.extend(line.strip_prefix("fuzzed ").map(|_| line.to_owned()));
        seed = seed.take().or_else(|| Some(line.strip_prefix("fuzz: ")?.split_once(", seed ")?.1.to_owned()));
        if found.is_empty() && FOUND.iter().any(|word| line.starts_with(word)) {
            line.clone_into(&mut found);
        }
    });
    let failure = Failure::new(format!("fuzzing {target}")).again(format!(
        "cargo xtask fuzz --target {target} --seconds {seconds}{}",
        seed.map(|seed| format!(" --seed {seed}")).unwrap_or_default()
    ));
    let mut outcome = match ended {
        Ok(true) if !notes.is_empty() => Outcome::passed(1),
        Ok(true) => failure.saying("the fuzzer did not say what it tried").into(),
        Ok(false) if found.is_empty() => failure.saying("it could not run, see above").into(),
        Ok(false) => failure.saying(&found).into(),
        Err(why) => failure.saying(&why).into(),
    };
    outcome.notes = notes;
    outcome
}

/// Runs the demo, whose closing line says how many of its steps did what they say.
pub(super) fn demo() -> Outcome {
    steps_of("demo", "the demo", &["demo", "--fast"])
}

/// The runs of `churn` that belong to every test: the script for three minutes, the contrast for twenty seconds, and
/// each single trouble.
const CHURN: &[(&str, &[&str])] = &[
    ("the script", &["--minutes", "3"]),
    ("the contrast", &["--minutes", "0.35", "--events-per-minute", "120", "--track", "never"]),
    ("every flow tracked", &["--minutes", "0.5", "--track", "always"]),
    ("a flapping backend", &["--scenario", "flap"]),
    ("the last backend", &["--scenario", "last"]),
    ("ten changes in a row", &["--scenario", "ten"]),
    ("a flood of SYNs", &["--scenario", "flood"]),
    ("what a stranger forges", &["--scenario", "forge"]),
    ("checks that fail everywhere", &["--scenario", "hiccup"]),
    ("checks that lose packets", &["--scenario", "lossy", "--minutes", "0.7"]),
    ("files that replace backends", &["--scenario", "handover"]),
    ("restarts while neighbours are silent", &["--scenario", "restart-blind"]),
    ("an agent without a processor", &["--scenario", "starve"]),
    ("silent backends of another service", &["--scenario", "silent", "--minutes", "0.5"]),
    ("half-closed connections", &["--scenario", "half-close", "--minutes", "1.1"]),
    ("stray answers while a backend drains", &["--scenario", "backscatter"]),
];

/// Runs them, or those that are chosen.
pub(super) fn churn(choice: Choice<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    for (name, arguments) in CHURN.iter().filter(|(name, _)| choice.takes(name)) {
        ui::step(&format!("churn: {name}"));
        outcome.add(steps_of("churn", name, &[&["churn"], *arguments].concat()));
    }
    outcome
}

/// Runs a command of ours whose closing line says how many of its steps did what they say.
fn steps_of(command: &str, name: &str, arguments: &[&str]) -> Outcome {
    let this = match run::this_program() {
        Ok(this) => this,
        Err(error) => return Outcome::failed(format!("{error:#}")),
    };
    let mut steps = Steps::new(command);
    let ended = stream(Command::new(this).args(arguments), |line| {
        println!("{line}");
        steps.line(line);
    });
    steps.finish(name, arguments, ended)
}

/// What came of a command of ours, read from what it printed.
#[derive(Debug)]
struct Steps<'a> {
    command: &'a str,
    /// Those that did what they say, and all of them.
    closing: Option<(usize, usize)>,
    /// The heading of the step that is under way; the demo prints one.
    title: Option<String>,
    /// Each failed step: its heading, and what it said.
    failed: Vec<(Option<String>, String)>,
    seed: Option<String>,
    error: String,
}

impl<'a> Steps<'a> {
    fn new(command: &'a str) -> Self {
        Self { command, closing: None, title: None, failed: Vec::new(), seed: None, error: String::new() }
    }

    fn line(&mut self, line: &str) {
        let heading =
            |(number, title): (&str, &str)| number.parse::<usize>().is_ok().then(|| title.to_owned());
        if let Some(numbers) = numbers(self.command, line) {
            self.closing = Some(numbers);
        } else if let Some(why) = line.trim_start().strip_prefix("failed ") {
            self.failed.push((self.title.clone(), why.to_owned()));
        } else if let Some(title) = line.split_once(". ").and_then(heading) {
            self.title = Some(title);
        } else if let Some(error) = line.strip_prefix("error: ") {
            error.clone_into(&mut self.error);
        }
        let seed = line.split_once("(seed ").map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit));
        if let Some(seed) = seed.map(String::from_iter).filter(|seed| !seed.is_empty()) {
            self.seed = Some(seed);
        }
    }

    fn finish(self, name: &str, arguments: &[&str], ended: Result<bool, String>) -> Outcome {
        let Self { command: _, closing, title: _, failed, seed, error } = self;
        let seed = seed.map(|seed| format!(" --seed {seed}")).unwrap_or_default();
        let again = format!("cargo xtask {}{seed}", arguments.join(" "));
        let failure = |what: String, said: &str| Failure::new(what).saying(said).again(&again);
        let mut outcome = Outcome::default();
        match (closing, ended) {
            (Some((good, all)), Ok(ok)) => {
                outcome.passed = good;
                outcome.failed = all.saturating_sub(good);
                let named = failed.into_iter().take(outcome.failed).map(|(title, why)| match title {
                    Some(title) => failure(format!("{name}: {title}"), &why),
                    None => failure(name.to_owned(), &why),
                });
                outcome.failures = named.collect();
                let unnamed = outcome.failed - outcome.failures.len();
                if unnamed > 0 {
                    outcome.failures.push(failure(name.to_owned(), &ui::count(unnamed, "step")));
                }
                if !ok && outcome.failed == 0 {
                    outcome.add(failure(name.to_owned(), "it ended with an error").into());
                }
            }
            (_, Err(why)) => outcome.add(failure(name.to_owned(), &why).into()),
            (None, Ok(_)) if error.is_empty() => {
                outcome.add(failure(name.to_owned(), "it did not come to its end").into());
            }
            (None, Ok(_)) => outcome.add(failure(name.to_owned(), &error).into()),
        }
        outcome
    }
}

/// The numbers in `demo: 7 of 7 steps did what they say`.
fn numbers(command: &str, line: &str) -> Option<(usize, usize)> {
    let (good, rest) = line.strip_prefix(command)?.strip_prefix(": ")?.split_once(" of ")?;
    let (all, _) = rest.split_once(" steps")?;
    Some((good.parse().ok()?, all.parse().ok()?))
}

/// Runs a command and hands over the lines of both its outputs as they come; whether it ended well.
pub(super) fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| format!("cannot start `{}`: {error}", run::shown(command)))?;
    let (sender, lines) = mpsc::channel();
    let outputs = [
        child.stdout.take().map(|output| Box::new(output) as Box<dyn Read + Send>),
        child.stderr.take().map(|output| Box::new(output) as Box<dyn Read + Send>),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => each(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                end(&child);
                child.wait().ok();
                return Err(format!("ended after {}", ui::duration(PATIENCE)));
            }
        }
    }
    child.wait().map(|status| status.success()).map_err(|error| error.to_string())
}

/// SIGTERM: sudo hands it on, which it could not do with SIGKILL.
fn end(child: &std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
    std::thread::sleep(Duration::from_secs(5));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_arrive_by_lines() {
        let mut lines = Vec::new();
        let ok = stream(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 1"]), |line| {
            lines.push(line.to_owned());
        });
        lines.sort();
        assert_eq!((ok, lines), (Ok(false), vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn a_closing_line_is_read() {
        assert_eq!(numbers("demo", "demo: 6 of 7 steps did what they say"), Some((6, 7)));
        assert_eq!(numbers("demo", "demo: the lab is up"), None);
        assert_eq!(numbers("churn", "churn: 3 of 3 steps did what they say (seed 1)"), Some((3, 3)));
        assert_eq!(numbers("churn", "demo: 6 of 7 steps did what they say"), None);
    }

    #[test]
    fn a_failed_step_is_named_with_its_message_and_the_run_that_repeats_it() {
        let read = |command: &str, text: &str| {
            let mut steps = Steps::new(command);
            text.lines().for_each(|line| steps.line(line));
            steps.finish("x", &[command, "--fast"], Ok(false)).failures
        };
        let demo = "1. up\n   ok all\n2. kill\n   failed it lives\ndemo: 1 of 2 steps did what they say\n";
        let wanted = Failure::new("x: kill").saying("it lives").again("cargo xtask demo --fast");
        assert_eq!(read("demo", demo), [wanted]);
        let churn = "==> making the lab (seed 4711)\nok a\nfailed drain × 1: 3 broken\n\
                     churn: 1 of 2 steps did what they say (seed 4711, 1 events)\n";
        let wanted =
            Failure::new("x").saying("drain × 1: 3 broken").again("cargo xtask churn --fast --seed 4711");
        assert_eq!(read("churn", churn), [wanted]);
        let broken = "==> making the lab (seed 4711)\nerror: no lab\n";
        let wanted = Failure::new("x").saying("no lab").again("cargo xtask churn --fast --seed 4711");
        assert_eq!(read("churn", broken), [wanted]);
    }

    #[test]
    fn a_choice_is_part_of_a_name_or_the_whole() {
        let part = Choice { filter: Some("slot"), exact: false };
        let whole = Choice { exact: true, ..part };
        assert!(part.takes("a::slot") && !whole.takes("a::slot") && whole.takes("slot"));
        assert!(Choice::default().takes("a"));
        assert_eq!(whole.arguments(), ["slot", "--exact"]);
    }
}
