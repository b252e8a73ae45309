//! TCP connections of the client: long-lived ones that ask several times a second, and short ones that ask once.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use mio::{Interest, Token, net::TcpStream};

use super::{
    load::{Alarm, Hands, LONG_PAUSE, PAUSE, address},
    message::{self, ANSWER, Identity},
    world::LONE,
};

/// A connection that has waited longer than this for an answer is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the handshake: SYNs are repeated after 1, 3 and 7 s.
const CONNECT: Duration = Duration::from_secs(30);
/// Half of the long-lived connections live until the run ends, the others for as long as one of these.
const LIVES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(600)];
/// Before a connection is opened again.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(800)];
/// So many short requests are under way at most.
const SHORT: usize = 1000;
/// One short request in so many goes to the service with a single backend.
const TO_LONE: u64 = 10;

enum State {
    Connecting,
    /// For the answer to the request with the connection's present number.
    Waiting,
    Idle,
}

struct Connection {
    stream: TcpStream,
    service: usize,
    /// Never used twice: what names another number means one that was here before.
    number: u64,
    asked: u64,
    state: State,
    /// When the present state began, for `Waiting` when it asked.
    since: Instant,
    begun: Instant,
    identity: Option<Identity>,
    answer: [u8; ANSWER],
    filled: usize,
    pause: Duration,
    /// When the client closes it; `None` = when the run ends.
    until: Option<Instant>,
    short: bool,
}

/// All of them: the long-lived ones in the first places.
pub(super) struct Tcp {
    places: Vec<Option<Connection>>,
    long: usize,
    free: Vec<usize>,
}

/// What is left to do with a connection after something happened.
enum Next {
    GoOn,
    /// The client has had what it wanted.
    Close,
    Ended(String),
}

impl Tcp {
    pub(super) fn new(long: usize) -> Self {
        let places = std::iter::repeat_with(|| None).take(long + SHORT).collect();
        Self { places, long, free: (long..long + SHORT).collect() }
    }

    /// Opens the long-lived connection of a place, every other one over IPv6.
    pub(super) fn open_long(&mut self, place: usize, hands: &mut Hands<'_>) {
        let mortal = hands.rng.bool();
        let until = mortal.then(|| Instant::now() + hands.between(LIVES[0], LIVES[1]));
        let pause = if hands.rng.u32(0..10) == 0 { LONG_PAUSE } else { PAUSE };
        if !self.open(place, place % 2, until, pause, hands) {
            self.again(place, hands);
        }
    }

    pub(super) fn open_short(&mut self, hands: &mut Hands<'_>) {
        let Some(place) = self.free.pop() else {
            hands.book.failed(Instant::now(), 0, None, "too many requests are under way");
            return;
        };
        let turn = *hands.next;
        let service = if turn.is_multiple_of(TO_LONE) { LONE } else { hands.rng.usize(0..2) };
        if !self.open(place, service, None, PAUSE, hands) {
            self.again(place, hands);
        }
    }

    fn open(
        &mut self,
        place: usize,
        service: usize,
        until: Option<Instant>,
        pause: Duration,
        hands: &mut Hands<'_>,
    ) -> bool {
        let number = hands.number();
        let now = Instant::now();
        let opened = TcpStream::connect(address(service)).and_then(|mut stream| {
            stream.set_nodelay(true)?;
            let interests = Interest::READABLE | Interest::WRITABLE;
            hands.registry.register(&mut stream, Token(place), interests).map(|()| stream)
        });
        match opened {
            Ok(stream) => {
                self.places[place] = Some(Connection {
                    stream,
                    service,
                    number,
                    asked: 0,
                    state: State::Connecting,
                    since: now,
                    begun: now,
                    identity: None,
                    answer: [0; ANSWER],
                    filled: 0,
                    pause,
                    until,
                    short: place >= self.long,
                });
                true
            }
            Err(error) => {
                hands.book.failed(now, service, None, &format!("cannot open: {error}"));
                false
            }
        }
    }

    /// A place is free: for another short request, or for its next long-lived connection.
    fn again(&mut self, place: usize, hands: &mut Hands<'_>) {
        if place >= self.long {
            self.free.push(place);
        } else {
            let pause = hands.between(AGAIN[0], AGAIN[1]);
            hands.at(Instant::now() + pause, Alarm::Open(place));
        }
    }

    /// Something happened at a socket.
    pub(super) fn ready(&mut self, place: usize, hands: &mut Hands<'_>) {
        let Some(Some(connection)) = self.places.get_mut(place) else { return };
        let next = connection.ready(place, hands);
        self.after(place, next, hands);
    }

    /// The time of the next request has come.
    pub(super) fn send(&mut self, place: usize, number: u64, hands: &mut Hands<'_>) {
        let Some(Some(connection)) = self.places.get_mut(place) else { return };
        if connection.number != number || !matches!(connection.state, State::Idle) {
            return;
        }
        let next = if connection.until.is_some_and(|until| until <= Instant::now()) {
            Next::Close
        } else {
            connection.ask()
        };
        self.after(place, next, hands);
    }

    /// Looks for what has waited too long, and for what is to leave its backend.
    pub(super) fn look(&mut self, hands: &mut Hands<'_>) {
        let now = Instant::now();
        for place in 0..self.places.len() {
            let Some(connection) = self.places.get(place).and_then(Option::as_ref) else { continue };
            let waited = now.saturating_duration_since(connection.since);
            let leaves = connection
                .identity
                .is_some_and(|identity| hands.book.leaving.contains(&(connection.service, identity.backend)));
            let next = match connection.state {
                State::Idle if leaves => Next::Close,
                State::Waiting if waited > PATIENCE => {
                    Next::Ended(format!("silent for {} s", PATIENCE.as_secs()))
                }
                State::Connecting if waited > CONNECT => {
                    Next::Ended(format!("no handshake within {} s", CONNECT.as_secs()))
                }
                _ => continue,
            };
            self.after(place, next, hands);
        }
    }

    fn after(&mut self, place: usize, next: Next, hands: &mut Hands<'_>) {
        let taken = match next {
            Next::GoOn => return,
            Next::Close | Next::Ended(_) => self.places.get_mut(place).and_then(Option::take),
        };
        let Some(connection) = taken else { return };
        let Connection { service, identity, since, short, .. } = connection;
        let next = match next {
            Next::Ended(why) => Next::Ended(format!("{why}, from {}", connection.from())),
            next => next,
        };
        match (next, identity) {
            (Next::Ended(why), Some(identity)) if !short => {
                let at = if matches!(connection.state, State::Waiting) { since } else { Instant::now() };
                hands.book.ended(at, service, identity, &why);
            }
            (Next::Ended(why), identity) => hands.book.failed(since, service, identity, &why),
            (_, Some(identity)) if !short => hands.book.count(service, identity, -1),
            _ => {}
        }
        self.again(place, hands);
    }
}

impl Connection {
    fn ready(&mut self, place: usize, hands: &mut Hands<'_>) -> Next {
        if matches!(self.state, State::Connecting) {
            match self.stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Next::Ended(format!("connecting: {error}")),
            }
            // Ready for something else than the end of the handshake.
            if self.stream.peer_addr().is_err() {
                return Next::GoOn;
            }
            if let ended @ Next::Ended(_) = self.ask() {
                return ended;
            }
        }
        loop {
            match self.stream.read(&mut self.answer[self.filled..]) {
                Ok(0) => return Next::Ended("closed by the other side".to_owned()),
                Ok(length) => self.filled += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::GoOn,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Next::Ended(error.to_string()),
            }
            if self.filled == ANSWER {
                self.filled = 0;
                match self.answered(place, hands) {
                    Next::GoOn => {}
                    other => return other,
                }
            }
        }
    }

    /// Its own end, which tells it from all others.
    fn from(&self) -> String {
        self.stream.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    /// Sends the next request; it fits into the socket's buffer, which is empty.
    fn ask(&mut self) -> Next {
        self.asked += 1;
        self.state = State::Waiting;
        self.since = Instant::now();
        match self.stream.write(&message::request(self.number, self.asked)) {
            Ok(message::REQUEST) => Next::GoOn,
            Ok(length) => Next::Ended(format!("only {length} bytes could be sent")),
            Err(error) => Next::Ended(error.to_string()),
        }
    }

    fn answered(&mut self, place: usize, hands: &mut Hands<'_>) -> Next {
        let right = message::read(&self.answer)
            .filter(|(_, request)| *request == message::request(self.number, self.asked));
        let (Some((identity, _)), State::Waiting) = (right, &self.state) else {
            return Next::Ended("the answer is not the one to its request".to_owned());
        };
        let now = Instant::now();
        match self.identity {
            _ if self.short => {
                hands.book.requested(self.begun, now - self.begun);
                self.identity = Some(identity);
                return Next::Close;
            }
            None => {
                hands.book.totals.connections += 1;
                hands.book.totals.answers += 1;
                hands.book.count(self.service, identity, 1);
            }
            Some(before) => {
                hands.book.answered(self.since, now - self.since);
                if before != identity {
                    hands.book.switched(self.since, self.service, before, identity);
                }
            }
        }
        self.identity = Some(identity);
        self.state = State::Idle;
        let due = self.since + hands.about(self.pause);
        self.since = now;
        if hands.book.leaving.contains(&(self.service, identity.backend)) {
            return Next::Close;
        }
        hands.at(due, Alarm::Send(place, self.number));
        Next::GoOn
    }
}
