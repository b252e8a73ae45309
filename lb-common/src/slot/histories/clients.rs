//! The clients: every flow that exists, when it was last heard of, and the backend that has its state. The clients see
//! backends come and go, and packets arrive; they never see a slot or a table.

use std::{collections::BTreeMap, vec::Vec};

use super::{
    Outcome, Protocol, WINDOW,
    service::{BACKENDS, GRACE, Service},
};
use crate::evidence::Segment;

/// How many tuples there are.
pub(super) const FLOWS: u16 = 24;

/// Seconds that a client waits for the answer to its SYN.
const PATIENCE: u64 = 100;

/// How far a forged number that was guessed well lies from the client's next number, in bytes. The next forged segment
/// may continue it.
const NEAR: [i32; 4] = [-40 << 20, (-40 << 20) + 1, 10 << 20, 40 << 20];

struct Flow {
    /// The backend that has the flow's state; none after a backend's death, or where nothing was promised.
    at: Option<u32>,
    /// When the flow's last packet went, in seconds.
    seen: u64,
    /// A packet other than the first one went.
    established: bool,
    /// The numbers of the flow's next segment and of its SYN. Clients use only numbers of the lower half.
    next: u32,
    first: u32,
    /// The client sends no more data, and waits.
    half_closed: bool,
    /// The forger has sent something on the tuple since the client's last packet.
    forged: bool,
    /// The forger has sent something on the tuple since the flow began: its record may be the forger's. Packets of the flow
    /// have numbers that tell, an ICMP error has none.
    disputed: bool,
    /// During the handshake the agent forgot the flow that had the tuple before.
    swept: bool,
}

pub(super) struct Clients {
    protocol: Protocol,
    flows: BTreeMap<u16, Flow>,
    /// For each tuple, when packets went that may have left a record, in seconds.
    uses: BTreeMap<u16, Vec<u64>>,
    /// Backends that are down, and since when: they still have the state of their flows, if the failure lasts only a
    /// moment.
    down: BTreeMap<u32, u64>,
    outcome: Outcome,
    begun: u32,
}

impl Clients {
    pub(super) fn new(protocol: Protocol) -> Self {
        let (flows, uses, down) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { protocol, flows, uses, down, outcome: Outcome::default(), begun: 0 }
    }

    pub(super) fn begin(&mut self, service: &mut Service, flow: u16) {
        if self.flows.contains_key(&flow) {
            return;
        }
        self.begun += 1;
        // As good as random, or the same number again, and never in the upper half.
        let first =
            if self.begun.is_multiple_of(3) { 999 } else { self.begun.wrapping_mul(0x9e37_79b1) >> 1 };
        self.used(service, flow);
        let at = service.packet(flow, self.first(), first);
        let established = self.protocol == Protocol::Udp;
        let seen = service.now();
        // No backend: the client gives up.
        if at != 0 {
            assert!(service.is_alive(at), "a new flow went to backend {at}, which is not alive");
            let next = first + 1;
            let begun = Flow {
                at: Some(at),
                seen,
                established,
                next,
                first,
                half_closed: false,
                forged: false,
                disputed: false,
                swept: false,
            };
            self.flows.insert(flow, begun);
        }
    }

    pub(super) fn repeat(&mut self, service: &mut Service, flow: u16) {
        let Some(known) = self.flows.get(&flow).filter(|flow| !flow.established) else { return };
        let first = known.first;
        self.packet(service, flow, self.first(), first);
    }

    pub(super) fn send(&mut self, service: &mut Service, flow: u16) {
        let Some(known) = self.flows.get_mut(&flow) else { return };
        let number = known.next;
        if !known.half_closed {
            known.next += 1000;
        }
        let segment = match self.protocol {
            Protocol::Tcp => Segment::Ordinary { fin: false },
            Protocol::Udp => Segment::Datagram,
        };
        self.packet(service, flow, segment, number);
    }

    pub(super) fn send_all(&mut self, service: &mut Service) {
        let all: Vec<u16> = self.flows.keys().copied().collect();
        all.into_iter().for_each(|flow| self.send(service, flow));
    }

    /// FIN: the client sends no more data, and goes on to acknowledge what it gets.
    pub(super) fn half_close(&mut self, service: &mut Service, flow: u16) {
        let Some(known) = self.flows.get_mut(&flow).filter(|flow| !flow.half_closed) else { return };
        if self.protocol == Protocol::Tcp {
            known.half_closed = true;
            let number = known.next;
            known.next += 1;
            self.packet(service, flow, Segment::Ordinary { fin: true }, number);
        }
    }

    /// FIN, and the acknowledgement of the other side's FIN.
    pub(super) fn end(&mut self, service: &mut Service, flow: u16) {
        self.half_close(service, flow);
        if self.protocol == Protocol::Tcp {
            self.send(service, flow);
        }
        self.flows.remove(&flow);
    }

    /// RST, and no more.
    pub(super) fn reset(&mut self, service: &mut Service, flow: u16) {
        if self.protocol == Protocol::Tcp
            && let Some(known) = self.flows.get(&flow)
        {
            let number = known.next;
            self.packet(service, flow, Segment::Reset, number);
        }
        self.flows.remove(&flow);
    }

    pub(super) fn abandon(&mut self, flow: u16) {
        self.flows.remove(&flow);
    }

    /// An attacker who knows the tuple, but not the client's number, sends a packet. One of 50 random numbers lies
    /// within the window by chance; none of the numbers here lies where the client is.
    pub(super) fn forge(&mut self, service: &mut Service, flow: u16, segment: Segment, number: u32) {
        if self.protocol == Protocol::Tcp {
            self.used(service, flow);
            let guessed = NEAR.get(number as usize).zip(self.flows.get(&flow));
            let number = guessed
                .map_or(0x9000_0000 + number, |(distance, flow)| flow.next.wrapping_add_signed(*distance));
            service.packet(flow, segment, number);
            if let Some(known) = self.flows.get_mut(&flow) {
                known.forged = true;
                known.disputed = true;
            }
        }
    }

    /// To be called before the agent forgets what was silent for longer than the window. A tuple has two records, so a
    /// third flow goes where one of them says; when the agent forgets them during the third flow's handshake, the
    /// backend of the handshake is forgotten with them.
    pub(super) fn hear_of_sweep(&mut self, service: &Service) {
        let now = service.now();
        for (number, uses) in &mut self.uses {
            let before = uses.len();
            uses.retain(|seen| now - seen <= WINDOW);
            if uses.len() < before
                && let Some(flow) = self.flows.get_mut(number)
            {
                flow.swept |= !flow.established;
            }
        }
    }

    fn used(&mut self, service: &Service, flow: u16) {
        self.uses.entry(flow).or_default().push(service.now());
    }

    /// To be called after a change: the flows of a removed backend are lost, and so are the flows of a backend that was
    /// down for longer than its flows are kept for its return. A service that records nothing promises nothing.
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

    /// A router reports an error about each flow: the backend gets it that has the flow's state. A handshake has said too
    /// little for that, and a flow that was silent for too long counts as gone.
    pub(super) fn report_all(&mut self, service: &Service) {
        for (number, flow) in &self.flows {
            let Some(at) = flow.at.filter(|at| service.is_alive(*at)) else { continue };
            if flow.established && !flow.disputed && service.now() - flow.seen <= WINDOW {
                self.outcome.reported += 1;
                self.outcome.astray += u32::from(service.error(*number) != at);
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

    fn packet(&mut self, service: &mut Service, number: u16, segment: Segment, sequence: u32) {
        self.used(service, number);
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let idle = service.now() - flow.seen;
        if !flow.established && idle > PATIENCE {
            // The client has given up.
            self.flows.remove(&number);
            return;
        }
        // A client that was silent for so long counts as gone. A retransmitted SYN may begin the flow again at another
        // backend.
        if idle > WINDOW || segment == Segment::Syn {
            flow.at = None;
        }
        // A forger who hits a handshake may end it, and so may the end of the flow that had its ports before.
        let may_be_cut = (flow.forged || flow.swept) && !flow.established && segment != Segment::Syn;
        let got = service.packet(number, segment, sequence);
        assert!(got == 0 || service.is_alive(got), "flow {number} went to backend {got}, which is not alive");
        if may_be_cut {
            self.flows.remove(&number);
            return;
        }
        if let Some(at) = flow.at.filter(|at| service.is_alive(*at)) {
            self.outcome.judged += 1;
            self.outcome.broken += u32::from(at != got);
        } else if matches!(segment, Segment::Ordinary { .. } | Segment::Reset) {
            // While the flow's backend is down, its segments go to a backend that knows nothing of the flow, and resets
            // it.
            self.flows.remove(&number);
            return;
        }
        flow.at = (got != 0).then_some(got);
        flow.seen = service.now();
        flow.forged = false;
        flow.established |= segment != Segment::Syn;
    }
}
