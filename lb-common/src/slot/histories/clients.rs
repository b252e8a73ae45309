//! The clients: every flow there is, when it was last heard of, and the backend that has its state. They see backends
//! come and go, and packets arrive; never a slot or a table.

use std::{collections::BTreeMap, vec::Vec};

use super::{
    super::Segment,
    Outcome, Protocol, WINDOW,
    service::{BACKENDS, GRACE, Service},
};

/// How many tuples there are.
pub(super) const FLOWS: u16 = 24;

/// Seconds that a client waits for the answer to its SYN.
const PATIENCE: u64 = 100;

struct Flow {
    /// Who has its state; `None` after a death, or where nothing was promised.
    at: Option<u32>,
    /// When its last packet went, in seconds.
    seen: u64,
    /// A packet other than the first has gone.
    established: bool,
}

pub(super) struct Clients {
    protocol: Protocol,
    flows: BTreeMap<u16, Flow>,
    /// Backends that are down, and since when: their flows still have their state, if the failure is a hiccup.
    down: BTreeMap<u32, u64>,
    outcome: Outcome,
}

impl Clients {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, flows: BTreeMap::new(), down: BTreeMap::new(), outcome: Outcome::default() }
    }

    pub(super) fn begin(&mut self, service: &mut Service, flow: u16) {
        if self.flows.contains_key(&flow) {
            return;
        }
        let at = service.packet(flow, self.first(), false);
        let established = self.protocol == Protocol::Udp;
        let seen = service.now();
        // Nobody there: the client gives up.
        if at != 0 {
            assert!(service.is_alive(at), "a new flow went to backend {at}, which is not alive");
            self.flows.insert(flow, Flow { at: Some(at), seen, established });
        }
    }

    pub(super) fn repeat(&mut self, service: &mut Service, flow: u16) {
        if self.flows.get(&flow).is_some_and(|flow| !flow.established) {
            self.packet(service, flow, self.first(), false);
        }
    }

    pub(super) fn send(&mut self, service: &mut Service, flow: u16) {
        let segment = match self.protocol {
            Protocol::Tcp => Segment::Established,
            Protocol::Udp => Segment::Datagram,
        };
        self.packet(service, flow, segment, false);
    }

    pub(super) fn send_all(&mut self, service: &mut Service) {
        let all: Vec<u16> = self.flows.keys().copied().collect();
        all.into_iter().for_each(|flow| self.send(service, flow));
    }

    /// FIN, and the acknowledgement of the other side's.
    pub(super) fn end(&mut self, service: &mut Service, flow: u16) {
        if self.protocol == Protocol::Tcp {
            self.packet(service, flow, Segment::Established, true);
            self.send(service, flow);
        }
        self.flows.remove(&flow);
    }

    pub(super) fn abandon(&mut self, flow: u16) {
        self.flows.remove(&flow);
    }

    /// After a change: what a removed backend had is lost, and so it is where a backend was down for longer than flows are kept
    /// for its return. A service that writes nothing down promises nothing.
    pub(super) fn hear_of(&mut self, service: &Service) {
        let now = service.now();
        let mut lost = Vec::new();
        for backend in 1..=BACKENDS {
            if service.is_alive(backend) {
                lost.extend(self.down.remove(&backend).filter(|since| now - since >= GRACE).map(|_| backend));
            } else {
                self.down.entry(backend).or_insert(now);
            }
            if !service.is_there(backend) {
                lost.push(backend);
            }
        }
        for flow in self.flows.values_mut() {
            if service.promises_nothing() || flow.at.is_some_and(|at| lost.contains(&at)) {
                flow.at = None;
            }
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn first(&self) -> Segment {
        match self.protocol {
            Protocol::Tcp => Segment::Syn,
            Protocol::Udp => Segment::Datagram,
        }
    }

    fn packet(&mut self, service: &mut Service, number: u16, segment: Segment, closes: bool) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let idle = service.now() - flow.seen;
        let patience = if flow.established { WINDOW } else { PATIENCE };
        // What was silent that long counts as gone. A SYN that is sent again may begin again elsewhere.
        if idle > patience || segment == Segment::Syn {
            flow.at = None;
        }
        let got = service.packet(number, segment, closes);
        assert!(got == 0 || service.is_alive(got), "flow {number} went to backend {got}, which is not alive");
        // Where it is down its packets go elsewhere, and the flow with them.
        if let Some(at) = flow.at.filter(|at| service.is_alive(*at)) {
            self.outcome.judged += 1;
            self.outcome.broken += u32::from(at != got);
        }
        flow.at = (got != 0).then_some(got);
        flow.seen = service.now();
        flow.established |= segment != Segment::Syn;
    }
}
