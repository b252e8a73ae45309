//! Running what was built: test programs as the user or through sudo, the demo and churn, with their output shown as it
//! comes.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::report::{Outcome, Reader};
use crate::{build::Executable, privilege, run, ui};

/// How long one test program may take: a hung one must not hold up the rest for ever.
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs one test program.
pub(super) fn run(executable: &Executable, as_root: bool, filter: Option<&str>) -> Outcome {
    let name = format!("{}/{}", executable.package, executable.name);
    ui::step(&format!("tests of {name}"));
    let mut command = if as_root { privilege::command("env") } else { Command::new("env") };
    // As cargo does for its tests.
    command.arg(format!("CARGO_MANIFEST_DIR={}", executable.directory.display()));
    command.arg(&executable.path).arg("--show-output").args(filter);
    command.current_dir(&executable.directory);
    let mut reader = Reader::default();
    let mut listing = false;
    match stream(&mut command, |line| {
        // The harness lists the successes a second time; once is enough.
        listing = line == "successes:" || listing && (line.is_empty() || line.starts_with("    "));
        if !listing {
            println!("{line}");
        }
        reader.line(line);
    }) {
        Ok(ok) => reader.finish(&name, ok),
        Err(why) => {
            let mut outcome = reader.finish(&name, false);
            outcome.add(Outcome::failed(format!("{name}: {why}")));
            outcome
        }
    }
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
        all.add(fuzz_one(target, command.args(["--target", target, "--seconds", seconds])));
    }
    all
}

fn fuzz_one(target: &str, command: &mut Command) -> Outcome {
    let mut notes = Vec::new();
    let ended = stream(command, |line| {
        println!("{line}");
        notes.extend(line.strip_prefix("fuzzed ").map(|_| line.to_owned()));
    });
    let mut outcome = match ended {
        Ok(true) if !notes.is_empty() => Outcome::passed(1),
        Ok(true) => Outcome::failed(format!("the fuzzer did not say what it tried of {target}")),
        Ok(false) => {
            Outcome::failed(format!("fuzzing {target} found something, or could not run; see above"))
        }
        Err(why) => Outcome::failed(format!("fuzzing {target}: {why}")),
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
];

/// Runs them, or those whose name contains `filter`.
pub(super) fn churn(filter: Option<&str>) -> Outcome {
    let mut outcome = Outcome::default();
    for (name, arguments) in CHURN.iter().filter(|(name, _)| filter.is_none_or(|part| name.contains(part))) {
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
    let mut outcome = Outcome::default();
    let mut closing = None;
    let ended = stream(Command::new(this).args(arguments), |line| {
        println!("{line}");
        if let Some(steps) = steps(command, line) {
            closing = Some(steps);
        }
    });
    match (closing, ended) {
        (Some((good, all)), Ok(ok)) => {
            outcome.passed = good;
            if good < all {
                outcome.failed = all - good;
                outcome.failures.push(format!("{} of {name}", ui::count(all - good, "step")));
            } else if !ok {
                outcome.add(Outcome::failed(format!("{name} ended with an error")));
            }
        }
        (_, Err(why)) => outcome.add(Outcome::failed(format!("{name}: {why}"))),
        (None, Ok(_)) => outcome.add(Outcome::failed(format!("{name} did not come to its end"))),
    }
    outcome
}

/// The numbers in `demo: 7 of 7 steps did what they say`.
fn steps(command: &str, line: &str) -> Option<(usize, usize)> {
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
        assert_eq!(steps("demo", "demo: 6 of 7 steps did what they say"), Some((6, 7)));
        assert_eq!(steps("demo", "demo: the lab is up"), None);
        assert_eq!(steps("churn", "churn: 3 of 3 steps did what they say (seed 1)"), Some((3, 3)));
        assert_eq!(steps("churn", "demo: 6 of 7 steps did what they say"), None);
    }
}
