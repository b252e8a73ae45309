//! The invariants of every packet, whatever the packet is and whatever happens to it.

use anyhow::{Result, ensure};
use lb_common::counter::{Counter, Kind};

use super::Outcome;
use crate::frame::{self, IP};

/// XDP actions (linux/bpf.h).
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

/// Checks one run: one verdict, the action that belongs to the verdict, and the bytes that belong to the action.
pub(super) fn check(before: &[u8], outcome: &Outcome) -> Result<()> {
    let Outcome { action, frame: after, counters } = outcome;
    ensure!(counters.iter().all(|(_, delta)| *delta == 1), "a counter went up more than once");
    let verdicts = counters.iter().filter(|(counter, _)| counter.kind() != Kind::Event).count();
    ensure!(verdicts == 1, "{verdicts} verdicts on one packet");
    let tracked =
        [Counter::TrackedHit, Counter::TrackedPrevious, Counter::TrackedCurrent, Counter::TrackedBalanced];
    let owners = outcome.events().iter().filter(|event| tracked.contains(event)).count();
    ensure!(owners <= 1, "a tracked packet has one origin, not {owners}");

    let verdict = outcome.verdict();
    let expected = match (verdict.kind(), verdict) {
        (Kind::Dropped, _) => DROP,
        (Kind::Forwarded, Counter::ForwardedTx) => TX,
        (Kind::Forwarded, Counter::ForwardedRedirect) => REDIRECT,
        (Kind::Answered, _) => TX,
        _ => PASS,
    };
    ensure!(*action == expected, "action {action} under {}", verdict.name());
    match (verdict.kind(), verdict) {
        (Kind::Passed, _) => ensure!(before == after, "a packet that passes is untouched"),
        (Kind::Forwarded, Counter::Decapsulated) => decapsulated(before, after)?,
        (Kind::Forwarded, _) => encapsulated(before, after)?,
        _ => {}
    }
    Ok(())
}

/// A valid outer header, or none, and behind it the packet as it came.
fn encapsulated(before: &[u8], after: &[u8]) -> Result<()> {
    if after.len() == before.len() {
        ensure!(after[12..] == before[12..], "without an outer header only the Ethernet addresses differ");
        return Ok(());
    }
    let ip = if frame::is_v4(after) { 20 } else { 40 };
    let is_udp = after[IP + if ip == 20 { 9 } else { 6 }] == 17;
    let overhead = if is_udp { ip + 8 } else { ip };
    ensure!(after.len() == before.len() + overhead, "{} bytes became {}", before.len(), after.len());
    ensure!(after[IP + overhead..] == before[IP..], "the inner packet is untouched");
    ensure!(frame::length(after) == frame::length(before) + overhead, "the outer length is the inner one's");
    if is_udp {
        let [high, low] = [after[IP + ip + 4], after[IP + ip + 5]];
        let length = usize::from(u16::from_be_bytes([high, low]));
        ensure!(ip + length == frame::length(after), "the length of the outer UDP header is right");
    }
    if frame::is_v4(after) {
        ensure!(after[IP] == 0x45, "an outer IPv4 header has no options");
        ensure!(frame::ipv4_checksum(&after[IP..IP + 20]) == 0, "the outer checksum is right");
    } else {
        ensure!(after[IP] >> 4 == 6, "an outer IPv6 header says so");
    }
    Ok(())
}

/// The inner packet behind the Ethernet header of the outer one, with no change except in ECN.
fn decapsulated(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after.len() < before.len(), "a header was taken off");
    ensure!(after[..12] == before[..12], "the Ethernet addresses stay");
    let version = if frame::is_v4(after) { 4 } else { 6 };
    ensure!(after[IP] >> 4 == version, "the ethertype says what the inner packet is");
    let mut inner = before[before.len() - (after.len() - IP)..].to_vec();
    let mut result = after[IP..].to_vec();
    for bytes in [&mut inner, &mut result] {
        if version == 4 {
            bytes[1] &= !3;
            bytes[10..12].fill(0);
        } else {
            bytes[1] &= !0x30;
        }
    }
    ensure!(inner == result, "the inner packet is untouched but for ECN");
    Ok(())
}
