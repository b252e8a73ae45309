//! Random histories of changes, failures, restarts and sweeps with clients that go on talking. A flow whose backend
//! lives never changes its backend. A flow that sent nothing while its backend was down for a moment finds it again.

use std::collections::HashMap;

use lb_common::flow_table::Role;
use proptest::prelude::*;

use super::*;
use crate::reconcile::Sweep;

/// A generator with a seed, so that the number of a failing history is enough to repeat it.
struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Flow {
    backend: IpAddr,
    next: u64,
    ends: u64,
}

struct World {
    random: Random,
    reconciler: Reconciler<Twin>,
    wish: Wish,
    flows: HashMap<u32, Flow>,
    /// Clients whose flow was cut, and that connect again.
    again: Vec<u32>,
    seconds: u64,
    clients: u32,
    served: u64,
    tracked: bool,
    /// A sweep that is under way while everything else goes on.
    sweep: Option<Sweep>,
    swept: u64,
    /// Backends that are down, and since which second.
    down: HashMap<IpAddr, u64>,
}

const SERVICE: u8 = 1;

impl World {
    fn new(seed: u64) -> Self {
        let wish = wish("web", SERVICE, 29, &[(1, State::Up), (2, State::Up), (3, State::Up)]);
        let mut reconciler = new_reconciler();
        put(&mut reconciler, std::slice::from_ref(&wish), 0);
        Self {
            random: Random(fastrand::Rng::with_seed(seed)),
            reconciler,
            wish,
            flows: HashMap::new(),
            again: Vec::new(),
            seconds: 0,
            clients: 0,
            served: 0,
            tracked: false,
            sweep: None,
            swept: 0,
            down: HashMap::new(),
        }
    }

    fn now(&self) -> u16 {
        lb_common::slot::since(self.seconds)
    }

    /// One random change of the wish. The flows of a backend that was removed, or was down for longer than the window, are
    /// over.
    fn change(&mut self) {
        let number = 1 + self.random.below(6) as u8;
        match self.random.below(10) {
            0 => {
                self.wish.backends.remove(&number);
            }
            1 => {
                self.wish.backends.insert(number, State::Down);
            }
            2..=4 => {
                self.wish.backends.insert(number, State::Draining);
            }
            5 => {
                let wanted = [13, 29, 53][self.random.below(3) as usize];
                self.wish.length = self.reconciler.ring_length(&listen(SERVICE), wanted);
            }
            _ => {
                self.wish.backends.insert(number, State::Up);
            }
        }
        if self.random.chance(20) {
            self.wish.track = if self.random.chance(50) { Track::Always } else { Track::OnChange };
        }
        if self.random.chance(30) {
            // Balancing other than by the hash records every flow.
            self.wish.balance =
                [Balance::Hash, Balance::RoundRobin, Balance::Random, Balance::LeastConnections]
                    [self.random.below(4) as usize];
        }
        if self.wish.balance != Balance::Hash {
            self.wish.track = Track::Always;
        }
        if self.random.chance(20) {
            self.wish.hash =
                [Hash::FiveTuple, Hash::Source(128), Hash::Source(125)][self.random.below(3) as usize];
        }
        if self.random.chance(20) {
            // The agent is started again in between, and forgets the sweep that was under way.
            self.sweep = None;
            let twin = std::mem::replace(&mut self.reconciler, new_reconciler()).into_tables();
            self.reconciler = Reconciler::new(twin).unwrap();
        }
        let now = self.now();
        put(&mut self.reconciler, std::slice::from_ref(&self.wish), now);
        let mut keep = Vec::new();
        for (number, state) in &self.wish.backends {
            let address = backend_address(*number);
            if matches!(state, State::Down | State::Disabled) {
                self.down.entry(address).or_insert(self.seconds);
            }
            let since = match state {
                State::Down | State::Disabled => self.down.get(&address).copied(),
                State::Up | State::Draining => self.down.remove(&address),
            };
            if since.is_none_or(|since| self.seconds - since <= WINDOW.as_secs()) {
                keep.push(address);
            }
        }
        self.down.retain(|address, _| self.wish.backends.keys().any(|n| backend_address(*n) == *address));
        let lives = |flow: &Flow| keep.contains(&flow.backend);
        let mut lost: Vec<u32> =
            self.flows.iter().filter(|(_, flow)| !lives(flow)).map(|(client, _)| *client).collect();
        lost.sort_unstable();
        self.flows.retain(|_, flow| lives(flow));
        // A client that was cut off connects again, from the same port.
        self.again.extend(lost);
    }

    fn begin_sweep(&mut self) {
        if self.sweep.is_some() {
            return;
        }
        let now = self.now();
        self.sweep = self.reconciler.begin_sweep(now).unwrap();
    }

    fn go_on_sweeping(&mut self) {
        let Some(mut sweep) = self.sweep.take() else { return };
        if self.reconciler.walk(&mut sweep, 400).unwrap() {
            self.sweep = Some(sweep);
        } else {
            let now = self.now();
            self.reconciler.end_sweep(sweep, now).unwrap();
            self.swept += 1;
        }
    }

    fn send(&mut self, client: u32, syn: bool, closes: bool) -> Option<IpAddr> {
        let packet = Packet { closes, ..packet(&listen(SERVICE), client, syn) };
        let verdict = self.reconciler.tables_mut().packet(&packet);
        self.served += 1;
        target(self.reconciler.tables(), verdict).map(|(_, to)| to)
    }

    fn begin(&mut self) {
        // Some tuples are used again.
        let client = match self.again.pop() {
            Some(client) => client,
            None if self.random.chance(40) => self.random.below(40) as u32,
            None => 100 + self.clients,
        };
        self.clients += 1;
        if self.flows.contains_key(&client) {
            return;
        }
        let Some(backend) = self.send(client, true, false) else { return };
        assert_eq!(self.send(client, false, false), Some(backend), "the handshake of {client}");
        let lasts = [20, 200, 2000][self.random.below(3) as usize];
        let next = self.seconds + 1 + self.random.below(WINDOW.as_secs() - 10);
        self.flows.insert(client, Flow { backend, next, ends: self.seconds + lasts });
    }

    fn talk(&mut self) {
        let mut due: Vec<u32> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.next <= self.seconds)
            .map(|(client, _)| *client)
            .collect();
        due.sort_unstable();
        for client in due {
            let ends = self.flows[&client].ends <= self.seconds;
            let wanted = self.flows[&client].backend;
            let got = self.send(client, false, ends);
            if self.down.contains_key(&wanted) {
                // The other backend does not know the flow and resets it, and its client begins again.
                assert_ne!(got, Some(wanted), "client {client} at second {}", self.seconds);
                self.flows.remove(&client);
                self.again.push(client);
                continue;
            }
            assert_eq!(got, Some(wanted), "client {client} at second {}", self.seconds);
            let pause = 1 + self.random.below(WINDOW.as_secs() - 10);
            if ends {
                self.flows.remove(&client);
            } else if let Some(flow) = self.flows.get_mut(&client) {
                flow.next = self.seconds + pause;
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        for second in 1..=seconds {
            self.seconds = second;
            self.reconciler.tables().set_seconds(second);
            if self.random.chance(2) {
                self.change();
            }
            if second % 5 == 0 {
                self.begin_sweep();
            }
            // A few pieces between any two other events: some walks end at once, others after many changes.
            for _ in 0..self.random.below(6) {
                self.go_on_sweeping();
            }
            for _ in 0..self.random.below(3) {
                self.begin();
            }
            self.talk();
            self.tracked |= self.reconciler.tables().flow_count(Role::Flow) > 0;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_flow_whose_backend_lives_never_changes_its_backend(seed: u64) {
        let mut world = World::new(seed);
        world.run(1500);
        prop_assert!(world.served > 1000 && world.tracked && world.swept > 20, "the history shows nothing");
    }
}

#[test]
fn a_long_quiet_untracks_all_and_loses_no_number() {
    let mut world = World::new(7);
    world.run(2000);
    world.flows.clear();
    world.wish.track = Track::OnChange;
    world.wish.balance = Balance::Hash;
    let now = world.now();
    put(&mut world.reconciler, std::slice::from_ref(&world.wish), now);
    for second in (2000..2000 + 6 * WINDOW.as_secs()).step_by(5) {
        world.seconds = second;
        world.reconciler.tables().set_seconds(second);
        let now = world.now();
        world.reconciler.sweep(now).unwrap();
    }
    let running = world.reconciler.running(world.now());
    assert_eq!(running[0].states.tracked(), 0);
    assert_eq!(world.reconciler.usage().backends, world.wish.backends.len() as u64);
    assert_eq!(world.reconciler.usage().slots, u64::from(world.wish.length));
}
