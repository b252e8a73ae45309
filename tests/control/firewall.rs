//! The firewall rules of `lb-userspace/doc/backend.md`, typed as they are there: they accept tunnelled packets of the
//! balancers, and none of strangers, for each of the four kinds.

use std::{os::fd::AsRawFd as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{privilege, test_name};
use serde_json::Value;

use crate::{
    agent::Said,
    world::{World, isolated, wait_for},
};

const DOCUMENT: &str = include_str!("../../lb-userspace/doc/backend.md");
const SECTION: &str = "## Who may send tunnelled packets";

/// IPv4 and IPv6 in each other: the protocol number, and the first byte of the inner header.
const INNER: [(u8, u8); 2] = [(4, 0x45), (41, 0x60)];

/// Our addresses on `lb0`.
const TO: ([u8; 4], [u8; 16]) = ([10, 9, 0, 1], [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

fn commands() -> Result<Vec<&'static str>> {
    let (_, section) = DOCUMENT.split_once(SECTION).context("backend.md has no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    Ok(section.lines().filter(|line| line.starts_with("nft ")).collect())
}

fn shell(world: &World, command: &str) -> Result<String> {
    Said::of(world.command("sh")?.args(["-c", command]))?.done()
}

/// How many packets the rules have accepted.
fn passed(world: &World) -> Result<u64> {
    let chain: Value = serde_json::from_str(&shell(world, "nft -j list chain inet lb input")?)?;
    let counted = chain["nftables"].as_array().into_iter().flatten().find_map(|part| {
        part["rule"]["expr"].as_array()?.iter().find_map(|part| part["counter"]["packets"].as_u64())
    });
    counted.context("no rule counts")
}

/// The four kinds, and both kinds of IPv6 after the destination options that Linux adds, from these sources.
fn frames(mac: [u8; 6], v4: [u8; 4], v6: [u8; 16]) -> Vec<Vec<u8>> {
    let ethernet = |kind: u16| [&mac[..], &[2, 0, 0, 0, 0, 2], &kind.to_be_bytes()].concat();
    let inner = |first: u8| [vec![first], vec![0; 39]].concat();
    let mut frames = Vec::new();
    for (protocol, first) in INNER {
        let mut header =
            [vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, protocol, 0, 0], v4.to_vec(), TO.0.to_vec()].concat();
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frames.push([ethernet(0x0800), header, inner(first)].concat());
        for options in [false, true] {
            let (next, more) =
                if options { (60, vec![protocol, 0, 4, 1, 4, 1, 1, 0]) } else { (protocol, Vec::new()) };
            let length = 40 + more.len() as u8;
            let header =
                [vec![0x60, 0, 0, 0, 0, length, next, 64], v6.to_vec(), TO.1.to_vec(), more].concat();
            frames.push([ethernet(0x86dd), header, inner(first)].concat());
        }
    }
    frames
}

/// Sends frames into the other end of `lb0`.
fn send(frames: &[Vec<u8>]) -> Result<()> {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let index = nix::net::if_::if_nametoindex("lb0p")?;
    // SAFETY: all bits 0 are a valid address.
    let mut address: nix::libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = nix::libc::AF_PACKET as u16;
    address.sll_ifindex = index.try_into()?;
    let length = size_of_val(&address) as u32;
    // SAFETY: the pointer is to a live address of that length.
    let bound = unsafe { nix::libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "binding to lb0p: {}", std::io::Error::last_os_error());
    for frame in frames {
        nix::sys::socket::send(socket.as_raw_fd(), frame, MsgFlags::empty())?;
    }
    Ok(())
}

#[test]
fn the_documented_rules_stop_foreign_tunnels() -> Result<()> {
    if !Command::new("nft").arg("--version").output().is_ok_and(|said| said.status.success()) {
        privilege::skip(test_name!(), "needs nft (package nftables)");
        return Ok(());
    }
    isolated(test_name!(), |world| {
        let shown = shell(world, "ip -o link show lb0")?;
        let mac = shown.split_once("link/ether ").and_then(|(_, rest)| rest.split(' ').next());
        let mac = mac.context("lb0 has no Ethernet address")?.split(':');
        let mac: Vec<u8> = mac.map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
        let mac: [u8; 6] = mac.try_into().map_err(|_| anyhow::anyhow!("not an Ethernet address"))?;
        for command in commands()? {
            shell(world, command)?;
        }
        shell(world, "nft add rule inet lb input meta l4proto '{ 4, 41 }' counter")?;
        // The rules name example sources; these addresses are inside and outside of them.
        let balancer = frames(mac, [10, 0, 255, 5], *b"\x20\x01\x0d\xb8\x00\xff\0\0\0\0\0\0\0\0\0\x05");
        let stranger = frames(mac, [198, 51, 100, 7], *b"\x20\x01\x0d\xb8\x00\x66\0\0\0\0\0\0\0\0\0\x05");
        // Strangers first: once the balancers' packets have an effect, the strangers' packets have had theirs.
        send(&stranger)?;
        send(&balancer)?;
        let wanted = balancer.len() as u64;
        wait_for("the balancers' packets are let in", || Ok((passed(world)? >= wanted).then_some(())))?;
        ensure!(
            passed(world)? == wanted,
            "{} of {wanted} packets of strangers came in",
            passed(world)? - wanted
        );
        Ok(())
    })
}
