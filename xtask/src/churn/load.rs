//! The traffic: one thread in the client's namespace with all connections and flows, waiting in one place. What a
//! connection does is in [`tcp`](super::tcp), what a flow of datagrams does in [`udp`](super::udp).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use fastrand::Rng;
use mio::{Events, Poll, Registry};

use super::{book::Book, tcp::Tcp, udp::Udp, world::SERVICES};
use crate::{
    lab::{Node, VIP_V4, VIP_V6},
    wait,
};

/// How much traffic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    /// Long-lived TCP connections.
    pub(super) connections: usize,
    pub(super) udp_flows: usize,
    /// Short requests in a second, each a connection of its own.
    pub(super) requests: u32,
    pub(super) seed: u64,
}

/// Between two requests on most connections and flows; it varies by a fifth.
pub(super) const PAUSE: Duration = Duration::from_millis(300);
/// The same on one in ten, which are silent for long, but not for as long as any window of the rig.
pub(super) const LONG_PAUSE: Duration = Duration::from_secs(6);
/// How often everything is looked through for what is overdue.
const LOOK: Duration = Duration::from_millis(100);
/// Tokens from here on are flows of datagrams.
pub(super) const UDP_TOKENS: usize = 1 << 20;

/// Something that is due: when, and what.
pub(super) type Due = Reverse<(Instant, Alarm)>;

/// What can be due. The second number says of which connection in that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// The next request of a connection.
    Send(usize, u64),
    /// A long-lived connection is to be opened (again).
    Open(usize),
    /// The next request of a flow.
    SendUdp(usize, u64),
    OpenUdp(usize),
    /// A short request.
    Short,
}

/// What connections and flows need from the thread they live in.
pub(super) struct Hands<'a> {
    pub(super) registry: &'a Registry,
    pub(super) book: &'a mut Book,
    pub(super) rng: &'a mut Rng,
    pub(super) due: &'a mut BinaryHeap<Due>,
    /// The number of the next connection or flow, never used twice.
    pub(super) next: &'a mut u64,
}

impl Hands<'_> {
    pub(super) fn at(&mut self, when: Instant, alarm: Alarm) {
        self.due.push(Reverse((when, alarm)));
    }

    pub(super) fn number(&mut self) -> u64 {
        *self.next += 1;
        *self.next
    }

    /// A pause around `usual`.
    pub(super) fn about(&mut self, usual: Duration) -> Duration {
        usual.mul_f64(0.8 + 0.4 * self.rng.f64())
    }

    /// Somewhere between both.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most - least).mul_f64(self.rng.f64())
    }
}

/// Where a service is.
pub(super) fn address(service: usize) -> SocketAddr {
    let kind = SERVICES[service];
    let address: IpAddr = if kind.v6 { VIP_V6.into() } else { VIP_V4.into() };
    SocketAddr::new(address, kind.port)
}

/// The traffic; it ends when this value goes.
#[derive(Debug)]
pub(super) struct Load {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    /// Long-lived connections that are wanted now.
    wanted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Begins to open connections.
    pub(super) fn start(client: &Node, volume: Volume) -> Result<Self> {
        let book = Arc::new(Mutex::new(Book::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let wanted = Arc::new(AtomicUsize::new(volume.connections));
        let (shared, until, client) = (Arc::clone(&book), Arc::clone(&stop), client.clone());
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            client.move_thread()?;
            run(&shared, &until, volume)
        })?;
        Ok(Self { book, stop, wanted, thread: Some(thread) })
    }

    /// The account, held up while the guard lives.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all connections are established; how long that took.
    pub(super) fn wait_until_established(&self) -> Result<Duration> {
        let started = Instant::now();
        let wanted = self.wanted.load(Ordering::Relaxed);
        // So many take longer than one thing.
        wait::until(&format!("{wanted} connections are established"), wait::limit() * 3, || {
            let alive = self.book().tcp_alive();
            self.check()?;
            Ok(if alive >= wanted {
                Ok(started.elapsed())
            } else {
                Err(format!("{alive} are; {}", self.book().incidents.join("\n")))
            })
        })
    }

    /// Fails when the thread has ended before its time.
    pub(super) fn check(&self) -> Result<()> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        anyhow::ensure!(!ended, "the traffic ended by itself; the limit of open files may be too low");
        Ok(())
    }

    /// Ends the traffic; its account.
    pub(super) fn end(mut self) -> Result<Book> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the traffic has ended already")?;
        thread.join().map_err(|_| anyhow::anyhow!("the traffic's thread panicked"))??;
        let empty = Book::new();
        Ok(std::mem::replace(&mut *self.book(), empty))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn run(book: &Mutex<Book>, stop: &AtomicBool, volume: Volume) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(4096);
    let mut rng = Rng::with_seed(volume.seed);
    let mut due: BinaryHeap<Due> = BinaryHeap::new();
    let mut next = 0;
    let mut tcp = Tcp::new(volume.connections);
    let mut udp = Udp::new(volume.udp_flows);
    let begin = Instant::now();
    // A thousand a second, so that no queue on the way is full at once.
    for place in 0..volume.connections {
        due.push(Reverse((begin + Duration::from_millis(place as u64), Alarm::Open(place))));
    }
    for place in 0..volume.udp_flows {
        due.push(Reverse((begin + Duration::from_millis(5 * place as u64), Alarm::OpenUdp(place))));
    }
    let between_requests = Duration::from_secs(1) / volume.requests.max(1);
    if volume.requests > 0 {
        due.push(Reverse((begin, Alarm::Short)));
    }
    let mut look = begin + LOOK;
    while !stop.load(Ordering::Relaxed) {
        let first = due.peek().map_or(look, |Reverse((at, _))| (*at).min(look));
        match poll.poll(&mut events, Some(first.saturating_duration_since(Instant::now()))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        // Held for what has arrived and is due, not while waiting.
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut context = Hands {
            registry: poll.registry(),
            book: &mut book,
            rng: &mut rng,
            due: &mut due,
            next: &mut next,
        };
        for event in &events {
            match event.token().0.checked_sub(UDP_TOKENS) {
                None => tcp.ready(event.token().0, &mut context),
                Some(place) => udp.ready(place, &mut context),
            }
        }
        let now = Instant::now();
        while context.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, alarm))) = context.due.pop() else { break };
            match alarm {
                Alarm::Send(place, number) => tcp.send(place, number, &mut context),
                Alarm::Open(place) => tcp.open_long(place, &mut context),
                Alarm::SendUdp(place, number) => udp.send(place, number, &mut context),
                Alarm::OpenUdp(place) => udp.open(place, &mut context),
                Alarm::Short => {
                    tcp.open_short(&mut context);
                    // What a busy machine held up is not made up for in one burst.
                    context.at((at + between_requests).max(now - Duration::from_millis(50)), Alarm::Short);
                }
            }
        }
        if now >= look {
            tcp.look(&mut context);
            udp.look(&mut context);
            look = now + LOOK;
        }
    }
    Ok(())
}
