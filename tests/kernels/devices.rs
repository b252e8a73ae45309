//! VLAN devices and bonds as egress devices: the rows of the matrix of `tests/control/matrix` whose modules many kernels
//! lack. The test program itself runs here; each cell that it names is a check, and each row must name all of its cells.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use xtask::{
    kernels::{
        BINARIES, CONTROL,
        report::{Fact, Group, Outcome},
    },
    wait,
};

use crate::{LIMIT, say};

/// The tests: each is a row of the matrix, with the number of its cells that are tried.
const ROWS: [(&str, usize); 3] = [
    ("matrix::a_vlan_device_sends_in_generic_mode_only", 4),
    ("matrix::a_bond_sends_everything_where_its_ports_do", 4),
    ("matrix::a_bond_of_silent_ports_sends_nothing_natively", 2),
];

pub(crate) fn check() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.starts_with("5.10.") {
        let why =
            "before kernel 5.15 no device sends for a program in the generic path, and no bond takes one";
        say::left(Group::Devices, "all of it", why);
        return;
    }
    for (row, wanted) in ROWS {
        say::check(Group::Devices, row, || try_row(row, wanted));
    }
}

/// Runs one test and reports the outcome of each cell when the test names it.
fn try_row(row: &str, wanted: usize) -> Result<String> {
    let started = Instant::now();
    let program = Path::new(BINARIES).join(CONTROL);
    let mut command = Command::new(program);
    command.args([row, "--exact", "--nocapture", "--test-threads", "1"]);
    command.env(wait::VARIABLE, LIMIT.as_secs().to_string());
    // A test that is skipped says so on standard error.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("the tests of agent and command line cannot be started")?;
    let errors = child.stderr.take().context("no standard error")?;
    let errors = std::thread::spawn(move || lines(errors));
    let (mut cells, mut others) = (0, Vec::new());
    for line in BufReader::new(child.stdout.take().context("no standard output")?).lines() {
        let line = line?;
        match cell(&line) {
            Some((name, seen)) => {
                cells += 1;
                let (name, outcome) = (name.to_owned(), Outcome::Passed(seen.to_owned()));
                say::fact(&Fact::Check { group: Group::Devices, name, outcome });
            }
            None => others.push(line),
        }
    }
    let status = child.wait()?;
    others.extend(errors.join().unwrap_or_default());
    let said = || {
        let words = others.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        words.collect::<Vec<_>>().join(" | ")
    };
    if !status.success() {
        bail!("{status} behind {cells} cells: {}", said());
    }
    ensure!(cells == wanted, "{cells} of {wanted} cells: {}", said());
    Ok(format!("{cells} cells in {} s", started.elapsed().as_secs()))
}

fn lines(input: impl std::io::Read) -> Vec<String> {
    BufReader::new(input).lines().map_while(Result::ok).collect()
}

/// What the test reports of a cell: `counted NAME: OUTCOME`, also behind a line that the harness leaves open.
fn cell(line: &str) -> Option<(&str, &str)> {
    let (before, said) = line.split_once("counted ")?;
    if !before.is_empty() && !before.ends_with(" ... ") {
        return None;
    }
    said.split_once(": ")
}
