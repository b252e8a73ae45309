//! Handshakes of clients that are far away, while a flood of SYNs fills the table of unconfirmed flows: they succeed. The clients
//! are made by hand, since a lab has no distance: they send the segment that ends the handshake when a round trip is over.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket},
};

use super::{
    Progress,
    flood::{self, Flood},
    load, message,
    packets::{ACK, RST, Raw, SYN, Segment},
    quiet,
    report::Check,
    rig::Rig,
};
use crate::{
    lab::{CLIENT, CLIENT_V4},
    run, wait,
};

/// SYNs in a second.
const RATE: u32 = 20_000;
/// From a client to a backend and back.
const ROUND_TRIP: Duration = Duration::from_millis(300);
/// Between two clients.
const PAUSE: Duration = Duration::from_millis(20);
/// Their ports: none that the kernel gives to connections by itself.
const PORTS: std::ops::Range<u16> = 10_000..20_000;
/// A segment that is not answered is sent again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Floods for `duration` next to far clients; what to say about it, and what had to be so.
pub(super) fn run(
    rig: &mut Rig,
    progress: &mut Progress,
    duration: Duration,
) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    flood::make_slots_learn(rig)?;
    flood::swallow_answers(rig)?;
    let client = rig.lab.node(CLIENT)?.clone();
    // The kernel knows nothing of these clients, and would reset what they begin.
    let rules = format!(
        "nft 'table ip far {{ chain out {{ type filter hook output priority 0; policy accept; \
         tcp sport {}-{} tcp flags & rst == rst drop; }}; }}'",
        PORTS.start,
        PORTS.end - 1
    );
    run::capture(client.command("sh").args(["-c", &rules]))?;
    rig.load.book().begin("flood of SYNs, far clients");
    let until = Instant::now() + duration;
    let flood = Flood::begin(rig, RATE, SYN, move |_| Instant::now() < until)?;
    let clients = std::thread::spawn(move || client.enter(|| Far::open()?.run(until)));
    while !flood.is_over() || !clients.is_finished() {
        progress.wait(rig, Instant::now() + Duration::from_millis(500))?;
    }
    let sent = flood.sent()?;
    let (begun, answered, why) =
        clients.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))???;
    let note = format!(
        "{answered} of {begun} handshakes with a round trip of {} ms succeeded next to {sent} SYNs of strangers{}",
        ROUND_TRIP.as_millis(),
        why.map(|why| format!("; {why}")).unwrap_or_default()
    );
    Ok((note.clone(), vec![Check { what: note, good: begun > 0 && answered == begun }]))
}

/// How far a client is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A SYN was sent.
    Begun,
    /// It was answered, with this number; the answer to that is on its way until then.
    Far(u32, Instant),
    /// The handshake is over, and the request was sent.
    Asked(u32),
}

#[derive(Debug)]
struct Client {
    stage: Stage,
    /// When something was sent last.
    sent: Instant,
    begun: Instant,
}

/// All clients that are under way.
struct Far {
    raw: Raw,
    heard: OwnedFd,
    clients: HashMap<u16, Client>,
    answered: usize,
    failed: Vec<String>,
}

impl Far {
    fn open() -> Result<Self> {
        let heard = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp);
        let heard = heard.context("no raw socket")?;
        Ok(Self { raw: Raw::open()?, heard, clients: HashMap::new(), answered: 0, failed: Vec::new() })
    }

    /// Begins clients until `until`, and waits for the last; how many were begun and answered, and what became of one that
    /// was not.
    fn run(mut self, until: Instant) -> Result<(usize, usize, Option<String>)> {
        let (mut ports, mut next) = (PORTS, Instant::now());
        let mut begun = 0;
        while Instant::now() < until || !self.clients.is_empty() {
            let now = Instant::now();
            if now >= next && now < until {
                let Some(port) = ports.next() else { break };
                next = now + PAUSE;
                begun += 1;
                self.send(port, SYN, 0, Vec::new())?;
                self.clients.insert(port, Client { stage: Stage::Begun, sent: now, begun: now });
            }
            self.hear()?;
            self.go_on()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok((begun, self.answered, self.failed.pop()))
    }

    /// A segment of a client; its numbers follow from its port.
    fn send(&self, port: u16, flags: u8, acknowledgement: u32, data: Vec<u8>) -> Result<()> {
        let begin = u32::from(port) << 12;
        let sequence = if flags == SYN { begin } else { begin + 1 };
        let (source, destination) = (SocketAddr::new(IpAddr::V4(CLIENT_V4), port), load::address(0));
        let segment = Segment { source, destination, flags, sequence, acknowledgement, data };
        self.raw.send(&segment).map(drop)
    }

    /// Takes in what the service has sent.
    fn hear(&mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            let length = match recv(self.heard.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error).context("cannot hear the service"),
            };
            let Some(heard) = Heard::read(&buffer[..length]) else { continue };
            let Some(client) = self.clients.get_mut(&heard.port) else { continue };
            match client.stage {
                _ if heard.flags & RST != 0 => {
                    self.failed.push(format!("reset after {} ms", client.begun.elapsed().as_millis()));
                    self.clients.remove(&heard.port);
                }
                Stage::Begun if heard.flags == SYN | ACK => {
                    client.stage = Stage::Far(heard.sequence.wrapping_add(1), Instant::now() + ROUND_TRIP);
                }
                Stage::Asked(_) if !heard.data.is_empty() => {
                    let request = message::request(quiet::FIRST + u64::from(heard.port), 1);
                    match quiet::identity(heard.data, &request) {
                        Ok(_) => self.answered += 1,
                        Err(error) => self.failed.push(error.to_string()),
                    }
                    self.clients.remove(&heard.port);
                }
                _ => {}
            }
        }
    }

    /// Sends what is due.
    fn go_on(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut due = Vec::new();
        self.clients.retain(|port, client| {
            if now - client.begun > wait::limit() {
                self.failed.push(format!("no answer in {} s: {:?}", wait::limit().as_secs(), client.stage));
                return false;
            }
            match client.stage {
                Stage::Far(number, at) if at <= now => client.stage = Stage::Asked(number),
                Stage::Begun | Stage::Asked(_) if now - client.sent > AGAIN => {}
                _ => return true,
            }
            client.sent = now;
            due.push((*port, client.stage));
            true
        });
        for (port, stage) in due {
            match stage {
                Stage::Asked(number) => {
                    let request = message::request(quiet::FIRST + u64::from(port), 1);
                    self.send(port, ACK, number, request.to_vec())?;
                }
                _ => self.send(port, SYN, 0, Vec::new())?,
            }
        }
        Ok(())
    }
}

/// A segment of the service.
#[derive(Debug, PartialEq, Eq)]
struct Heard<'a> {
    /// Of the client.
    port: u16,
    flags: u8,
    sequence: u32,
    data: &'a [u8],
}

impl<'a> Heard<'a> {
    /// Reads an IPv4 packet with a segment in it; `None` = it is of something else.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let tcp = packet.get(usize::from(packet.first()? & 15) * 4..)?;
        let two = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
        let data = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
        let (from, port) = (two(0)?, two(2)?);
        let ours = from == load::address(0).port() && PORTS.contains(&port);
        ours.then_some(Self { port, flags: *tcp.get(13)?, sequence, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_of_the_service_is_read_with_its_data() {
        let source = load::address(0);
        let destination = SocketAddr::new(IpAddr::V4(CLIENT_V4), PORTS.start);
        let data = vec![1, 2, 3];
        let segment =
            Segment { source, destination, flags: SYN | ACK, sequence: 7, acknowledgement: 8, data };
        let packet = segment.bytes().unwrap();
        let wanted = Heard { port: PORTS.start, flags: SYN | ACK, sequence: 7, data: &[1, 2, 3] };
        assert_eq!(Heard::read(&packet), Some(wanted));
        assert_eq!(Heard::read(&packet[..30]), None);
        let other = Segment { source: destination, destination: source, ..segment };
        assert_eq!(Heard::read(&other.bytes().unwrap()), None, "it is of a client");
    }
}
