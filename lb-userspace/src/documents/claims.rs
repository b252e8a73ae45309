//! Sentences of the documents with numbers in them, made of the code's own numbers, and the tests that documents name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use lb_common::{counter, encap::ip, map::size, service, service_cache};

use super::{document, root};
use crate::{
    bpf::map_shapes::PINNED,
    config::{
        keys::{self, Section},
        spec::Spec,
        testing::{SMALL, spec},
        words::duration,
    },
    ctl::cli::{self, backend},
};

/// A document has this sentence, wherever its lines end.
#[track_caller]
pub(super) fn says(name: &str, sentence: &str) {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&document(name)).contains(&words(sentence)), "{name} does not say: {sentence}");
}

fn default(section: &Section, key: &str) -> &'static str {
    let found = section.keys.iter().find(|found| found.name == key);
    found.unwrap_or_else(|| panic!("no key {key}")).default.trim_matches('"')
}

/// [`SMALL`] with another line in place of its `listen`.
fn listening(line: &str) -> Spec {
    spec(&SMALL.replace("listen = \"tcp/192.0.2.1:80\"", line))
}

#[test]
fn times_that_documents_name_are_the_defaults() {
    let check = listening("listen = \"tcp/192.0.2.1:80\"").services[0].health.clone().expect("a check");
    let interval = check.interval.as_millis();
    says(
        "lb-userspace/doc/health.md",
        &format!(
            "is checked by a connection to its port every {interval} ms; a UDP service, or one with port 0, is not checked at all"
        ),
    );
    for listen in ["listen = \"udp/192.0.2.1:80\"", "listen = \"tcp/192.0.2.1:0\""] {
        assert_eq!(listening(listen).services[0].health, None, "{listen}");
    }
    assert_eq!(
        (default(&keys::SERVICE, "track_window"), default(&keys::SERVICE, "udp_idle")),
        ("135m", "2m")
    );
    says(
        "lb-userspace/doc/sweep.md",
        "(`track_window` for TCP, by default 2 h 15 min; `udp_idle` for UDP, by default 2 min)",
    );
    let idle = default(&keys::SERVICE, "idle_after");
    assert_eq!(duration(spec(SMALL).services[0].idle_after), idle);
    let minutes = idle.trim_end_matches('m');
    says(
        "lb-common/doc/balancing.md",
        &format!("has sent nothing for `idle_after` (by default {minutes} min)"),
    );
    says(
        "lb-userspace/doc/operate.md",
        &format!("has sent nothing for `idle_after` ({minutes} min by default)"),
    );
}

#[test]
fn a_drain_waits_as_documented() {
    let line = "lbctl backend drain web/web-1 --wait".split(' ');
    let cli::Command::Backend(backend::Command::Drain { wait, .. }) =
        cli::Cli::try_parse_from(line).expect("as documented").command
    else {
        panic!("another command")
    };
    let settle = wait.settle.as_secs();
    says("lb-userspace/doc/operate.md", &format!("no live flow has been seen for {settle} s (`--settle`)"));
}

#[test]
fn a_dead_backend_is_out_in_the_documented_time() {
    let check = spec(SMALL).services[0].health.clone().expect("a check");
    // The scheduler spreads probes by a tenth of the interval.
    let until_asked = (check.interval + check.fast_interval * (check.fall - 1)).mul_f64(1.1);
    let silent = until_asked + check.timeout * check.fall;
    assert!(until_asked <= Duration::from_millis(700), "{until_asked:?}");
    assert!(silent <= Duration::from_millis(1_700), "{silent:?}");
    says(
        "lb-userspace/doc/configuration.md",
        "a backend that refuses connections is out within 0.7 s, and one that does not answer at all within 1.7 s",
    );
}

#[test]
fn what_the_outer_header_leaves_is_reckoned_right() {
    let (v4, v6) = (ip::OVERHEAD_V4, ip::OVERHEAD_V6);
    let mtu = "lb-userspace/doc/mtu.md";
    for name in [mtu, "lb-userspace/doc/backend.md"] {
        let bytes = if name == mtu { " bytes" } else { "" };
        says(name, &format!("The outer header takes {v4} bytes (IPv4) or {v6}{bytes} (IPv6)."));
    }
    // Headers of IPv4 and IPv6 without options, and of TCP.
    let mss = |inner: u16, outer: u16| 1500 - outer - inner - 20;
    let thousands = |number: u16| format!("{},{:03}", number / 1000, number % 1000);
    for (outer, family) in [(v4, "IPv4"), (v6, "IPv6")] {
        let [inner_v4, inner_v6] = [20, 40].map(|inner| thousands(mss(inner, outer)));
        says(
            "lb-userspace/doc/backend.md",
            &format!("| {family} backends | {} | {inner_v4} / {inner_v6} |", thousands(1500 + outer)),
        );
    }
    says(
        mtu,
        &format!("advmss {} # 1500 - 40 - 20; {} where the outer header is IPv6", mss(20, v4), mss(20, v6)),
    );
    says(
        mtu,
        &format!("advmss {} # 1500 - 60 - 40; {} where the outer header is IPv4", mss(40, v6), mss(40, v4)),
    );
}

/// The lines of a table in a document behind a heading, as their cells.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = document.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    let lines =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    // Behind the head and the line under it.
    lines.skip(2).map(cells).collect()
}

#[test]
fn the_table_of_maps_has_every_map_with_its_size() {
    let rows = rows(&document("lb-common/doc/maps.md"), "# Maps\n");
    let named: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let mut there: BTreeSet<&str> = PINNED.into_iter().collect();
    // Pinned apart: they are not of the balancer's layout.
    there.extend(["DECAP", "LOSSES", "LOSS_PROGRAMS"]);
    assert_eq!(named, there);
    let services = spec(SMALL).limits.services;
    for (map, entries) in [
        ("SVC_FRONT", service_cache::entries_for(services)),
        ("SVC_INDEX", service::buckets_for(services)),
        ("SERVICES", services),
        ("RING", size::SLOTS),
        ("SLOT_OWNERS", lb_common::owner::words_for(size::SLOTS)),
        ("SLOT_ELSEWHERE", lb_common::elsewhere::entries_for(size::SLOTS)),
        ("FLOWS", lb_common::flow_table::buckets_for(size::FLOWS)),
        ("COUNTERS", counter::ENTRIES),
        ("EGRESS", size::EGRESS),
        ("DECAP", size::DECAP),
    ] {
        let row = rows.iter().find(|row| row[0].trim_matches('`') == map).expect("a row");
        let digits: String = row[5].chars().take_while(|c| *c != ' ').filter(char::is_ascii_digit).collect();
        assert_eq!(digits, entries.to_string(), "{map}: {}", row[5]);
    }
}

/// All functions of a tree of sources with the files they are in, and all files and folders, under their own names.
fn names(at: &Path, all: &mut BTreeMap<String, Vec<PathBuf>>) {
    for entry in fs::read_dir(at).expect("a folder").filter_map(Result::ok) {
        let path = entry.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        all.entry(stem).or_default().push(path.clone());
        if path.is_dir() {
            names(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in fs::read_to_string(&path).unwrap_or_default().lines() {
                // A function, or a line of a table of tests: `("module::name", …`.
                let function = line.trim_start().trim_start_matches("async ").strip_prefix("fn ");
                let listed = line
                    .trim_start()
                    .trim_start_matches("&[")
                    .strip_prefix("(\"")
                    .and_then(|line| line.split('"').next());
                let listed = listed.and_then(|name| name.rsplit_once("::")).map(|(_, name)| name);
                if let Some(name) = function.or(listed) {
                    let name = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    all.entry(name).or_default().push(path.clone());
                }
            }
        }
    }
}

/// Whether there is a test of that name, in a file of the modules in front of it. `…` in front: in the module of the one
/// before; behind: there are several that begin so.
fn is_there(named: &str, there: &BTreeMap<String, Vec<PathBuf>>) -> bool {
    let mut modules: Vec<&str> = named.split("::").collect();
    let name = modules.pop().unwrap_or_default().trim_start_matches('…');
    let files: Vec<&PathBuf> = match name.strip_suffix('…') {
        Some(begins) => {
            there.iter().filter(|(name, _)| name.starts_with(begins)).flat_map(|(_, at)| at).collect()
        }
        None => there.get(name).into_iter().flatten().collect(),
    };
    files.iter().any(|file| {
        let part = |module: &str| {
            file.components().any(|part| {
                let part = part.as_os_str().to_string_lossy();
                part == module || part.strip_suffix(".rs") == Some(module)
            })
        };
        modules.iter().all(|module| *module == "tests" || part(module))
    })
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut there = BTreeMap::new();
    for tree in
        ["lb-common/src", "lb-userspace/src", "lb-userspace/tests", "tests", "xtask/src", "xtask/tests"]
    {
        names(&root().join(tree), &mut there);
    }
    assert!(!is_there("agent::the_table_of_maps_has_every_map_with_its_size", &there), "not in that file");
    let (failures, evidence) = ("lb-userspace/doc/failure-modes.md", "tests/doc/evidence.md");
    let (mut tried, mut missing) = (0, Vec::new());
    for (name, heading) in [
        (failures, "## What shows it\n"),
        (evidence, "## What was done to it\n"),
        (evidence, "## Other decapsulators\n"),
        (evidence, "## What is claimed\n"),
        ("ARCHITECTURE.md", "## Invariants\n"),
    ] {
        let before = tried;
        for cell in rows(&document(name), heading).concat() {
            for span in cell.split('`').skip(1).step_by(2) {
                if span.contains("::") || span.starts_with('…') {
                    tried += 1;
                    missing.extend((!is_there(span, &there)).then(|| format!("{name}: {span}")));
                }
            }
        }
        assert!(tried > before, "{name} names no test under {heading}");
    }
    assert!(missing.is_empty(), "documents name tests that are not there: {missing:?}");
    assert!(tried > 60, "{tried} names were looked for");
}
