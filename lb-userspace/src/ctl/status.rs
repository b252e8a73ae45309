//! `lbctl status`.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    cli::monitor::Watch,
    exit::Failure,
    output::{Answer, Context, plural},
    service::note,
    style::{Paint, Style, clean},
    table::{Cell, Table, list, number},
    units, watch,
};
use crate::api::{
    attention::{self, Attention, FULL, Level},
    view::{Egress, Interface, Limit, Outcome, ServiceLine, Status},
};

const PATH: &str = "/v1/status";

pub async fn run(context: &Context, watch: Watch) -> Result<(), Failure> {
    watch::run(context, watch, PATH, |value| {
        let status = Status::deserialize(value).map_err(|why| watch::not_understood(PATH, &why))?;
        let lines = match watch::size().filter(|_| context.terminal) {
            _ if context.wide() => usize::MAX,
            // There are five kinds of lines.
            Some((_, height)) => (height / 5).clamp(LEAST, MOST),
            None => MOST,
        };
        let text = || render(&status, lines, &context.style, units::now());
        let rows = || value.get("services").and_then(Value::as_array).cloned().unwrap_or_default();
        let names = || status.services.iter().map(|service| service.name.clone()).collect();
        let answer = Answer { value, text: &text, rows: Some(&rows), names: Some(&names) };
        watch::put(context, watch, &answer)
    })
    .await
}

/// The most lines of each kind; of what is left out it is said how much that is.
const MOST: usize = 10;
/// The same on a small terminal.
const LEAST: usize = 3;

/// What needs attention, the worst first.
fn attention(status: &Status, lines: usize, style: &Style) -> String {
    let of_node = attention::of_node(status);
    let services = attention::services(status);
    let mut text: Vec<String> = of_node
        .iter()
        .map(|attention| {
            let Attention { level, object, message } = attention;
            let paint = if *level == Level::Broken { Paint::Bad } else { Paint::Warn };
            style.paint(&clean(&format!("{object}: {message}")), paint)
        })
        .collect();
    if !services.is_empty() {
        let of = |state: &str| {
            let with = |s: &&&ServiceLine| attention::state(s.backends_in_ring, s.backends_enabled) == state;
            services.iter().filter(with).count()
        };
        let (down, degraded) = (of("down"), of("degraded"));
        let noted = services.len() - down - degraded;
        let parts = [(down, "down"), (degraded, "degraded"), (noted, "with a note")];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let all = plural(status.services.len() as u64, "service", "services");
        let paint = if down > 0 { Paint::Bad } else { Paint::Warn };
        let line =
            format!("services: {} of {all}; `lbctl service list --attention` shows them", parts.join(", "));
        text.insert(of_node.iter().filter(|a| a.level == Level::Broken).count(), style.paint(&line, paint));
    }
    if text.len() > lines {
        let more = text.len() - (lines - 1);
        text.truncate(lines - 1);
        text.push(format!("and {more} more"));
    }
    text.iter().map(|line| format!("  {line}\n")).collect()
}

fn render(status: &Status, lines: usize, style: &Style, now: u64) -> String {
    let up = units::duration(Duration::from_secs(status.uptime_seconds));
    let adopted = if status.adopted { ", went on with the data path it found" } else { "" };
    let ago = units::duration(Duration::from_secs(now.saturating_sub(status.applied_at)));
    let overlay = match status.overlay_changes {
        0 => "none".into(),
        n => Cell::painted(format!("{n} (see `lbctl config diff`)"), Paint::Warn),
    };
    let unconfirmed = |left| {
        let left = units::duration(Duration::from_secs(left));
        Cell::painted(format!("rolls back in {left} unless `lbctl config confirm` comes"), Paint::Warn)
    };
    let refused =
        |why: &String| Cell::painted(format!("the last configuration was refused: {why}"), Paint::Bad);
    let uncounted =
        |why: &String| Cell::painted(format!("not counted behind the program: {why}"), Paint::Warn);
    let last_refused =
        status.last_refused.as_ref().map(|change| Cell::painted(outcome(change, now), Paint::Warn));
    let restart = (!status.needs_restart.is_empty()).then(|| {
        let settings = status.needs_restart.join(", ");
        Cell::painted(format!("{settings}: followed when the agent starts again"), Paint::Warn)
    });
    let unknown = !status.fingerprint_unknown.is_empty();
    let attention = attention(status, lines, style);
    let mut text = String::new();
    if !attention.is_empty() {
        text = format!("{}\n{attention}\n", style.paint("needs attention", Paint::Head));
    }
    text.push_str(&list(
        style,
        [
            ("instance", Some(Cell::from(&status.instance))),
            ("agent", Some(format!("lbd {}, pid {}, up {up}{adopted}", status.version, status.pid).into())),
            ("configuration", Some(format!("{}, applied {ago} ago", status.config_file).into())),
            ("last change", status.last_change.as_ref().map(|change| outcome(change, now).into())),
            ("last refused", last_refused),
            ("not confirmed", status.rolls_back_in.map(unconfirmed)),
            ("error", status.last_error.as_ref().map(refused)),
            ("run-time changes", Some(overlay)),
            ("needs a restart", restart),
            ("fallback", status.fallback.as_ref().map(|why| Cell::painted(why, Paint::Bad))),
            ("data path", status.not_lasting.as_ref().map(|why| Cell::painted(why, Paint::Bad))),
            ("rings", Some(format!("fingerprint {}", status.fingerprint).into())),
            ("unknown flows", unknown.then(|| format!("fingerprint {}", status.fingerprint_unknown).into())),
            ("map memory", Some(units::bytes(status.map_memory).into())),
            ("losses", status.losses_not_counted.as_ref().map(uncounted)),
        ],
    ));

    let mut interfaces = Table::new(&["INTERFACE", "ATTACHED", "NOTE"]);
    for Interface { name, index: _, attached, note } in status.interfaces.iter().take(lines) {
        let paint = match attached.as_str() {
            "native" => Paint::Good,
            "generic" => Paint::Warn,
            _ => Paint::Bad,
        };
        interfaces.row([
            name.into(),
            Cell::painted(attached, paint),
            note.as_deref().unwrap_or_default().into(),
        ]);
    }
    let mut egress = Table::new(&["EGRESS", "SENDS", "PROGRAM", ">LOST", "NOTE"]);
    for Egress { name, index: _, sends, program, dropped, note } in status.egress.iter().take(lines) {
        let paint = match sends.as_str() {
            "yes" => Paint::Good,
            "unknown" => Paint::Plain,
            "partly" => Paint::Warn,
            _ => Paint::Bad,
        };
        let lost = match dropped {
            None => "-".into(),
            Some(0) => number(0_u64),
            Some(frames) => Cell::painted(frames.to_string(), Paint::Bad),
        };
        egress.row([
            name.into(),
            Cell::painted(sends, paint),
            program.as_deref().unwrap_or("-").into(),
            lost,
            note.as_deref().unwrap_or_default().into(),
        ]);
    }
    let mut services = Table::new(&[
        "SERVICE",
        "LISTEN",
        ">BACKENDS",
        ">ENABLED",
        ">HEALTHY",
        ">IN RING",
        ">TRACKED SLOTS",
        ">LEARNING",
        "NOTE",
    ]);
    let shown = shown(status, lines);
    for service in &shown {
        let paint = match service.backends_in_ring {
            0 => Paint::Bad,
            n if n < service.backends => Paint::Warn,
            _ => Paint::Good,
        };
        services.row([
            Cell::from(&service.name),
            Cell::from(&service.listen),
            number(service.backends),
            number(service.backends_enabled),
            number(service.backends_healthy),
            Cell::painted(service.backends_in_ring.to_string(), paint),
            number(service.slots_tracked),
            number(service.slots_learning),
            note(&service.notes, service.backends_in_ring, service.health_ignored.is_some()),
        ]);
    }
    let mut limits = Table::new(&["LIMIT", ">USED", ">SIZE", ">FULL", ">MEMORY", ">EACH"]);
    for Limit { name, used, size, bytes } in &status.limits {
        let percent = if *size == 0 { 0 } else { used.saturating_mul(100) / size };
        let paint = if percent >= FULL { Paint::Warn } else { Paint::Plain };
        let full = Cell::painted(format!("{percent}%"), paint);
        let each = bytes.checked_div(*size).map_or_else(|| "-".to_owned(), units::bytes);
        limits.row([name.into(), number(used), number(size), full, units::bytes(*bytes).into(), each.into()]);
    }
    for note in status.notes.iter().take(lines) {
        text.push_str(&style.paint(&format!("note: {note}"), Paint::Warn));
        text.push('\n');
    }
    let more = [status.interfaces.len(), status.egress.len(), status.services.len(), 0];
    for ((table, all), what) in [interfaces, egress, services, limits].into_iter().zip(more).zip([
        "interfaces",
        "interfaces",
        "services: `lbctl service list` shows all",
        "",
    ]) {
        if !table.is_empty() {
            text.push('\n');
            text.push_str(&table.render(style));
        }
        if all > lines {
            text.push_str(&style.paint(&format!("and {} more {what}", all - lines), Paint::Dim));
            text.push('\n');
        }
    }
    if status.services.is_empty() {
        text.push_str(&format!("\n{}\n", plural(0, "service", "services")));
    }
    text
}

/// The services that are shown: all of them in their order where there is room, else those that need attention first.
fn shown(status: &Status, lines: usize) -> Vec<&ServiceLine> {
    if status.services.len() <= lines {
        return status.services.iter().collect();
    }
    let well = status.services.iter().filter(|service| !attention::needs(service));
    attention::services(status).into_iter().chain(well).take(lines).collect()
}

/// When, and what, of several lines the first few.
fn outcome(outcome: &Outcome, now: u64) -> String {
    const MOST: usize = 3;
    let Outcome { at, lines } = outcome;
    let ago = units::duration(Duration::from_secs(now.saturating_sub(*at)));
    let more = lines.len().saturating_sub(MOST);
    let shown = lines.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join("; ");
    if more == 0 { format!("{ago} ago: {shown}") } else { format!("{ago} ago: {shown}; and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{Durations, Process};

    fn status() -> Status {
        Status {
            instance: "main".into(),
            pid: 4711,
            version: "0.1.0".into(),
            uptime_seconds: 3725,
            config_file: "/etc/lb/lb.toml".into(),
            applied_at: 1_000,
            last_error: None,
            last_change: Some(Outcome { at: 1_005, lines: ["a", "b", "c", "d"].map(str::to_owned).into() }),
            last_refused: Some(Outcome { at: 1_060, lines: vec!["no room".into()] }),
            overlay_changes: 0,
            rolls_back_in: None,
            needs_restart: Vec::new(),
            fallback: None,
            not_lasting: None,
            pins_trouble: 0,
            pins_mended: 0,
            management_trouble: 0,
            management_mended: 0,
            fingerprint: "00c0ffee00c0ffee".into(),
            fingerprint_unknown: "00c0ffee00c0ffed".into(),
            adopted: false,
            interfaces: vec![Interface {
                name: "eth0".into(),
                index: Some(2),
                attached: "generic".into(),
                note: Some("the driver has no native XDP".into()),
            }],
            notes: vec!["this host forwards packets".into()],
            egress: vec![Egress {
                name: "eth1".into(),
                index: 3,
                sends: "yes".into(),
                program: Some("lb_pass".into()),
                dropped: Some(0),
                note: None,
            }],
            losses_not_counted: None,
            services: vec![ServiceLine {
                name: "web".into(),
                listen: "tcp/203.0.113.10:443".into(),
                backends: 3,
                backends_in_ring: 2,
                backends_enabled: 3,
                backends_healthy: 2,
                slots_tracked: 12,
                slots_learning: 9,
                health_ignored: None,
                backends_starting: 1,
                checks_late_ms: 0,
                notes: vec!["1 backend starts slowly".into()],
            }],
            limits: vec![Limit { name: "services".into(), used: 1, size: 1024, bytes: 2 << 20 }],
            map_memory: 3 << 20,
            process: Process::default(),
            applies: Durations::default(),
        }
    }

    #[test]
    fn a_status_fits_on_one_screen() {
        let expected = "\
needs attention
  services: 1 degraded of 1 service; `lbctl service list --attention` shows them

instance          main
agent             lbd 0.1.0, pid 4711, up 1h 2m
configuration     /etc/lb/lb.toml, applied 1m 5s ago
last change       1m ago: a; b; c; and 1 more
last refused      5s ago: no room
run-time changes  none
rings             fingerprint 00c0ffee00c0ffee
unknown flows     fingerprint 00c0ffee00c0ffed
map memory        3.0 MiB
note: this host forwards packets

INTERFACE  ATTACHED  NOTE
eth0       generic   the driver has no native XDP

EGRESS  SENDS  PROGRAM  LOST  NOTE
eth1    yes    lb_pass     0

SERVICE  LISTEN                BACKENDS  ENABLED  HEALTHY  IN RING  TRACKED SLOTS  LEARNING  NOTE
web      tcp/203.0.113.10:443         3        3        2        2             12         9  1 backend starts slowly

LIMIT     USED  SIZE  FULL   MEMORY     EACH
services     1  1024    0%  2.0 MiB  2.0 KiB
";
        assert_eq!(render(&status(), MOST, &Style::plain(), 1_065), expected);
    }

    #[test]
    fn an_interface_that_cannot_send_and_what_was_lost_are_said() {
        let mut status = status();
        let why = "br0 (bridge) cannot send XDP frames: attach to br0 instead of eth0";
        status.egress[0] = Egress {
            name: "br0".into(),
            sends: "no".into(),
            program: None,
            dropped: Some(1234),
            note: Some(why.into()),
            ..status.egress[0].clone()
        };
        let text = render(&status, MOST, &Style::plain(), 1_065);
        assert!(text.contains(&format!("\nbr0     no     -        1234  {why}\n")), "{text}");
        status.egress[0].dropped = None;
        status.losses_not_counted = Some("this kernel does not describe its types".into());
        let text = render(&status, MOST, &Style::plain(), 1_065);
        assert!(text.contains("\nlosses            not counted behind the program: this kernel"), "{text}");
        assert!(text.contains("\nbr0     no     -           -  "), "{text}");
    }

    #[test]
    fn notes_of_a_service_are_in_its_line() {
        let mut status = status();
        status.services[0].notes = ["no usable backend", "hash source/24 waits"].map(str::to_owned).into();
        status.services[0].backends_in_ring = 0;
        let text = render(&status, MOST, &Style::plain(), 1_065);
        assert!(text.contains("12         9  no usable backend; hash source/24 waits\n"), "{text}");
        let coloured = render(&status, MOST, &Style::coloured(), 1_065);
        assert!(coloured.contains("\u{1b}[31mno usable backend"), "{coloured:?}");
    }

    #[test]
    fn a_refused_configuration_and_run_time_changes_are_said() {
        let status = Status {
            last_error: Some("lb.toml:3:1: service web: …".into()),
            overlay_changes: 2,
            rolls_back_in: Some(42),
            adopted: true,
            services: vec![],
            ..status()
        };
        let text = render(&status, MOST, &Style::plain(), 1_065);
        assert!(text.contains("error             the last configuration was refused: lb.toml:3:1"), "{text}");
        assert!(text.contains("not confirmed     rolls back in 42s unless"), "{text}");
        assert!(text.contains("run-time changes  2 (see `lbctl config diff`)"), "{text}");
        assert!(text.contains("up 1h 2m, went on with the data path it found"), "{text}");
        assert!(text.ends_with("\n0 services\n"), "{text}");
    }
}
