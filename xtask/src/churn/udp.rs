//! Flows of datagrams of the client: each a socket with a port of its own, which asks, and asks again when there is no
//! answer, as a resolver does.

use std::time::{Duration, Instant};

use mio::{Interest, Token, net::UdpSocket};

use super::{
    load::{Alarm, Hands, LONG_PAUSE, PAUSE, UDP_TOKENS, address},
    message::{self, ANSWER, Identity},
    world::SERVICES,
};

/// Without an answer for this long, it asks again.
const REPEAT: Duration = Duration::from_millis(500);
/// So many times in all; then the request has failed, and the next one is made.
const TRIES: u32 = 60;
/// A flow lives for between these.
const LIVES: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(300)];
/// Before a flow is opened again whose backend leaves the service: until that is gone, it would land there again.
const AGAIN: Duration = Duration::from_secs(1);

struct Flow {
    socket: UdpSocket,
    service: usize,
    number: u64,
    asked: u64,
    /// When the present request was made first and last, and how often; `None` = it is answered.
    waiting: Option<(Instant, Instant, u32)>,
    identity: Option<Identity>,
    pause: Duration,
    until: Instant,
}

pub(super) struct Udp {
    places: Vec<Option<Flow>>,
}

/// The services over UDP.
fn services() -> Vec<usize> {
    (0..SERVICES.len()).filter(|&service| SERVICES[service].udp).collect()
}

impl Udp {
    pub(super) fn new(flows: usize) -> Self {
        Self { places: std::iter::repeat_with(|| None).take(flows).collect() }
    }

    pub(super) fn open(&mut self, place: usize, hands: &mut Hands<'_>) {
        let services = services();
        let service = services[place % services.len()];
        let now = Instant::now();
        let to = address(service);
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let opened = any.parse().map_err(std::io::Error::other).and_then(|any| {
            let mut socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            let token = Token(UDP_TOKENS + place);
            hands.registry.register(&mut socket, token, Interest::READABLE).map(|()| socket)
        });
        match opened {
            Ok(socket) => {
                let number = hands.number();
                let pause = if hands.rng.u32(0..10) == 0 { LONG_PAUSE } else { PAUSE };
                let until = now + hands.between(LIVES[0], LIVES[1]);
                let identity = None;
                self.places[place] =
                    Some(Flow { socket, service, number, asked: 0, waiting: None, identity, pause, until });
                hands.book.totals.udp_flows += 1;
                self.send(place, number, hands);
            }
            Err(error) => {
                hands.book.failed(now, service, None, &format!("cannot open: {error}"));
                hands.at(now + AGAIN, Alarm::OpenUdp(place));
            }
        }
    }

    /// The time of the next request has come.
    pub(super) fn send(&mut self, place: usize, number: u64, hands: &mut Hands<'_>) {
        let Some(Some(flow)) = self.places.get_mut(place) else { return };
        if flow.number != number || flow.waiting.is_some() {
            return;
        }
        let now = Instant::now();
        if flow.until <= now {
            self.close(place, Duration::ZERO, hands);
            return;
        }
        flow.asked += 1;
        flow.waiting = Some((now, now, 1));
        flow.ask();
    }

    pub(super) fn ready(&mut self, place: usize, hands: &mut Hands<'_>) {
        let Some(Some(flow)) = self.places.get_mut(place) else { return };
        let mut buffer = [0; ANSWER + 1];
        loop {
            let length = match flow.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // A port that is closed, say, while a backend is dead: the request is repeated.
                Err(_) => continue,
            };
            let answer = message::read(&buffer[..length]);
            let Some((identity, request)) = answer else { continue };
            let Some((first, _, _)) = flow.waiting else { continue };
            // An answer to what was asked before and asked again is late, not wrong.
            if message::number(request) != Some(flow.asked)
                || request != message::request(flow.number, flow.asked)
            {
                continue;
            }
            let now = Instant::now();
            match flow.identity {
                Some(before) if before == identity => hands.book.answered(first, now - first),
                Some(before) => hands.book.switched(first, flow.service, before, identity),
                None => hands.book.count(flow.service, identity, 1),
            }
            if flow.identity != Some(identity) {
                hands.book.totals.answers += 1;
            }
            flow.identity = Some(identity);
            flow.waiting = None;
            let due = (first + hands.about(flow.pause)).max(now);
            hands.at(due, Alarm::SendUdp(place, flow.number));
        }
    }

    /// Looks for what has to be repeated, and for what is to leave its backend.
    pub(super) fn look(&mut self, hands: &mut Hands<'_>) {
        let now = Instant::now();
        for place in 0..self.places.len() {
            let Some(Some(flow)) = self.places.get_mut(place) else { continue };
            let leaves = flow
                .identity
                .is_some_and(|identity| hands.book.leaving.contains(&(flow.service, identity.backend)));
            if leaves {
                self.close(place, AGAIN, hands);
                continue;
            }
            let Some((first, last, tries)) = flow.waiting else { continue };
            if now.saturating_duration_since(last) < REPEAT {
                continue;
            }
            if tries < TRIES {
                flow.waiting = Some((first, now, tries + 1));
                flow.ask();
            } else {
                hands.book.failed(first, flow.service, flow.identity, "no answer to 60 datagrams");
                flow.waiting = None;
                hands.at(now, Alarm::SendUdp(place, flow.number));
            }
        }
    }

    fn close(&mut self, place: usize, pause: Duration, hands: &mut Hands<'_>) {
        let Some(flow) = self.places.get_mut(place).and_then(Option::take) else { return };
        if let Some(identity) = flow.identity {
            hands.book.count(flow.service, identity, -1);
        }
        hands.at(Instant::now() + pause, Alarm::OpenUdp(place));
    }
}

impl Flow {
    /// What cannot be sent is like what is lost: it is repeated.
    fn ask(&self) {
        self.socket.send(&message::request(self.number, self.asked)).ok();
    }
}
