//! `cargo xtask bench`: arguments, table, files and exit codes; `lb_tests::bench` has the rows and the measuring.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use lb_tests::{
    bench::{self, Settings, compare, pinned::Program, plot, report, select},
    privilege,
};

/// Measures what a packet, a change of the tables and a check cost, each row as the median of several runs next to floors
/// of the same run, and compares it with the project's targets. Needs root; attaches nothing to the host's interfaces.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    after_help = "Examples:\n  \
        cargo xtask bench --quick                                before and after a change\n  \
        cargo xtask bench --quick --json before.json\n  \
        cargo xtask bench --quick --compare before.json          what moved beyond the noise\n  \
        cargo xtask bench --rows packet/tcp4-ipip flat/flows     some rows, or groups of them\n  \
        cargo xtask bench --json all.json --plot pictures        everything, with curves\n  \
        cargo xtask bench --check                                exit code 1 when a target is missed\n  \
        cargo xtask bench --instructions --check                 whether a packet executes more than the log of tries says\n  \
        cargo xtask bench --rows packet/tcp4-ipip --program /sys/fs/bpf/other\n\n\
        Exit codes: 0 measured, 1 a target missed under --check, 2 not measured."
)]
struct Args {
    /// Only these rows: whole ids, or groups such as `packet` or `packet/tcp4-ipip`
    #[arg(long, value_name = "ID", num_args = 1..)]
    rows: Vec<String>,
    /// Only the rows that count instructions, which need no quiet machine; with others, those too
    #[arg(long)]
    instructions: bool,
    /// Prints every row there is, and measures nothing
    #[arg(long)]
    list: bool,
    /// The rows that matter most, in fewer runs: under 3 minutes
    #[arg(long)]
    quick: bool,
    /// Runs of each row; the table shows their median [default: 11, or 7 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=1001))]
    rounds: Option<u32>,
    /// Packets in one run of a row [default: 1000000, or 500000 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    packets: Option<u32>,
    /// The CPU to measure on [default: the last one allowed]
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<usize>,
    /// Writes the rows as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the curves as SVG into a directory
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Compares with a file of --json: ratios, and what moved beyond the noise of both runs
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Exits with 1 when a target is missed, and names it
    #[arg(long)]
    check: bool,
    /// Measures another pinned XDP program next to ours, set up by you to forward TCP for 203.0.113.10:443; may be given
    /// more than once
    #[arg(long, value_name = "PINNED_PATH")]
    program: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether `--check` finds nothing.
fn run(args: &Args) -> Result<bool> {
    if args.list {
        for row in bench::definitions(&[]) {
            print(&format!("{:34} {}\n", row.id, row.what))?;
        }
        return Ok(true);
    }
    let mut rows = args.rows.clone();
    if args.instructions {
        rows.push(bench::instructions::GROUP.to_owned());
    }
    // The arguments are checked before the privileges, so that a mistake in them is reported also without root.
    select::select(&bench::definitions(&[]), &own_rows(&rows), args.quick)?;
    let old = args.compare.as_deref().map(read).transpose()?;
    if !privilege::may_load_programs() {
        bail!("measuring needs root (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON): run it through sudo");
    }
    let programs: Vec<Program> =
        args.program.iter().map(|path| Program::open(path)).collect::<Result<_>>()?;
    let definitions = bench::definitions(&programs);
    for row in programs.iter().flat_map(Program::definitions) {
        if definitions.iter().filter(|other| other.id == row.id).count() > 1 {
            bail!("two programs are pinned under the same file name: their rows would be called {}", row.id);
        }
    }
    let mut wanted = select::select(&definitions, &rows, args.quick)?;
    // A person who names a program wants its rows, whatever else is asked for.
    wanted.extend(programs.iter().flat_map(Program::definitions).map(|row| row.id));

    let (rounds, packets) = if args.quick { (7, 500_000) } else { (11, 1_000_000) };
    let settings = Settings {
        rounds: args.rounds.unwrap_or(rounds),
        packets: args.packets.unwrap_or(packets),
        cpu: args.cpu,
    };
    // A run takes minutes: an output path that cannot be written must be refused before, not after it.
    can_be_written(args.json.as_deref(), args.plot.as_deref())?;
    let outcome = bench::run(&settings, &definitions, &wanted, &programs)?;
    print(&report::table(&outcome.rows))?;
    print(&report::skipped(&outcome.skipped))?;
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&report::json(&outcome, &settings))?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(directory) = &args.plot {
        for file in plot::write(&outcome.rows, directory)? {
            print(&format!("{file}\n"))?;
        }
    }
    if let Some(old) = &old {
        print(&format!("\n{}", compare::table(&compare::changes(old, &outcome.rows))))?;
    }
    let (missed, excused) = report::missed(&outcome.rows);
    print(&report::cache(&outcome.rows))?;
    if !excused.is_empty() {
        let why = "the last-level cache leaves us less than the 4 MiB that these targets are for";
        eprintln!("missed, and not held: {} ({why})", excused.join(", "));
    }
    if !missed.is_empty() {
        eprintln!("missed: {}", missed.join(", "));
    }
    Ok(missed.is_empty() || !args.check)
}

/// Prints until the reader closes the pipe: a person who looks at the first lines only still wants the files and the exit code.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(()),
    }
}

/// Checks that the file and the directory can be made. An existing file keeps its contents, and a new file is removed again.
fn can_be_written(file: Option<&Path>, directory: Option<&Path>) -> Result<()> {
    let mut wrong = Vec::new();
    if let Some(file) = file {
        let new = !file.exists();
        match fs::OpenOptions::new().append(true).create(true).open(file) {
            Ok(_) if new => fs::remove_file(file)?,
            Ok(_) => {}
            Err(error) => wrong.push(format!("--json {}: cannot be written: {error}", file.display())),
        }
    }
    if let Some(directory) = directory
        && let Err(error) = fs::create_dir_all(directory)
    {
        wrong.push(format!("--plot {}: cannot be made: {error}", directory.display()));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The rows of pinned programs are known only after those programs are open.
fn own_rows(asked: &[String]) -> Vec<String> {
    asked.iter().filter(|name| *name != "program" && !name.starts_with("program/")).cloned().collect()
}

fn read(file: &Path) -> Result<Vec<bench::row::Row>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    report::read(&text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwritable_places_are_reported_at_once() {
        let home = tempfile::tempdir().unwrap();
        let (file, taken) = (home.path().join("old.json"), home.path().join("taken"));
        fs::write(&file, "{}").unwrap();
        fs::write(&taken, "").unwrap();
        let message = can_be_written(Some(&taken.join("new.json")), Some(&taken)).unwrap_err().to_string();
        assert!(message.contains("--json") && message.contains("--plot"), "{message}");
        can_be_written(Some(&file), Some(&home.path().join("pictures"))).unwrap();
        can_be_written(Some(&home.path().join("new.json")), None).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
        assert!(!home.path().join("new.json").exists());
    }
}
