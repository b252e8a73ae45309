//! Runs one packet through a program, and reads the counters afterwards.

use anyhow::{Context as _, Result};
use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, PerCpuArray, PerCpuValues},
};
use lb_common::{
    counter::{Counter, Kind},
    map::{TrafficCounters, name},
};

use super::{World, invariants};

/// The map in which the program keeps, for each CPU, when it may send the next *packet too big*. Only the program knows it.
const NEXT_ANSWER: &str = "NEXT_ANSWER";

/// The result of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The XDP action.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Counters that went up, and by how much, in the order of their numbers.
    pub counters: Vec<(Counter, u64)>,
}

impl Outcome {
    /// The one counter under which the packet was forwarded, passed or dropped.
    ///
    /// # Panics
    /// If there is none; [`World::run`] returns an error in that case.
    pub fn verdict(&self) -> Counter {
        let mut verdicts = self.counters.iter().filter(|(counter, _)| counter.kind() != Kind::Event);
        verdicts.next().expect("every packet has a verdict").0
    }

    /// The events that were counted next to the verdict.
    pub fn events(&self) -> Vec<Counter> {
        self.counters.iter().map(|(counter, _)| *counter).filter(|c| c.kind() == Kind::Event).collect()
    }
}

/// `struct xdp_md` (linux/bpf.h).
#[repr(C)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

impl XdpMd {
    fn bytes(&self) -> Vec<u8> {
        let Self { data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex } = self;
        [data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }
}

impl World {
    /// Runs one frame through a program. It checks the [`invariants`] here, so that no test can forget them.
    ///
    /// # Errors
    /// The kernel refuses the run (it wants at least an Ethernet header), or an invariant is broken.
    pub fn run(&mut self, program: &str, frame: &[u8]) -> Result<Outcome> {
        self.run_with_metadata(program, frame, 0)
    }

    /// The same with `metadata` bytes (a multiple of 4, at most about 210) in front of the frame, which leave the program
    /// that much less headroom.
    pub fn run_with_metadata(&mut self, program: &str, frame: &[u8], metadata: usize) -> Result<Outcome> {
        let mut counters = self.counters()?;
        self.run_from(&mut counters, program, frame, metadata)
    }

    /// The same for a caller that runs many frames and keeps the counters from one run to the next.
    pub fn run_from(
        &mut self,
        before: &mut Vec<u64>,
        program: &str,
        frame: &[u8],
        metadata: usize,
    ) -> Result<Outcome> {
        let (action, out) = self.run_uncounted(program, frame, metadata)?;
        let after = self.counters()?;
        let counters = Counter::ALL
            .iter()
            .filter(|c| after[**c as usize] != before[**c as usize])
            .map(|c| (*c, after[*c as usize] - before[*c as usize]))
            .collect();
        *before = after;
        let outcome = Outcome { action, frame: out, counters };
        invariants::check(frame, &outcome)
            .with_context(|| format!("{program}: {frame:02x?} became {outcome:02x?}"))?;
        Ok(outcome)
    }

    /// The action, and the frame afterwards.
    fn run_uncounted(&mut self, program: &str, frame: &[u8], metadata: usize) -> Result<(u32, Vec<u8>)> {
        if !self.limits_answers {
            self.allow_answers()?;
        }
        let mut input = vec![0; metadata];
        input.extend_from_slice(frame);
        let context = XdpMd {
            data: metadata as u32,
            data_end: input.len() as u32,
            data_meta: 0,
            ingress_ifindex: 0,
            rx_queue_index: 0,
            egress_ifindex: 0,
        }
        .bytes();
        // Room for the outer header.
        let mut out = vec![0; input.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&input);
        options.data_out = Some(&mut out);
        if metadata > 0 {
            options.ctx_in = Some(&context);
        }
        let result = self.program(program)?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        out.truncate(result.data_size_out as usize);
        out.drain(..metadata);
        Ok((result.return_value, out))
    }

    /// From now on answers to packets that are too big are limited, as they are on a node. Without this, every packet finds
    /// the allowance unused.
    pub fn limit_answers(&mut self) {
        self.limits_answers = true;
    }

    /// Gives every CPU its whole allowance of answers back.
    fn allow_answers(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut(NEXT_ANSWER).context("no map of answers")?;
        let mut next: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(next.set(0, PerCpuValues::try_from(vec![0; cpus])?, 0)?)
    }

    /// Live flows of a backend, as a service that balances by live flows counts them.
    pub fn live(&mut self, backend: u32) -> Result<i64> {
        let map: Array<_, i64> = Array::try_from(self.ebpf.map(name::LIVE).context("no LIVE")?)?;
        Ok(map.get(&backend, 0)?)
    }

    /// Turns that a service has given, by CPU.
    pub fn turns(&mut self, service: u32) -> Result<Vec<u64>> {
        let map: PerCpuArray<_, TrafficCounters> =
            PerCpuArray::try_from(self.ebpf.map(name::SVC_TALLY).context("no tally")?)?;
        Ok(map.get(&service, 0)?.iter().map(|tally| tally.turns).collect())
    }

    /// Traffic of a backend (`BK_TALLY`): packets, bytes, new connections. Packets write no such record for a service.
    pub fn tally(&mut self, map: &str, number: u32) -> Result<(u64, u64, u64)> {
        let map: PerCpuArray<_, TrafficCounters> =
            PerCpuArray::try_from(self.ebpf.map(map).context("no tally")?)?;
        let values = map.get(&number, 0)?;
        Ok(values.iter().fold((0, 0, 0), |(p, b, n), t| (p + t.packets, b + t.bytes, n + t.new_connections)))
    }
}
