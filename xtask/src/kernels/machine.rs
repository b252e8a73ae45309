//! A virtual machine: QEMU emulating the processor, so that neither /dev/kvm nor root is needed. Its serial console comes
//! to us line by line; it has no disk and no network but what the guest makes inside.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{archive::Kernel, report::Report};
use crate::{
    children::{Child, Ended},
    run,
};

/// What boots it.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// How long a guest may take in all, and how long it may say nothing of ours. It takes two minutes on a machine that is
/// not busy.
const PATIENCE: Duration = Duration::from_secs(3600);
const SILENCE: Duration = Duration::from_secs(1000);

/// The time-stamp counter is calibrated against a clock that waits for a busy host, and then runs many times too fast:
/// the guest goes by a timer of the machine instead.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off nokaslr tsc=unstable random.trust_cpu=on";

/// What is for the guest follows this on the kernel's command line.
pub(super) const WORDS: &str = "lb.words=";

/// What a machine said until its end.
pub(crate) struct Said {
    pub(crate) report: Report,
    /// The console's other lines.
    pub(crate) console: Vec<String>,
    /// Processor time of this host.
    pub(crate) processor: Duration,
}

/// Boots a kernel into an initial file system and reads what the guest says until it powers off. `words` are for the guest.
pub(crate) fn run(kernel: &Kernel, initrd: &Path, words: &str) -> Result<Said> {
    let mut command = Command::new(PROGRAM);
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi"]);
    // QEMU 7.2 emulates cmpxchg16b wrongly: one boot in a few crashes with it.
    command.args(["-cpu", "max,-cx16", "-smp", "2", "-m", "1536"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-serial", "stdio", "-monitor", "none"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    command.args(["-append", &format!("{KERNEL_ARGUMENTS} {WORDS}{words}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut machine =
        Child::spawn(&mut command).with_context(|| format!("cannot start `{}`", run::shown(&command)))?;
    let (sender, lines) = mpsc::channel();
    let output = machine.stdout().context("no console")?;
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let mut report = Report::default();
    let mut console = Vec::new();
    let started = Instant::now();
    let mut heard = started;
    loop {
        let until = (heard + SILENCE).min(started + PATIENCE);
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if report.take(&line) {
                    heard = Instant::now();
                } else if !line.is_empty() {
                    console.push(line);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let after = crate::ui::duration(started.elapsed());
                console.push(format!(
                    "the machine was ended after {after}: it said nothing more, or took too long"
                ));
                // What it said so far is worth something; the report says that it is not whole.
                machine.end();
                let processor = machine.wait()?.processor;
                return Ok(Said { report, console, processor });
            }
        }
    }
    let Ended { status, processor } = machine.wait()?;
    if !status.success() {
        bail!("QEMU ended with {}; the last lines:\n{}", run::ending(status), last(&console));
    }
    Ok(Said { report, console, processor })
}

/// The end of a console's lines.
pub(crate) fn last(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(25)..].join("\n")
}
