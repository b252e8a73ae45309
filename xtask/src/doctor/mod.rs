//! `cargo xtask doctor`: what on this host is fine, missing or slower than it could be, and what to do about it. It
//! looks and changes nothing.

mod drivers;
mod kernel;
mod learned;
mod merging;
mod nic;
mod privileges;
mod vip;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    setup::{self, State},
    ui,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask doctor\n  \
    cargo xtask doctor --interface eth1\n  \
    cargo xtask doctor -o json\n\n\
    Exit code 0 when it can run here, 1 when something essential is missing.")]
pub struct DoctorArgs {
    /// Look at this interface (repeatable) [default: all that have hardware behind them]
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Look at the addresses of the services in this configuration, where it is there
    #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml")]
    config: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Item {
    /// `kernel`, `privileges`, `toolchain`, `services`, or an interface.
    area: String,
    name: String,
    verdict: Verdict,
    detail: String,
    /// What to do about it; empty = nothing.
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// It works, and could work better.
    Slower,
    /// Not there, and only some things need it.
    Absent,
    /// Not there, and nothing runs without it.
    Missing,
}

impl Item {
    fn new(
        area: &str,
        name: &str,
        verdict: Verdict,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            area: area.to_owned(),
            name: name.to_owned(),
            verdict,
            detail: detail.into(),
            advice: advice.into(),
        }
    }

    fn ok(area: &str, name: &str, detail: impl Into<String>) -> Self {
        Self::new(area, name, Verdict::Ok, detail, "")
    }
}

/// Runs `doctor`; whether it can run here.
pub fn main(arguments: &DoctorArgs) -> Result<bool> {
    let DoctorArgs { interface, config, output } = arguments;
    let mut items = kernel::look();
    items.extend(privileges::look());
    items.extend(toolchain());
    items.extend(nic::look(interface, kernel::version()));
    items.extend(learned::look(interface));
    items.extend(vip::look(config));
    let fit = items.iter().all(|item| item.verdict != Verdict::Missing);
    match output {
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(&serde_json::json!({"ok": fit, "items": items}))?);
        }
        Output::Table => print!("{}", render(&items, fit)),
    }
    Ok(fit)
}

fn toolchain() -> Vec<Item> {
    let item = |part: setup::Part| {
        let setup::Part { name, state, detail } = part;
        let (verdict, advice) = match state {
            State::Ok => (Verdict::Ok, ""),
            State::Optional => (Verdict::Absent, "cargo xtask setup"),
            State::Missing => (Verdict::Missing, "cargo xtask setup"),
        };
        Item::new("toolchain", &name, verdict, detail, advice)
    };
    setup::inspect().into_iter().map(item).collect()
}

fn render(items: &[Item], fit: bool) -> String {
    let mut text = String::new();
    let mut areas: Vec<&str> = items.iter().map(|item| item.area.as_str()).collect();
    areas.dedup();
    for area in areas {
        text.push_str(&format!("{}\n", ui::bold(area)));
        let mut rows = Vec::new();
        for item in items.iter().filter(|item| item.area == area) {
            let verdict = match item.verdict {
                Verdict::Ok => ui::green("ok"),
                Verdict::Slower => ui::yellow("slower"),
                Verdict::Absent => ui::yellow("absent"),
                Verdict::Missing => ui::red("missing"),
            };
            rows.push(vec![format!("  {}", item.name), verdict, item.detail.clone()]);
            if !item.advice.is_empty() {
                rows.push(vec![String::new(), String::new(), ui::dim(&format!("→ {}", item.advice))]);
            }
        }
        text.push_str(&ui::table(&rows));
    }
    let missing = items.iter().filter(|item| item.verdict == Verdict::Missing).count();
    let slower = items.iter().filter(|item| item.verdict == Verdict::Slower).count();
    text.push_str(&if fit {
        format!(
            "it can run here; {} slower than {} could be\n",
            ui::count(slower, "thing"),
            if slower == 1 { "it" } else { "they" }
        )
    } else {
        format!("it cannot run here: {} missing\n", ui::count(missing, "thing"))
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_decides_and_advice_follows_its_item() {
        let items = [
            Item::ok("kernel", "JIT", "on"),
            Item::new("kernel", "bpffs", Verdict::Missing, "not mounted", "mount it"),
        ];
        let text = render(&items, false);
        assert_eq!(
            text,
            "kernel\n  JIT    ok       on\n  bpffs  missing  not mounted\n                  → mount it\n\
             it cannot run here: 1 thing missing\n"
        );
    }

    #[test]
    fn the_json_says_verdicts_in_words() {
        let item = Item::new("a", "b", Verdict::Slower, "c", "");
        let json = serde_json::to_value(&item).unwrap();
        assert_eq!(json["verdict"], "slower");
    }
}
