//! The golden captures, played again: bytes, verdicts and counters must be as they were. And tshark, a program that is
//! not ours, judges the packets that left.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    fuzz::comparison,
    golden::{
        KernelTables,
        capture::{self, Capture},
        pcap::{self, Seen},
        replay,
    },
    need_bpf,
    privilege::{may_make_namespaces, skip},
    test_name,
};

#[test]
fn every_golden_capture_comes_out_as_it_was() -> Result<()> {
    need_bpf!();
    if !may_make_namespaces() {
        skip(test_name!(), "needs root (CAP_SYS_ADMIN) for a network namespace");
        return Ok(());
    }
    let captures = capture::all(&capture::directory())?;
    let run = move || -> Result<Vec<String>> {
        comparison::enter_namespace()?;
        let mut kernel = KernelTables::new()?;
        let mut different = Vec::new();
        let (played, left): (Vec<_>, Vec<_>) =
            captures.iter().partition(|capture| kernel.cpu() == 0 || !capture.config.contains("round-robin"));
        if !left.is_empty() {
            skip(test_name!(), "round-robin captures want the processor 0, which this thread may not use");
        }
        let count = played.len();
        for capture in played {
            let difference = replay::compare(capture, &mut kernel).unwrap_or_else(|e| Some(format!("{e:#}")));
            different.extend(difference.map(|difference| format!("{}: {difference}", capture.name)));
        }
        println!("counted golden captures: {count} compared, {} different", different.len());
        Ok(different)
    };
    let different = std::thread::spawn(run).join().expect("the thread ends by itself")?;
    ensure!(
        different.is_empty(),
        "{}\nwhere that is intended: `cargo xtask golden again` records them again",
        different.join("\n")
    );
    Ok(())
}

/// What tshark finds wrong with a frame, and the headers that it sees in the frame.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    headers: String,
    faults: BTreeSet<&'static str>,
}

/// Fields of tshark in which a 0 means that a checksum is wrong.
const CHECKSUMS: [&str; 5] = [
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
];

/// Lets tshark read the frames, each by itself.
fn tshark(frames: &[Seen]) -> Result<Vec<Reading>> {
    let file = tempfile::Builder::new().suffix(".pcap").tempfile()?;
    std::fs::write(file.path(), pcap::write(frames))?;
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file.path());
    // Payloads of the tests are neither DNS nor TLS, and fragments of different captures do not form one packet.
    for preference in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"] {
        command.args(["-o", preference]);
    }
    for preference in ["ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.analyze_sequence_numbers:FALSE"] {
        command.args(["-o", preference]);
    }
    for protocol in ["dns", "tls"] {
        command.args(["--disable-protocol", protocol]);
    }
    command.args(["-T", "fields", "-E", "separator=|", "-e", "frame.protocols", "-e", "_ws.malformed"]);
    for field in CHECKSUMS {
        command.args(["-e", field]);
    }
    let output = command.output().context("tshark")?;
    ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let readings: Vec<Reading> = text.lines().map(reading).collect::<Result<_>>()?;
    ensure!(readings.len() == frames.len(), "tshark read {} of {} frames", readings.len(), frames.len());
    Ok(readings)
}

fn reading(line: &str) -> Result<Reading> {
    let mut fields = line.split('|');
    let headers = fields.next().context("no headers")?.to_owned();
    let mut faults = BTreeSet::new();
    if fields.next().is_some_and(|malformed| !malformed.is_empty()) {
        faults.insert("malformed");
    }
    for name in CHECKSUMS {
        if fields
            .next()
            .with_context(|| format!("no {name} in `{line}`"))?
            .split(',')
            .any(|state| state == "0")
        {
            faults.insert(name);
        }
    }
    Ok(Reading { headers, faults })
}

fn has_tshark() -> bool {
    Command::new("tshark").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// An error that a packet has when it comes stays in the packet; the load balancer adds no error.
#[test]
fn tshark_finds_no_new_error_in_what_goes_out() -> Result<()> {
    if !has_tshark() {
        skip(test_name!(), "no tshark (package tshark; `cargo xtask setup` installs it)");
        return Ok(());
    }
    let captures = capture::all(&capture::directory())?;
    let mut pairs = Vec::new();
    for Capture { name, came, went, expect, .. } in &captures {
        for seen in went {
            let place = seen.second as usize - 1;
            let before = Seen { second: 0, frame: came[place].clone() };
            pairs.push((name, expect.packets[place].backend.is_some(), before, seen.clone()));
        }
    }
    let before = tshark(&pairs.iter().map(|(_, _, before, _)| before.clone()).collect::<Vec<_>>())?;
    let after = tshark(&pairs.iter().map(|(_, _, _, after)| after.clone()).collect::<Vec<_>>())?;
    for ((name, sent, ..), (before, after)) in pairs.iter().zip(before.iter().zip(&after)) {
        // Of the segment that an answer quotes only the beginning is there.
        let is_of_quote = |fault: &str| after.headers.contains(":icmp") && fault.starts_with("tcp.");
        let new = after.faults.difference(&before.faults).filter(|fault| !is_of_quote(fault));
        let new: Vec<_> = new.collect();
        ensure!(new.is_empty(), "{name}: {new:?} in a packet that came with {:?}", before.faults);
        let outer = ["eth:ethertype:ip:", "eth:ethertype:ipv6:"].map(|outer| {
            before.headers.strip_prefix("eth:ethertype:").map(|inner| format!("{outer}{inner}"))
        });
        // tshark does not look into GUE.
        let is_right = match name.split('-').next() {
            Some("gue") => {
                ["ip", "ipv6"].iter().any(|ip| after.headers == format!("eth:ethertype:{ip}:udp:data"))
            }
            Some("l2") => after.headers == before.headers,
            _ => outer.contains(&Some(after.headers.clone())),
        };
        ensure!(
            !sent || is_right,
            "{name}: {} became {}, which is not the outer header of its kind more",
            before.headers,
            after.headers
        );
    }
    let wrong = before.iter().filter(|reading| !reading.faults.is_empty()).count();
    // Some packets are wrong on purpose: a tshark that finds none of those proves nothing about the others.
    ensure!(wrong > 2 && wrong < before.len() / 4, "{wrong} of {} came with faults", before.len());
    Ok(())
}
