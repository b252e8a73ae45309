//! A stranger who knows the addresses and ports of every live connection, and sends what it likes in their name, with numbers it
//! can only guess: nothing of it moves or ends a connection, whatever the state of its slot and the balance of its service.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Progress, flood, load,
    packets::{self, ACK, FIN, RST, SYN, Segment},
    report::Check,
    rig::Rig,
    script::Act,
    world::SERVICES,
};
use crate::{
    lab::{CLIENT, Node},
    run, wait,
};

/// What is forged, one after the other; the SYNs meet what the others have left behind. Each kind has the same numbers again,
/// on the same tuples while the connections are the same ones: so segments that fit each other are tried, too.
const KINDS: [(&str, u8); 7] = [
    ("SYN", SYN),
    ("FIN", FIN | ACK),
    ("SYN", SYN),
    ("RST", RST),
    ("SYN", SYN),
    ("ACK", ACK),
    ("SYN+FIN", SYN | FIN),
];
/// Of each kind.
const COUNT: u64 = 10_000;
/// In a second.
const RATE: u32 = 20_000;

/// Balances of a service that records every flow, and the state of things that each is.
const BALANCES: [(&str, &str); 3] = [
    ("least-connections", "forged, least connections"),
    ("round-robin", "forged, by turns"),
    ("random", "forged, by chance"),
];

/// Forges in every state; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    let mut sent = 0;
    sent += forge(rig, progress, "forged, stable slots", "stable")?.sent;
    flood::change_owners(rig)?;
    let forged = forge(rig, progress, "forged, learning slots", "learning")?;
    let learning = forged.slots;
    sent += forged.sent;
    wait::until("no slot of the service with the short window learns", wait::limit() * 2, || {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
        let learning = slots(rig, "learning")?;
        Ok(if learning == 0 { Ok(()) } else { Err(format!("{learning} slots do")) })
    })?;
    let forged = forge(rig, progress, "forged, remembering slots", "remembering")?;
    let remembering = forged.slots;
    sent += forged.sent;
    for service in [0, 1] {
        rig.carry_out(&Act::Undrain { service, backend: 1 })?;
    }
    for (balance, label) in BALANCES {
        for kind in &SERVICES[..2] {
            rig.agent.ctl(&["service", "set", kind.name, "--track", "always", "--balance", balance])?;
        }
        // Long enough for every connection to be recorded.
        progress.wait(rig, Instant::now() + load::LONG_PAUSE + Duration::from_secs(2))?;
        sent += forge(rig, progress, label, "stable")?.sent;
    }
    let note = format!(
        "{sent} segments were forged; at that time {learning} slots learned, {remembering} remembered"
    );
    let states = Check { what: note.clone(), good: learning > 0 && remembering > 0 };
    Ok((note, vec![states]))
}

/// What was forged.
struct Forged {
    /// Segments.
    sent: u64,
    /// Slots of the first service in the state that is tried, the most that were counted between two kinds. Not later:
    /// with a short window they leave the state while the connections answer.
    slots: u64,
}

/// Sends every kind in the name of every live connection, to slots that are in `state`.
fn forge(rig: &mut Rig, progress: &mut Progress, label: &'static str, state: &str) -> Result<Forged> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let client = rig.lab.node(CLIENT)?.clone();
    rig.load.book().begin(label);
    let mut forged = Forged { sent: 0, slots: 0 };
    for (kind, flags) in KINDS {
        let tuples = connections(&client)?;
        ensure!(!tuples.is_empty(), "there is no connection to forge {kind} of");
        let next = |rng: &mut fastrand::Rng| {
            let (source, destination) = tuples[rng.usize(..tuples.len())];
            let (sequence, acknowledgement) = (rng.u32(..), rng.u32(..));
            Segment { source, destination, flags, sequence, acknowledgement, data: Vec::new() }
        };
        forged.sent += client.enter(|| packets::send(RATE, |sent| sent < COUNT, next))??;
        forged.slots = forged.slots.max(slots(rig, state)?);
    }
    // Those that are silent for long ask again.
    progress.wait(rig, Instant::now() + load::LONG_PAUSE + Duration::from_secs(2))?;
    Ok(forged)
}

/// Both ends of every established connection to a service, as the client has them.
fn connections(client: &Node) -> Result<Vec<(SocketAddr, SocketAddr)>> {
    let text = run::capture(client.command("ss").args(["-Htn", "state", "established"]))?;
    let services = [0, 1].map(load::address);
    Ok(read(&text).filter(|(_, to)| services.contains(to)).collect())
}

fn read(text: &str) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
    text.lines().filter_map(|line| {
        let mut ends = line.split_whitespace().rev().filter_map(|word| word.parse().ok());
        let (to, from) = (ends.next()?, ends.next()?);
        Some((from, to))
    })
}

/// Slots of the first service in a state.
fn slots(rig: &Rig, state: &str) -> Result<u64> {
    let shown = rig.agent.ctl(&["service", "show", SERVICES[0].name])?;
    shown["slot_states"][state]
        .as_u64()
        .with_context(|| format!("it is not said how many are {state}: {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_connection_are_read_in_both_families() {
        let text = "0      0       198.51.100.2:40000  203.0.113.10:7   \n\
                    0      0      [2001:db8:c::2]:5000 [2001:db8::10]:7 \nnonsense\n";
        let ends = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
        let wanted =
            [ends("198.51.100.2:40000", "203.0.113.10:7"), ends("[2001:db8:c::2]:5000", "[2001:db8::10]:7")];
        assert_eq!(read(text).collect::<Vec<_>>(), wanted);
    }
}
