//! `cargo xtask bench`: what a packet costs, as medians of interleaved runs above floors measured in the same run.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use lb_tests::bench::{self, Row};

/// Measures the packet path with BPF_PROG_TEST_RUN, and the control plane on maps of its own; needs root, attaches
/// nothing, sends nothing.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --rounds 21 --json before.json\n  cargo xtask bench --row hash --row packet/flows=1\n  cargo xtask bench --row control"
)]
struct Args {
    /// Runs of each row; the table shows their median.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(3..=1001))]
    rounds: u32,
    /// Packets in one run of a row.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
    packets: u32,
    /// Only rows whose name begins with this; may be given more than once.
    #[arg(long, value_name = "PREFIX")]
    row: Vec<String>,
    /// Writes the rows as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exits with 1 when a target is missed.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let names = bench::row_names();
    for prefix in &args.row {
        if !names.iter().any(|name| name.starts_with(prefix.as_str())) {
            bail!("no row begins with `{prefix}`; there are: {}", names.join(", "));
        }
    }
    let wanted = |name: &str| args.row.is_empty() || args.row.iter().any(|p| name.starts_with(p.as_str()));
    let rows = bench::run(args.rounds, args.packets, &wanted)?;
    print(&rows);
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&bench::json(&rows))?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed: Vec<_> =
        rows.iter().filter(|row| row.met == Some(false)).map(|row| row.name.as_str()).collect();
    if !missed.is_empty() {
        eprintln!("missed: {}", missed.join(", "));
        if args.check {
            std::process::exit(1);
        }
    }
    Ok(())
}

fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(4);
    println!("{:width$}  {:>9} {:>9} {:>9} {:>9}  target", "row", "median", "min", "max", "net");
    for row in rows {
        let net = row.net.map_or(String::new(), |net| format!("{net:.1}"));
        let target = match (&row.target, row.met) {
            (Some(target), Some(met)) => format!("{target} {}", if met { "met" } else { "MISSED" }),
            _ => String::new(),
        };
        let Row { name, median, min, max, unit, .. } = row;
        println!("{name:width$}  {median:9.2} {min:9.2} {max:9.2} {net:>9}  {unit}  {target}");
    }
}
