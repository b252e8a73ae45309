//! Plays sequences: the same packets go through the program in the kernel and through the model. Results are compared after
//! each packet; flow tables, traffic and what services balance by are compared at the end.

use std::{collections::BTreeMap, fmt, net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    backend::Backend, counter::Counter, flow::Record as Row, flow_table::Role, hash::Seed, map::name,
    service::Service,
};
use lb_userspace::bpf::object::OBJECT;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    unistd::Pid,
};

use super::sequence::{Packet, Sequence, Step};
use crate::{
    model::{Chance, Key, Known, Model, Pending, Program, Proof, Seen, Tally},
    world::{
        Outcome, Sizes, World,
        flows::{self, Tuple},
    },
};

/// Bytes in front of a frame without metadata: XDP_PACKET_HEADROOM (256) less the kernel's `struct xdp_frame` (40).
const ROOM: usize = 216;

/// A world, and the thread's own network namespace with an interface that packets can be redirected to.
pub struct Comparison {
    world: World,
    /// The interface with the name `other` in scenes.
    other: u32,
    counters: Vec<u64>,
    /// The processor that packets come in on.
    cpu: u32,
}

/// The result of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Verdict and events of the program.
    pub counters: &'a [(Counter, u64)],
    /// The choice that chance made.
    pub chance: Option<Chance>,
}

/// A difference between program and model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The step at which the difference appears; the number of steps if only the tables differ at the end.
    pub step: usize,
    /// The kind of the difference, in a few words: differences of the same kind count as one.
    pub kind: String,
    /// Model and program side by side.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}, {}: {}", self.step, self.kind, self.text)
    }
}

/// Moves this thread into a network namespace of its own, with a pair of interfaces, which go away with the thread.
///
/// # Errors
/// Without the right to make namespaces, or without `ip`.
pub fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own")?;
    let words = ["link", "add", "out", "type", "veth", "peer", "name", "far"];
    let output = Command::new("ip").args(words).output().context("ip (package iproute2)")?;
    ensure!(output.status.success(), "no veth pair: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Keeps this thread on one processor, since each processor counts turns for itself. Returns its number.
pub(crate) fn stay_on_one_cpu() -> Result<u32> {
    let this = Pid::from_raw(0);
    let may = sched_getaffinity(this).context("the processors that this thread may use")?;
    let first = (0..CpuSet::count()).find(|cpu| may.is_set(*cpu).unwrap_or(false));
    let first = first.context("a thread that may use no processor")?;
    let mut one = CpuSet::new();
    one.set(first)?;
    sched_setaffinity(this, &one).context("staying on one processor")?;
    Ok(first as u32)
}

/// Backends and flags by what the table knows of a tuple.
type Rows = BTreeMap<u64, (u32, u32)>;

fn row(known: &Known) -> (u32, u32) {
    let flag = |is: bool, flag: u32| if is { flag } else { 0 };
    let proof = match known.proof {
        Proof::Once => Row::ONCE,
        Proof::Confirmed => 0,
        Proof::Began => Row::BEGAN,
    };
    let contested = flag(known.contested, Row::CONTESTED) | flag(known.taken, Row::TAKEN);
    (known.backend, proof | flag(known.fin, Row::FIN) | flag(known.rst, Row::RST) | contested)
}

fn tuple(key: &Key) -> Tuple {
    let Key { source, destination, protocol } = *key;
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    Tuple { source: canonical(source), destination: canonical(destination), protocol }
}

/// The flows that the model has recorded, in the form of the table.
fn wanted_flows(world: &World, model: &Model) -> Rows {
    let tag = |key| flows::tag(world.hash_of(&tuple(key)));
    model.records.flows.iter().map(|(key, known)| (tag(key), row(known))).collect()
}

/// The same for the records next to flows.
fn wanted_pending(world: &World, model: &Model) -> Rows {
    let tag = |key| flows::tag(world.hash_of(&tuple(key)));
    let of = |pending: &Pending| match pending {
        Pending::Asked { backend, .. } => (*backend, 0),
        Pending::Elder { known, .. } => {
            let (backend, flags) = row(known);
            (backend, flags | Row::ELDER)
        }
    };
    model.records.pending.iter().map(|(key, pending)| (tag(key), of(pending))).collect()
}

/// What the program has recorded of a flow, after an outcome.
pub(crate) fn witness(world: &mut World, outcome: &Outcome, key: &Key) -> Seen {
    let flow = tuple(key);
    let mut record = |role| world.record(role, &flow).ok().flatten().map(|record| record.backend);
    Seen {
        balanced: outcome.events().contains(&Counter::TrackedBalanced),
        backend: record(Role::Pending).or_else(|| record(Role::Flow)),
    }
}

impl Comparison {
    /// Loads the object. The thread must have entered its namespace; from now on it stays on one processor.
    pub fn new() -> Result<Self> {
        Self::of_object(OBJECT)
    }

    /// The same for another build of the object, for example one with a mistake that is to be found.
    pub fn of_object(object: &[u8]) -> Result<Self> {
        let cpu = stay_on_one_cpu()?;
        let mut world = World::of_object(object, Sizes::default(), Seed::default(), 0)?;
        let other = if_nametoindex("out").context("interface out")?;
        world.add_egress(other)?;
        let counters = world.counters()?;
        Ok(Self { world, other, counters, cpu })
    }

    /// Plays a sequence from the start; `tally` sees the result of every packet.
    ///
    /// # Errors
    /// Where the kernel refuses something, not where the two differ.
    pub fn play(&mut self, sequence: &Sequence, tally: impl FnMut(Shown<'_>)) -> Result<Option<Difference>> {
        self.play_after(sequence, |_| Ok(()), tally)
    }

    /// The same; `before` changes the filled maps first, without the model's knowledge.
    pub fn play_after(
        &mut self,
        sequence: &Sequence,
        prepare: impl FnOnce(&mut Self) -> Result<()>,
        mut tally: impl FnMut(Shown<'_>),
    ) -> Result<Option<Difference>> {
        let mut model = Model::new(&sequence.scene, self.cpu)?;
        self.world.fill(&sequence.scene, self.other).context("filling the maps")?;
        prepare(self)?;
        for (step, what) in sequence.steps.iter().enumerate() {
            match what {
                Step::Change { change } => {
                    self.world.follow(model.scene(), change).context("changing the maps")?;
                    model.change(change);
                }
                Step::Packet(packet) => {
                    if let Some((kind, text)) = self.compare(&mut model, packet, &mut tally)? {
                        return Ok(Some(Difference { step, kind, text }));
                    }
                }
            }
        }
        let step = sequence.steps.len();
        Ok(self.tables(&model)?.map(|(kind, text)| Difference { step, kind, text }))
    }

    /// Runs one packet through both.
    fn compare(
        &mut self,
        model: &mut Model,
        packet: &Packet,
        tally: &mut impl FnMut(Shown<'_>),
    ) -> Result<Option<(String, String)>> {
        let Packet { program, metadata, frame } = packet;
        let metadata = usize::from(*metadata);
        let outcome = match self.world.run_from(&mut self.counters, program.name(), frame, metadata) {
            Ok(outcome) => outcome,
            // An invariant was broken; or the kernel refused the run, which must not happen in a sequence either.
            Err(error) => return Ok(Some(("law".to_owned(), format!("{error:#}")))),
        };
        let world = &mut self.world;
        let wanted = model
            .run(*program, frame, ROOM.saturating_sub(metadata), &mut |key| witness(world, &outcome, key));
        tally(Shown { counters: &outcome.counters, chance: wanted.chance });
        let mut counters = wanted.events.clone();
        counters.push(wanted.verdict);
        counters.sort_by_key(|counter| *counter as u32);
        let names = |counters: &[Counter]| {
            counters.iter().map(|counter| counter.name()).collect::<Vec<_>>().join(" + ")
        };
        let counted: Vec<Counter> = outcome.counters.iter().map(|(counter, _)| *counter).collect();
        if counted != counters {
            let (model, program) = (names(&counters), names(&counted));
            return Ok(Some((
                format!("{program} instead of {model}"),
                format!("the model counts {model}, the program {program}"),
            )));
        }
        if outcome.action != wanted.action.number() {
            let text = format!("the model says {:?}, the program {}", wanted.action, outcome.action);
            return Ok(Some((format!("action under {}", wanted.verdict.name()), text)));
        }
        if let Some(frame) = wanted.frame.filter(|frame| *frame != outcome.frame) {
            let place = frame.iter().zip(&outcome.frame).position(|(a, b)| a != b);
            let text = format!(
                "from byte {} on the model says\n  {frame:02x?}\nthe program\n  {:02x?}",
                place.unwrap_or(frame.len().min(outcome.frame.len())),
                outcome.frame
            );
            return Ok(Some((format!("bytes under {}", wanted.verdict.name()), text)));
        }
        Ok(None)
    }

    /// Compares flow tables and traffic after the last step.
    fn tables(&mut self, model: &Model) -> Result<Option<(String, String)>> {
        let flows = wanted_flows(&self.world, model);
        let pending = wanted_pending(&self.world, model);
        for (role, wanted) in [(Role::Flow, flows), (Role::Pending, pending)] {
            let records = self.world.records(role)?;
            let rows = records.iter().map(|(tag, row)| (*tag, (row.backend, row.plain_flags())));
            let written: Rows = rows.collect();
            if written != wanted || records.len() != written.len() {
                let text = format!("{role:?}: the model has {wanted:?}, the program {records:?}");
                return Ok(Some(("flow tables".to_owned(), text)));
            }
        }
        for number in 1..=model.scene().backends.len() as u32 {
            let Tally { packets, bytes, connections } =
                model.backends.get(&number).copied().unwrap_or_default();
            let counted = self.world.tally(name::BK_TALLY, number)?;
            if counted != (packets, bytes, connections) {
                let wanted = (packets, bytes, connections);
                let text = format!("backend {number}: the model has {wanted:?}, the program {counted:?}");
                return Ok(Some(("traffic".to_owned(), text)));
            }
        }
        self.balance(model)
    }

    /// Compares turns and live flows after the last step.
    fn balance(&mut self, model: &Model) -> Result<Option<(String, String)>> {
        for service in 0..model.scene().services.len() as u32 {
            let wanted = model.turns(service);
            let given = self.world.turns(service)?;
            let here = given.get(self.cpu as usize).copied().unwrap_or(0);
            if here != wanted || given.iter().sum::<u64>() != wanted {
                let text = format!("service {service}: the model has given {wanted}, the program {given:?}");
                return Ok(Some(("turns".to_owned(), text)));
            }
        }
        for backend in 1..=model.scene().backends.len() as u32 {
            let (wanted, counted) = (model.live(backend), self.world.live(backend)?);
            if counted != wanted {
                let text = format!("backend {backend}: the model has {wanted}, the program {counted}");
                return Ok(Some(("live flows".to_owned(), text)));
            }
        }
        Ok(None)
    }

    /// Changes the records of all backends.
    pub fn spoil(&mut self, change: impl Fn(&mut Backend)) -> Result<()> {
        for number in 1.. {
            if self.world.array::<Backend>(name::BACKENDS)?.get(&number, 0)? == Backend::default() {
                break;
            }
            self.world.change_backend(number, &change)?;
        }
        Ok(())
    }

    /// Changes the records of all services.
    pub fn spoil_services(&mut self, change: impl Fn(&mut Service)) -> Result<()> {
        for number in 0.. {
            if self.world.service(number)? == Service::default() {
                break;
            }
            self.world.change_service(number, &change)?;
        }
        Ok(())
    }

    /// Loads the programs now, so that the first sequence does not pay for it.
    pub fn warm(&mut self) -> Result<()> {
        for program in [Program::LbXdp, Program::LbDecap] {
            self.world.program(program.name())?;
        }
        Ok(())
    }
}
