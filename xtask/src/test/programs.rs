//! Running what was built, as the user or through sudo: test programs and the fuzzer.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use super::{
    reader::Reader,
    report::{Failure, Outcome},
    screen::Log,
    tier::Tier,
};
use crate::{build::Executable, children::Child, privilege, run, ui};

/// How long one test program may take, also on a slow machine that has other work: a hung one must not hold up the rest for
/// ever.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Which tests of a program.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice<'a> {
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
pub(super) fn run(executable: &Executable, tier: Tier, arguments: &[String], log: &Log<'_>) -> Outcome {
    let name = executable.shown();
    log.step(&format!("tests of {name}"));
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
            log.line(line);
        }
        reader.line(line);
    });
    let ok = ended.as_ref().is_ok_and(|ended| ended.ok);
    let mut outcome = reader.finish(&name, ok, |test| again(tier.name(), test));
    match ended {
        Ok(ended) => outcome.processor = ended.processor,
        Err(why) => outcome.add(Failure::new(&name).saying(&why).into()),
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
pub(super) fn fuzz(executables: &[Executable], log: &Log<'_>) -> Outcome {
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
        all.add(fuzz_one(target, seconds, command.args(["--target", target, "--seconds", seconds]), log));
    }
    all
}

/// What the fuzzer's lines begin with that say what it came upon.
const FOUND: [&str; 4] = ["difference: ", "found: ", "unreached: ", "Error: "];

fn fuzz_one(target: &str, seconds: &str, command: &mut Command, log: &Log<'_>) -> Outcome {
    let (mut notes, mut seed, mut found) = (Vec::new(), None, String::new());
    let ended = stream(command, |line| {
        log.line(line);
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
    let mut outcome = match &ended {
        Ok(Ended { ok: true, .. }) if !notes.is_empty() => Outcome::passed(1),
        Ok(Ended { ok: true, .. }) => failure.saying("the fuzzer did not say what it tried").into(),
        Ok(_) if found.is_empty() => failure.saying("it could not run, see above").into(),
        Ok(_) => failure.saying(&found).into(),
        Err(why) => failure.saying(why).into(),
    };
    outcome.processor = ended.map_or(Duration::ZERO, |ended| ended.processor);
    outcome.notes = notes;
    outcome
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Whether its exit code was 0.
    pub(super) ok: bool,
    /// Processor time of it and of all that it waited for.
    pub(super) processor: Duration,
}

/// Runs a command and hands over the lines of both its outputs as they come. It ends with us.
pub(super) fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<Ended, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        Child::spawn(command).map_err(|error| format!("cannot start `{}`: {error}", run::shown(command)))?;
    let (sender, lines) = mpsc::channel();
    let outputs = [
        child.stdout().map(|output| Box::new(output) as Box<dyn Read + Send>),
        child.stderr().map(|output| Box::new(output) as Box<dyn Read + Send>),
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
                child.end();
                child.wait().ok();
                return Err(format!("ended after {}", ui::duration(PATIENCE)));
            }
        }
    }
    let ended = child.wait().map_err(|error| error.to_string())?;
    Ok(Ended { ok: ended.status.success(), processor: ended.processor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_arrive_by_lines() {
        let mut lines = Vec::new();
        let ended = stream(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 1"]), |line| {
            lines.push(line.to_owned());
        });
        lines.sort();
        assert!(!ended.unwrap().ok);
        assert_eq!(lines, ["a", "b"]);
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
