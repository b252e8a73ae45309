//! The invariants of every packet, whatever the packet is and whatever happens to it.

use anyhow::{Result, ensure};
use lb_common::counter::{Counter, Kind};

use super::Outcome;
use crate::{
    control,
    frame::{self, IP},
};

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
        (Kind::Answered, Counter::Echo) => echoed(before, after)?,
        (Kind::Answered, _) => reported(before, after)?,
        _ => {}
    }
    let steered = outcome.events().contains(&Counter::IcmpSteered);
    ensure!(!steered || verdict.kind() == Kind::Forwarded, "a steered error is sent");
    ensure!(!steered || owners == 0, "a steered error is no packet of its flow");
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

/// Ethernet and IP addresses exchanged.
fn turned(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after[..6] == before[6..12] && after[6..12] == before[..6], "it goes back where it came from");
    ensure!(after[12..14] == before[12..14], "of the same family");
    let (source, destination, length) = if frame::is_v4(after) { (12, 16, 4) } else { (8, 24, 16) };
    let address = |frame: &[u8], at: usize| frame[IP + at..IP + at + length].to_vec();
    let (from, to) = (&after[IP + source..][..length], &after[IP + destination..][..length]);
    ensure!(from == address(before, destination) && to == address(before, source), "addresses are exchanged");
    ensure!(after[IP + if length == 4 { 8 } else { 7 }] == 64, "TTL or hop limit is 64");
    Ok(())
}

/// What the checksums of the IPv4 header and of the control message sum up to: 0 where they are right.
fn sums(frame: &[u8]) -> (u16, u16) {
    let header =
        if frame::is_v4(frame) { frame::ipv4_checksum(&frame[IP..frame::transport(frame)]) } else { 0 };
    (header, control::checksum(frame))
}

/// The reply to an echo request: nothing but addresses, TTL, type and checksums differ, and those are as right as they were.
fn echoed(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(before.len() == after.len(), "a reply is as long as its request");
    turned(before, after)?;
    let at = frame::transport(before);
    ensure!(after[at] == if frame::is_v4(after) { 0 } else { 129 }, "it is a reply");
    ensure!(after[at + 1] == before[at + 1] && after[at + 4..] == before[at + 4..], "it has what was sent");
    ensure!(sums(before) == sums(after), "a checksum is as right as it was");
    Ok(())
}

/// *Packet too big*: valid, and it quotes the packet as it came.
fn reported(before: &[u8], after: &[u8]) -> Result<()> {
    turned(before, after)?;
    let at = frame::transport(after);
    ensure!(at == if frame::is_v4(after) { IP + 20 } else { IP + 40 }, "its header has no options");
    ensure!(IP + frame::length(after) == after.len(), "it has no padding");
    ensure!(sums(after) == (0, 0), "its checksums are right");
    ensure!(after[at..at + 2] == if frame::is_v4(after) { [3, 4] } else { [2, 0] }, "it says what it is");
    let quote = &after[at + 8..];
    ensure!(*quote == before[IP..IP + quote.len()], "it quotes the packet as it came");
    let total = if frame::is_v4(after) { 576 } else { 1280 };
    ensure!(after.len() == IP + total, "it is {} bytes long", after.len() - IP);
    let mtu = usize::from(u16::from_be_bytes([after[at + 6], after[at + 7]]));
    ensure!(
        after[at + 4..at + 6] == [0, 0] && mtu < frame::length(before),
        "its MTU is smaller than the packet"
    );
    Ok(())
}
