//! The clients: every flow that exists, and the backend that the flow talks to. Clients see backends, never slots.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use lb_tests::frame::Segment;

use super::agent::Agent;

/// The number of tuples.
pub(super) const FLOWS: u16 = 24;

/// The open flows by client port, each with the backend that has the flow's state; `None` while no backend has the state,
/// since the flow's backend died. A TCP flow then ends with its first segment.
#[derive(Default)]
pub(super) struct Clients {
    flows: BTreeMap<u16, Option<u32>>,
    /// Flows that have sent more than a SYN: their backend has something to say to them.
    established: BTreeSet<u16>,
    broken: u32,
    /// ICMP errors that were sent, and those that did not reach the backend of their flow.
    errors: u32,
    astray: u32,
}

impl Clients {
    /// Opens a new flow, if there is none on that tuple.
    pub(super) fn open(&mut self, agent: &mut Agent, flow: u16) -> Result<()> {
        if self.flows.contains_key(&flow) {
            return Ok(());
        }
        let backend = agent.packet(flow, Segment::Syn)?;
        ensure!(
            backend == 0 || agent.is_alive(backend),
            "a new flow went to backend {backend}, which is dead"
        );
        // Dropped: the client gives up.
        if backend != 0 {
            self.flows.insert(flow, Some(backend));
            if agent.is_tcp() {
                self.established.remove(&flow);
            } else {
                self.established.insert(flow);
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, agent: &mut Agent, flow: u16) -> Result<()> {
        self.segment(agent, flow, Segment::Data)
    }

    pub(super) fn send_all(&mut self, agent: &mut Agent) -> Result<()> {
        let open: Vec<u16> = self.flows.keys().copied().collect();
        open.into_iter().try_for_each(|flow| self.send(agent, flow))
    }

    pub(super) fn close(&mut self, agent: &mut Agent, flow: u16) -> Result<()> {
        self.segment(agent, flow, Segment::Fin)?;
        self.flows.remove(&flow);
        Ok(())
    }

    pub(super) fn abandon(&mut self, flow: u16) {
        self.flows.remove(&flow);
    }

    /// A router reports an error about each flow that has a living backend: the backend gets it, and only counters change.
    pub(super) fn report_all(&mut self, agent: &mut Agent) -> Result<()> {
        let before = agent.memory()?;
        for (flow, at) in &self.flows {
            let Some(at) = at.filter(|at| agent.is_alive(*at) && self.established.contains(flow)) else {
                continue;
            };
            self.errors += 1;
            if agent.error(*flow)? != at {
                self.astray += 1;
            }
        }
        ensure!(agent.memory()? == before, "an ICMP error changed the memory of flows");
        Ok(())
    }

    /// A backend died: its flows may continue at any backend, and must stay at that one.
    pub(super) fn lost(&mut self, backend: u32) {
        for at in self.flows.values_mut().filter(|at| **at == Some(backend)) {
            *at = None;
        }
    }

    pub(super) fn is_open(&self, flow: u16) -> bool {
        self.flows.contains_key(&flow)
    }

    /// Packets that did not reach the living backend of their flow.
    pub(super) fn broken(&self) -> u32 {
        self.broken
    }

    /// ICMP errors that were sent, and how many of them did not reach the backend of their flow.
    pub(super) fn errors(&self) -> (u32, u32) {
        (self.errors, self.astray)
    }

    fn segment(&mut self, agent: &mut Agent, flow: u16, segment: Segment) -> Result<()> {
        let Some(at) = self.flows.get_mut(&flow) else { return Ok(()) };
        let backend = agent.packet(flow, segment)?;
        let is_lost = at.is_none_or(|at| !agent.is_alive(at));
        if !is_lost && *at != Some(backend) {
            self.broken += 1;
        }
        *at = (backend != 0).then_some(backend);
        self.established.insert(flow);
        // When its backend fails, a TCP flow goes to a backend that does not know it and resets it. Datagrams continue there.
        if is_lost && agent.is_tcp() {
            self.flows.remove(&flow);
        }
        Ok(())
    }
}
