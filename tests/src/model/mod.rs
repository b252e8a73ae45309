//! A model of the data path, with which the programs are compared: plain, slow, and easy to check by reading. A packet, a scene
//! and the packets before it go in; the verdict, the bytes that leave and the counters come out. It is written from the RFCs
//! and from the documents (lb-ebpf/doc/packet-path.md, lb-common/doc/slots.md), shares no code with the programs, and uses
//! only the names of counters and the published flow hash of `lb-common`.

mod balance;
mod choice;
mod control;
mod decap;
mod flows;
mod ip;
mod outer;
pub mod scene;

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use lb_common::{counter::Counter, hash::Seed};
use serde::{Deserialize, Serialize};

use choice::Counts;
pub use choice::{Chance, Seen, Witness};
pub use flows::{Key, Known, Pending, Proof, Records};
pub use outer::next_hop;
use scene::{Change, Scene};

/// A program of the product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    #[default]
    LbXdp,
    LbDecap,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Self::LbXdp => "lb_xdp",
            Self::LbDecap => "lb_decap",
        }
    }
}

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Drop,
    Pass,
    Tx,
    Redirect,
}

impl Action {
    /// Its number (linux/bpf.h, `enum xdp_action`).
    pub fn number(self) -> u32 {
        match self {
            Self::Drop => 1,
            Self::Pass => 2,
            Self::Tx => 3,
            Self::Redirect => 4,
        }
    }
}

/// The model's result for one packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub action: Action,
    /// The one counter that is not an event.
    pub verdict: Counter,
    /// The events next to the verdict, each counted once.
    pub events: Vec<Counter>,
    /// The frame after the program; `None` where it is dropped, since no one sees its bytes then.
    pub frame: Option<Vec<u8>>,
    /// The random choice, where chance chose the backend.
    pub chance: Option<Chance>,
}

impl Answer {
    /// A packet that is neither encapsulated nor decapsulated nor answered: passed to the host as it came, or dropped.
    fn ended(verdict: Counter, frame: &[u8]) -> Self {
        use Counter as C;
        let passed = matches!(
            verdict,
            C::PassedNotIp
                | C::PassedOtherProtocol
                | C::PassedNotService
                | C::PassedMalformed
                | C::PassedRoutingHeader
                | C::PassedNotReady
                | C::PassedNotTunnel
                | C::PassedHost
                | C::PassedUnserved
        );
        let (action, frame) =
            if passed { (Action::Pass, Some(frame.to_vec())) } else { (Action::Drop, None) };
        Self { action, verdict, events: Vec::new(), frame, chance: None }
    }

    /// A packet of ours that goes back where the frame came from.
    fn answered(verdict: Counter, frame: Vec<u8>) -> Self {
        Self { action: Action::Tx, verdict, events: Vec::new(), frame: Some(frame), chance: None }
    }

    fn sent(verdict: Counter, frame: Vec<u8>) -> Self {
        let action = match verdict {
            Counter::ForwardedTx => Action::Tx,
            Counter::ForwardedRedirect => Action::Redirect,
            _ => Action::Pass,
        };
        Self { action, verdict, events: Vec::new(), frame: Some(frame), chance: None }
    }
}

/// What was forwarded to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub packets: u64,
    /// From the inner IP header on.
    pub bytes: u64,
    /// SYN without ACK.
    pub connections: u64,
}

/// The data path as it should be.
#[derive(Clone, Debug)]
pub struct Model {
    scene: Scene,
    seed: Seed,
    /// The records of flows in tracked slots.
    pub records: Records,
    /// Traffic by backend number; backends without traffic are not in it.
    pub backends: BTreeMap<u32, Tally>,
    counts: Counts,
    /// Flows that have been silent for so long that they do not count as live.
    idle: HashSet<Key>,
    cpu: u32,
}

impl Model {
    /// `cpu`: the number of the CPU on which packets come in.
    ///
    /// # Errors
    /// The scene contradicts itself.
    pub fn new(scene: &Scene, cpu: u32) -> Result<Self> {
        scene.check()?;
        Ok(Self {
            scene: scene.clone(),
            seed: Seed(scene.seed()?),
            records: Records::default(),
            backends: BTreeMap::new(),
            counts: Counts::default(),
            idle: HashSet::new(),
            cpu,
        })
    }

    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    pub fn change(&mut self, change: &Change) {
        self.scene.change(change);
        if *change == Change::Silence {
            self.idle = self.records.flows.keys().copied().collect();
        }
    }

    /// Takes over everything that packets have left behind in another model.
    pub fn inherit(&mut self, before: Self) {
        let Self { scene: _, seed: _, records, backends, counts, idle, cpu: _ } = before;
        (self.records, self.backends, self.counts, self.idle) = (records, backends, counts, idle);
    }

    /// Turns that a service has given.
    pub fn turns(&self, service: u32) -> u64 {
        self.counts.turns.get(&service).copied().unwrap_or(0)
    }

    /// Live flows of a backend, as packets of services that balance by them have counted.
    pub fn live(&self, backend: u32) -> i64 {
        self.counts.live.get(&backend).copied().unwrap_or(0)
    }

    /// Runs one packet through a program; `room`: the bytes that the driver left in front of it. Where chance decides,
    /// the witness reports what the program did.
    pub fn run(&mut self, program: Program, frame: &[u8], room: usize, witness: Witness<'_>) -> Answer {
        match program {
            Program::LbXdp => balance::run(self, frame, room, witness),
            Program::LbDecap => decap::run(self, frame),
        }
    }
}
