//! What the watcher knows and what it has to tell and to ask: a function of events, answers and time. No sockets and
//! no waiting here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Hop, Hops, Lower, NetEvent, Seeds,
    fib::Entry,
    message::{Event, Route},
    resolve::{Ask, Last, Lookup, resolve},
    services::Services,
    tables::{Change, Key, Link, Neighbour, Tables},
};

/// From the first change to acting on it: changes come in swarms.
const DEBOUNCE: Duration = Duration::from_millis(25);
/// How long a newly tracked address may stay unreported while its neighbour is asked: one that answers is then reported
/// once, resolved, instead of twice.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// Each resolved neighbour is asked after once in this many ticks (seconds). The kernel forgets one that was not used
/// for 60 s, and what XDP sends is no use it sees.
const REFRESH_TICKS: usize = 25;
/// Neighbours that do not answer are asked again each tick, this many at most: thousands of dead backends must not
/// become a storm of ARP requests.
const RETRIES: usize = 256;

pub(super) struct State {
    /// Interfaces whose comings and goings are reported.
    interfaces: Vec<String>,
    /// What was known before anything was asked, of addresses to which no way was reported yet.
    seeds: Seeds,
    /// What was last reported of each.
    reported: HashMap<String, Attach>,
    tables: Tables,
    tracked: BTreeMap<IpAddr, Tracked>,
    /// Neighbours that were asked for since they were needed and unknown.
    asked: HashSet<Key>,
    /// Neighbours the kernel refused to ask for, with the error number.
    refused: HashMap<Key, i32>,
    /// When the first change came that was not acted upon.
    dirty: Option<Instant>,
    /// When an address runs out of [`PATIENCE`].
    impatient: Option<Instant>,
    /// Nothing is done before: leaves the machine to others when routes change all the time.
    not_before: Option<Instant>,
    ticks: usize,
    /// Where the next round of retries goes on.
    retry_from: Option<Key>,
    links_to_tell: VecDeque<NetEvent>,
    /// All addresses of this host were read once.
    addresses_known: bool,
    /// Addresses of this host as they were reported.
    hosts: Option<BTreeSet<IpAddr>>,
    hosts_to_tell: bool,
    pub(super) services: Services,
    hops_to_tell: bool,
}

struct Tracked {
    since: Instant,
    lookup: Option<Lookup>,
    /// The lookup is out of date.
    stale: bool,
    /// What was reported, or is about to be; `None` = nothing yet.
    hop: Option<Result<Hop, String>>,
    note: Option<String>,
    ask: Ask,
}

/// An interface as the agent's attaching sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Attach {
    index: Option<u32>,
    mac: Option<[u8; 6]>,
    up: bool,
    mtu: u32,
    below: Vec<Lower>,
}

impl State {
    pub(super) fn new(interfaces: Vec<String>, seeds: Seeds) -> Self {
        Self {
            interfaces,
            seeds,
            reported: HashMap::new(),
            tables: Tables::default(),
            tracked: BTreeMap::new(),
            asked: HashSet::new(),
            refused: HashMap::new(),
            dirty: None,
            impatient: None,
            not_before: None,
            ticks: 0,
            retry_from: None,
            links_to_tell: VecDeque::new(),
            addresses_known: false,
            hosts: None,
            hosts_to_tell: false,
            services: Services::default(),
            hops_to_tell: false,
        }
    }

    /// Replaces the set of addresses.
    pub(super) fn track(&mut self, addresses: &[IpAddr], now: Instant) {
        let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let before = self.tracked.len();
        self.tracked.retain(|address, _| wanted.contains(address));
        self.hops_to_tell |= self.tracked.len() != before;
        for address in wanted {
            self.tracked.entry(address).or_insert_with(|| {
                // Asked for by somebody who waits: no debounce.
                self.dirty = Some(now.checked_sub(DEBOUNCE).unwrap_or(now));
                Tracked { since: now, lookup: None, stale: true, hop: None, note: None, ask: Ask::Nothing }
            });
        }
    }

    pub(super) fn apply(&mut self, event: Event, now: Instant) {
        let change = self.tables.apply(event);
        self.changed(&change, now);
    }

    pub(super) fn replace_links(&mut self, links: HashMap<u32, Link>, now: Instant) {
        let change = self.tables.replace_links(links);
        self.changed(&change, now);
    }

    pub(super) fn replace_neighbours(&mut self, neighbours: HashMap<Key, Neighbour>, now: Instant) {
        let change = self.tables.replace_neighbours(neighbours);
        self.changed(&change, now);
    }

    /// To be followed by [`State::distrust_routes`].
    pub(super) fn replace_addresses(&mut self, addresses: BTreeSet<Key>) {
        self.tables.replace_addresses(addresses);
        self.addresses_known = true;
    }

    /// Every route is to be looked up again.
    pub(super) fn distrust_routes(&mut self, now: Instant) {
        self.changed(&Change::Routes, now);
    }

    /// The way to the addresses of services is to be looked up again.
    pub(super) fn distrust_services(&mut self, now: Instant) {
        self.services.distrust(|_| true);
        self.dirty.get_or_insert(now);
    }

    fn changed(&mut self, change: &Change, now: Instant) {
        let of_services = match *change {
            Change::Nothing | Change::Hops => false,
            Change::Routes => self.services.distrust(|_| true),
            Change::Prefix(prefix, length) => self.services.distrust(|ip| within(ip, prefix, length)),
        };
        match *change {
            Change::Nothing => return,
            Change::Hops => {}
            Change::Routes => self.tracked.values_mut().for_each(|tracked| tracked.stale = true),
            Change::Prefix(prefix, length) => {
                let mut hit = false;
                for (_, tracked) in self.tracked.iter_mut().filter(|(a, _)| within(**a, prefix, length)) {
                    tracked.stale = true;
                    hit = true;
                }
                if !hit && !of_services {
                    return;
                }
            }
        }
        self.dirty.get_or_insert(now);
    }

    /// When [`State::stale`] and [`State::settle`] are due.
    pub(super) fn wake(&self) -> Option<Instant> {
        let dirty = self.dirty.map(|dirty| dirty + DEBOUNCE);
        let due = [dirty, self.impatient].into_iter().flatten().min()?;
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// The addresses whose routes are to be looked up.
    pub(super) fn stale(&self) -> Vec<IpAddr> {
        self.tracked.iter().filter(|(_, tracked)| tracked.stale).map(|(&address, _)| address).collect()
    }

    pub(super) fn looked_up(&mut self, address: IpAddr, lookup: Lookup) {
        if let Some(tracked) = self.tracked.get_mut(&address) {
            tracked.lookup = Some(lookup);
            tracked.stale = false;
        }
    }

    /// The addresses to which a way was found that is to be held against the forwarding tables.
    pub(super) fn found(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let leads_on = |address: &&IpAddr| {
            let lookup = self.tracked.get(address).and_then(|tracked| tracked.lookup.as_ref());
            lookup.is_some_and(|lookup| lookup.as_ref().is_ok_and(Route::leads_on))
        };
        addresses.iter().filter(leads_on).copied().collect()
    }

    /// Takes in what the forwarding tables say of the way that was found; `None` = nothing, so that what may have been learned is
    /// not believed.
    pub(super) fn held_against(&mut self, address: IpAddr, entry: Option<&Entry>) {
        let lookup = self.tracked.get_mut(&address).and_then(|tracked| tracked.lookup.as_mut());
        if let Some(Ok(route)) = lookup {
            match entry {
                Some(entry) => entry.correct(route),
                None => route.mtu = None,
            }
        }
    }

    /// Makes next hops out of all that is known, and notes what has to be reported. Returns the neighbours to ask for now.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Key> {
        self.dirty = None;
        self.impatient = None;
        self.settle_links();
        let hosts = self.tables.hosts();
        if self.addresses_known && self.hosts.as_ref() != Some(&hosts) {
            self.hosts = Some(hosts);
            self.hosts_to_tell = true;
        }
        let mut needed = HashSet::new();
        for (&address, tracked) in &mut self.tracked {
            let Some(lookup) = &tracked.lookup else { continue };
            let last = match (&tracked.hop, self.seeds.get(&address)) {
                (Some(Ok(hop)), _) => Last::Hop(hop),
                (None, Some(seed)) => Last::Seed(seed),
                _ => Last::Nothing,
            };
            let mut resolved = resolve(address, lookup, &self.tables, last);
            tracked.ask = resolved.ask;
            let mut waiting = false;
            if let Ask::Resolve(key) | Ask::Wait(key) = resolved.ask {
                needed.insert(key);
                let refused = self.refused.get(&key).map(|&error| refusal(error));
                waiting = refused.is_none() && now < tracked.since + PATIENCE;
                if let (Err(reason), Some(refusal)) = (&mut resolved.hop, refused) {
                    *reason = format!("{reason}: {refusal}");
                }
            }
            if tracked.hop.is_none() && resolved.hop.is_err() && waiting {
                let until = tracked.since + PATIENCE;
                self.impatient = Some(self.impatient.map_or(until, |earlier| earlier.min(until)));
                continue;
            }
            if tracked.hop.as_ref() != Some(&resolved.hop) || tracked.note != resolved.note {
                tracked.hop = Some(resolved.hop);
                tracked.note = resolved.note;
                self.hops_to_tell = true;
            }
        }
        self.asked.retain(|key| needed.contains(key));
        self.refused.retain(|key, _| needed.contains(key));
        let asks = self.tracked.values().filter_map(|tracked| match tracked.ask {
            Ask::Resolve(key) => Some(key),
            _ => None,
        });
        asks.filter(|&key| self.asked.insert(key)).collect()
    }

    /// To be called after the work of a [`State::wake`]: the more it took, the longer nothing is done.
    pub(super) fn rest(&mut self, now: Instant, took: Duration) {
        self.not_before = Some(now + (4 * took).min(Duration::from_millis(300)));
    }

    /// To be called once a second. Returns the neighbours to ask for: some of the fresh ones, and those that do not
    /// answer.
    pub(super) fn tick(&mut self) -> Vec<Key> {
        self.ticks = self.ticks.wrapping_add(1);
        let (mut fresh, mut silent) = (BTreeSet::new(), BTreeSet::new());
        for tracked in self.tracked.values() {
            match tracked.ask {
                Ask::Refresh(key) => {
                    fresh.insert(key);
                }
                Ask::Resolve(key) => {
                    silent.insert(key);
                }
                Ask::Nothing | Ask::Wait(_) => {}
            }
        }
        let turn = self.ticks % REFRESH_TICKS;
        let mut asks: Vec<Key> = fresh.into_iter().skip(turn).step_by(REFRESH_TICKS).collect();
        let from = self.retry_from.take().unwrap_or((0, IpAddr::from([0; 4])));
        let later = silent.range(from..).chain(silent.range(..from));
        let mut later = later.copied();
        asks.extend(later.by_ref().take(RETRIES));
        self.retry_from = later.next();
        asks
    }

    /// Takes in what became of a request for a neighbour: 0, or an error number.
    pub(super) fn asked(&mut self, key: Key, error: i32, now: Instant) {
        let before = if error == 0 { self.refused.remove(&key) } else { self.refused.insert(key, error) };
        if before != (error != 0).then_some(error) {
            self.dirty.get_or_insert(now);
        }
    }

    fn settle_links(&mut self) {
        let vanished = self.tables.take_vanished();
        for name in &self.interfaces {
            let current = self.tables.link_named(name).map_or_else(Attach::default, |(index, link)| Attach {
                index: Some(index),
                mac: link.mac.filter(|_| link.ethernet),
                up: link.up && link.carrier,
                mtu: link.mtu,
                below: self.tables.below(index),
            });
            // Deleted and made again in one moment: what was attached to the old one is gone.
            let replaced = vanished.contains(name)
                && current.index.is_some()
                && self.reported.get(name).is_some_and(|reported| reported.index.is_some());
            if replaced {
                tell(&mut self.links_to_tell, name, &Attach::default());
            }
            if replaced || self.reported.get(name) != Some(&current) {
                tell(&mut self.links_to_tell, name, &current);
                self.reported.insert(name.clone(), current);
            }
        }
    }

    pub(super) fn has_news(&self) -> bool {
        self.hops_to_tell || self.hosts_to_tell || self.services.has_news() || !self.links_to_tell.is_empty()
    }

    /// The next thing to tell.
    pub(super) fn news(&mut self) -> Option<NetEvent> {
        if let Some(event) = self.links_to_tell.pop_front() {
            return Some(event);
        }
        if std::mem::take(&mut self.hosts_to_tell) {
            return self.hosts.clone().map(NetEvent::Addresses);
        }
        if let Some(onward) = self.services.news() {
            return Some(NetEvent::Forwarded(onward));
        }
        if !std::mem::take(&mut self.hops_to_tell) {
            return None;
        }
        let mut hops = Hops::default();
        for (&address, tracked) in &self.tracked {
            if let Some(hop) = &tracked.hop {
                hops.hops.insert(address, hop.clone());
            }
            if let Some(note) = &tracked.note {
                hops.notes.insert(address, note.clone());
            }
        }
        Some(NetEvent::Hops(hops))
    }

    /// Addresses tracked, and how many of them have a next hop.
    pub(super) fn count(&self) -> (usize, usize) {
        let resolved = self.tracked.values().filter(|tracked| matches!(tracked.hop, Some(Ok(_)))).count();
        (self.tracked.len(), resolved)
    }
}

/// Queues the last word on an interface. An earlier one that was not taken is not worth reporting any more, unless it said
/// that the interface was gone: at most two words per interface wait.
fn tell(queue: &mut VecDeque<NetEvent>, name: &str, attach: &Attach) {
    let about = |event: &NetEvent| match event {
        NetEvent::Link { name: other, index, .. } if other == name => Some(*index),
        _ => None,
    };
    queue.retain(|event| !matches!(about(event), Some(Some(_))));
    if attach.index.is_some() || !queue.iter().any(|event| about(event).is_some()) {
        queue.push_back(attach.event(name));
    }
}

impl Attach {
    fn event(&self, name: &str) -> NetEvent {
        let Self { index, mac, up, mtu, below } = self.clone();
        NetEvent::Link { name: name.to_owned(), index, mac, up, mtu, below }
    }
}

/// Why the kernel would not ask, in words.
fn refusal(error: i32) -> String {
    match error {
        libc::ENOBUFS => "the neighbour table is full, raise \
                          net.ipv4.neigh.default.gc_thresh3 or net.ipv6.neigh.default.gc_thresh3"
            .into(),
        libc::EPERM => "asking for it needs CAP_NET_ADMIN".into(),
        error => format!("asking for it failed: {}", std::io::Error::from_raw_os_error(error)),
    }
}

fn within(address: IpAddr, prefix: IpAddr, length: u8) -> bool {
    match (address, prefix) {
        (IpAddr::V4(a), IpAddr::V4(p)) => {
            (a.to_bits() ^ p.to_bits()).checked_shr(32 - u32::from(length.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(p)) => {
            (a.to_bits() ^ p.to_bits()).checked_shr(128 - u32::from(length.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
