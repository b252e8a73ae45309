//! The watcher's task: keeps a conversation with the kernel going and passes on what `state` makes of it. When the
//! conversation breaks, what was known stays in force and a new one is begun.

use crate::config::words::plural;
use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE};
use netlink_packet_route::AddressFamily;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    NetEvent, Seeds, fib,
    message::{self, Event},
    netlink::{Answer, Socket},
    state::State,
    tables::{Key, Link, Neighbour},
};

const TICK: Duration = Duration::from_secs(1);
/// Everything is read again this often whatever the kernel tells: an event that was missed or misread must not matter for
/// ever.
const RECHECK_TICKS: u32 = 30;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Events that may wait for the agent; hops that wait beyond that are reported in one.
const EVENTS: usize = 16;

/// Watches links, routes and neighbours of the network namespace it was started in.
pub struct Watcher;

/// The way to tell a [`Watcher`] what to watch. Dropping it ends the watcher.
pub struct Handle {
    addresses: watch::Sender<Arc<[IpAddr]>>,
    services: watch::Sender<Arc<[IpAddr]>>,
}

/// Replaces a set of addresses. Order and repetition do not matter, and the same set again wakes no task.
fn replace(set: &watch::Sender<Arc<[IpAddr]>>, mut addresses: Vec<IpAddr>) {
    addresses.sort_unstable();
    addresses.dedup();
    set.send_if_modified(|current| {
        let differs = **current != *addresses;
        if differs {
            *current = addresses.into();
        }
        differs
    });
}

impl Handle {
    /// Replaces the set of addresses whose next hops are reported.
    pub fn track(&self, addresses: Vec<IpAddr>) {
        replace(&self.addresses, addresses);
    }

    /// Replaces the set of addresses of services, for which the watcher reports where this host would forward packets.
    pub fn track_services(&self, addresses: Vec<IpAddr>) {
        replace(&self.services, addresses);
    }
}

impl Watcher {
    /// Starts the watcher's task on the current tokio runtime. It tells of each of `interfaces` once at the start,
    /// there or not, then of every change. `seeds` is what is known already.
    pub fn spawn(interfaces: Vec<String>, seeds: Seeds) -> (Handle, mpsc::Receiver<NetEvent>) {
        let (addresses, wanted) = watch::channel(Arc::from([]));
        let (services, of_services) = watch::channel(Arc::from([]));
        let (events, receiver) = mpsc::channel(EVENTS);
        let task = Task { state: State::new(interfaces, seeds), wanted, of_services, events };
        tokio::spawn(task.run());
        (Handle { addresses, services }, receiver)
    }
}

struct Task {
    state: State,
    wanted: watch::Receiver<Arc<[IpAddr]>>,
    of_services: watch::Receiver<Arc<[IpAddr]>>,
    events: mpsc::Sender<NetEvent>,
}

/// Why a conversation ended.
enum End {
    /// The receiver is gone.
    Dropped,
    Broken(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Task {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let Err(End::Broken(error)) = self.converse().await else { return };
            if begun.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            log::warn!(
                "netlink: {error}; what is known of links and next hops stays, next attempt in {pause:?}"
            );
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    async fn converse(&mut self) -> Result<(), End> {
        // Listening begins before the dump, so that no change falls between them.
        let mut listening = Socket::listening()?;
        let mut asking = Socket::asking()?;
        self.resync(&mut asking).await?;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        let events = self.events.clone();
        loop {
            let wake = self.state.wake();
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Err(End::Dropped);
                    }
                    let addresses = Arc::clone(&self.wanted.borrow_and_update());
                    self.state.track(&addresses, Instant::now());
                }
                changed = self.of_services.changed() => {
                    if changed.is_err() {
                        return Err(End::Dropped);
                    }
                    let addresses = Arc::clone(&self.of_services.borrow_and_update());
                    self.state.services.track(&addresses);
                    self.state.distrust_services(Instant::now());
                }
                result = listening.receive(|kind, payload| {
                    if let Some(event) = message::event(kind, payload) {
                        self.state.apply(event, Instant::now());
                    }
                }) => {
                    if let Err(error) = result {
                        if !lost(&error) {
                            return Err(error.into());
                        }
                        log::info!("netlink: notifications were lost ({error}), reading everything again");
                        listening.drain()?;
                        self.resync(&mut asking).await?;
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.work(&mut asking).await?;
                }
                _ = ticks.tick() => {
                    count = count.wrapping_add(1);
                    if count.is_multiple_of(RECHECK_TICKS) {
                        self.resync(&mut asking).await?;
                    }
                    let keys = self.state.tick();
                    self.ask(&mut asking, &keys).await?;
                }
                permit = events.reserve(), if self.state.has_news() => {
                    let Ok(permit) = permit else { return Err(End::Dropped) };
                    if let Some(event) = self.state.news() {
                        permit.send(event);
                    }
                }
            }
        }
    }

    /// Looks up what is out of date and makes next hops of it.
    async fn work(&mut self, asking: &mut Socket) -> io::Result<()> {
        let begun = Instant::now();
        let stale = self.state.stale();
        let state = &mut self.state;
        asking
            .exchange(&stale, message::route_request, 0, |address, answer| {
                let lookup = match answer {
                    Answer::Message(payload) => message::route(payload).ok_or(libc::EBADMSG),
                    Answer::Status(error) => Err(error),
                };
                state.looked_up(address, lookup);
            })
            .await?;
        let found = state.found(&stale);
        asking
            .exchange(&found, fib::request, 0, |address, answer| {
                let entry = match answer {
                    Answer::Message(payload) => fib::entry(payload),
                    Answer::Status(_) => None,
                };
                state.held_against(address, entry.as_ref());
            })
            .await?;
        let (services, mut onward) = (self.state.services.stale(), BTreeSet::new());
        asking
            .exchange(&services, message::route_request, 0, |address, answer| {
                if let Answer::Message(payload) = answer
                    && message::route(payload).is_some_and(|route| route.leads_on())
                {
                    onward.insert(address);
                }
            })
            .await?;
        self.state.services.looked_up(&services, &onward);
        let keys = self.state.settle(Instant::now());
        self.ask(asking, &keys).await?;
        let took = begun.elapsed();
        if !stale.is_empty() {
            let (tracked, resolved) = self.state.count();
            log::debug!(
                "looked up {}, asked for {} in {took:?}; {resolved} of {tracked} have a next hop",
                plural(stale.len() as u64, "route", "routes"),
                plural(keys.len() as u64, "neighbour", "neighbours")
            );
        }
        self.state.rest(Instant::now(), took);
        Ok(())
    }

    async fn ask(&mut self, asking: &mut Socket, keys: &[Key]) -> io::Result<()> {
        let state = &mut self.state;
        asking
            .exchange(keys, message::neighbour_request, NLM_F_ACK | NLM_F_CREATE, |key, answer| {
                if let Answer::Status(error) = answer {
                    state.asked(key, error, Instant::now());
                }
            })
            .await
    }

    /// Reads all tables and distrusts all routes.
    async fn resync(&mut self, asking: &mut Socket) -> io::Result<()> {
        let dump = asking.dump(message::link_dump(), |table: &mut HashMap<u32, Link>, kind, payload| {
            if let Some(Event::Link(index, link)) = message::event(kind, payload) {
                table.insert(index, link);
            }
        });
        self.state.replace_links(dump.await?, Instant::now());
        let mut neighbours: HashMap<Key, Neighbour> = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let dump =
                asking.dump(message::neighbour_dump(family), |table: &mut HashMap<_, _>, kind, payload| {
                    if let Some(Event::Neighbour(key, neighbour)) = message::event(kind, payload) {
                        table.insert(key, neighbour);
                    }
                });
            neighbours.extend(dump.await?);
        }
        self.state.replace_neighbours(neighbours, Instant::now());
        let dump = asking.dump(message::address_dump(), |all: &mut BTreeSet<Key>, kind, payload| {
            if let Some(Event::Address(index, address)) = message::event(kind, payload) {
                all.insert((index, address));
            }
        });
        self.state.replace_addresses(dump.await?);
        self.state.distrust_routes(Instant::now());
        Ok(())
    }
}

fn lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS) || error.kind() == io::ErrorKind::InvalidData
}

#[cfg(test)]
mod tests;
