//! Packets through the program that is on the interface, from whichever agent it is, and their right destinations: a list
//! of flows and of the backends that serve them, which knows nothing of slots and records.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    TestRun as _, TestRunOptions,
    maps::{MapData, PerCpuArray},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    counter::{Counter, Kind},
    map::name,
};
use lb_tests::frame::{self, Segment};
use serde_json::Value;

use crate::world::World;

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    To(IpAddr),
    Dropped,
    /// Passed to the host, by the program or because there is no program.
    Passed,
}

/// The program on the interface; `None` = there is none.
fn program(world: &World) -> Result<Option<Xdp>> {
    let pin = world.pins().join("link-lb0");
    if !pin.exists() {
        return Ok(None);
    }
    let link = FdLink::from(PinnedLink::from_pin(&pin)?);
    let number = link.info()?.program_id();
    for program in loaded_programs() {
        // Other programs come and go meanwhile.
        if let Ok(program) = program
            && program.id() == number
        {
            return Ok(Some(Xdp::from_program_info(program, "lb_xdp".into(), XdpAttachType::Interface)?));
        }
    }
    bail!("program {number} of {} is not there", pin.display())
}

/// Every reason under which packets were dropped or passed, with its count: for the message when a packet was wrong.
fn reasons(world: &World) -> Result<String> {
    let map = aya::maps::Map::PerCpuArray(MapData::from_pin(world.pins().join(name::COUNTERS))?);
    let counters = PerCpuArray::<_, u64>::try_from(map)?;
    let mut said = "reasons so far:".to_owned();
    for counter in
        Counter::ALL.iter().filter(|counter| matches!(counter.kind(), Kind::Dropped | Kind::Passed))
    {
        let count: u64 = counters.get(&(*counter as u32), 0)?.iter().sum();
        if count > 0 {
            said += &format!(" {} {count}", counter.name());
        }
    }
    Ok(said)
}

/// Sends a frame through a program, as if the frame had come in on loopback.
fn send(program: Option<&Xdp>, frame: &[u8]) -> Result<Fate> {
    let Some(program) = program else { return Ok(Fate::Passed) };
    let mut out = [0u8; 256];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
    // XDP actions (linux/bpf.h).
    match program.test_run(options).context("BPF_PROG_TEST_RUN")?.return_value {
        1 => Ok(Fate::Dropped),
        2 => Ok(Fate::Passed),
        3 | 4 => {
            ensure!(frame::ipv4_checksum(&out[14..34]) == 0, "the checksum of an outer header");
            ensure!(out[34..14 + 20 + frame.len() - 14] == frame[14..], "an inner packet was changed");
            Ok(Fate::To(Ipv4Addr::new(out[30], out[31], out[32], out[33]).into()))
        }
        action => bail!("action {action}"),
    }
}

/// A service as packets see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listen {
    tcp: bool,
    to: SocketAddr,
}

impl Listen {
    /// Reads the form of `lbctl`: `tcp/203.0.113.10:80`.
    fn read(text: &str) -> Result<Self> {
        let (protocol, to) =
            text.split_once('/').with_context(|| format!("`{text}` is not PROTOCOL/ADDRESS:PORT"))?;
        Ok(Self { tcp: protocol == "tcp", to: to.parse()? })
    }
}

/// The backends that may get packets of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    /// Backends of new flows.
    takes: BTreeSet<IpAddr>,
    /// Backends of established flows.
    keeps: BTreeSet<IpAddr>,
}

/// What holds while nothing changes: which backends may get packets of which service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules(BTreeMap<Listen, Rule>);

impl Rules {
    /// Reads the answer of `lbctl service list`.
    pub(super) fn read(services: &Value) -> Result<Self> {
        let mut rules = BTreeMap::new();
        for service in services.as_array().context("no list of services")? {
            let mut rule = Rule::default();
            for backend in service["backends"].as_array().into_iter().flatten() {
                let address: IpAddr = backend["address"].as_str().unwrap_or_default().parse()?;
                if backend["slots"].as_u64() > Some(0) {
                    rule.takes.insert(address);
                }
                if matches!(backend["state"].as_str(), Some("up" | "draining")) {
                    rule.keeps.insert(address);
                }
            }
            rules.insert(Listen::read(service["listen"].as_str().unwrap_or_default())?, rule);
        }
        Ok(Self(rules))
    }

    fn of(&self, listen: Listen) -> Option<&Rule> {
        self.0.get(&listen)
    }
}

/// A flow that has sent its first packets, and the backend that got them.
#[derive(Clone, Debug)]
struct Flow {
    listen: Listen,
    client: SocketAddr,
    served_by: IpAddr,
}

impl Flow {
    fn frame(&self, segment: Segment) -> Vec<u8> {
        let Self { listen, client, served_by: _ } = self;
        if listen.tcp {
            frame::tcp(*client, listen.to, segment, 0, 8)
        } else {
            frame::udp(*client, listen.to, 0, 8)
        }
    }
}

/// Flows that all tests of this process have begun.
static BEGUN: AtomicU32 = AtomicU32::new(0);

/// All flows of a test.
pub(super) struct Traffic<'a> {
    world: &'a World,
    flows: Vec<Flow>,
    /// Packets that were sent and judged.
    pub(super) packets: u64,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        Self { world, flows: Vec::new(), packets: 0 }
    }

    /// Sends a packet of every flow, and of some new ones, while one or both of these rules are in force. A flow stays if both
    /// rules keep its backend; every other flow may go to any backend that either rule allows.
    pub(super) fn all(&mut self, one: &Rules, other: &Rules, when: &str) -> Result<()> {
        self.round(one, other, when).with_context(|| reasons(self.world).unwrap_or_default())
    }

    fn round(&mut self, one: &Rules, other: &Rules, when: &str) -> Result<()> {
        let program = program(self.world)?;
        for place in 0..self.flows.len() {
            self.established(program.as_ref(), place, one, other, when)?;
        }
        let listens: BTreeSet<Listen> = one.0.keys().chain(other.0.keys()).copied().collect();
        for listen in listens {
            for _ in 0..3 {
                self.new_flow(program.as_ref(), listen, one, other, when)?;
            }
        }
        // Bounds the list, so that a round takes the same time however many rounds have gone before.
        if self.flows.len() > 160 {
            self.flows.drain(..self.flows.len() - 160);
        }
        Ok(())
    }

    fn established(
        &mut self,
        program: Option<&Xdp>,
        place: usize,
        one: &Rules,
        other: &Rules,
        when: &str,
    ) -> Result<()> {
        let flow = &self.flows[place];
        let fate = send(program, &flow.frame(Segment::Data))?;
        self.packets += 1;
        let rules = [one.of(flow.listen), other.of(flow.listen)];
        let stays = rules.iter().all(|rule| rule.is_some_and(|rule| rule.keeps.contains(&flow.served_by)));
        let right = match fate {
            Fate::To(backend) if backend == flow.served_by => may_keep(&rules, backend),
            Fate::To(backend) => !stays && may_take(&rules, backend),
            Fate::Dropped => !stays && may_drop(&rules),
            Fate::Passed => rules.iter().any(Option::is_none),
        };
        ensure!(right, "{when}: a packet of {flow:?} became {fate:?}; rules {rules:?}");
        match fate {
            Fate::To(backend) => self.flows[place].served_by = backend,
            // The service may come back, and then any of its backends may get the flow.
            Fate::Dropped | Fate::Passed => {}
        }
        Ok(())
    }

    fn new_flow(
        &mut self,
        program: Option<&Xdp>,
        listen: Listen,
        one: &Rules,
        other: &Rules,
        when: &str,
    ) -> Result<()> {
        // Never the same client twice: a tuple that was used a moment ago is not that of a new flow.
        let client = Ipv4Addr::from_bits(0x0a40_0001 + BEGUN.fetch_add(1, Ordering::Relaxed));
        let none_yet = IpAddr::from([0, 0, 0, 0]);
        let mut flow = Flow { listen, client: (client, 20_000).into(), served_by: none_yet };
        let rules = [one.of(listen), other.of(listen)];
        let fate = send(program, &flow.frame(Segment::Syn))?;
        self.packets += 1;
        let right = match fate {
            // A datagram does not say that its flow is new: in slots that learn it goes where older flows are.
            Fate::To(backend) => may_take(&rules, backend) || !listen.tcp && may_keep(&rules, backend),
            Fate::Dropped => may_drop(&rules),
            Fate::Passed => rules.iter().any(Option::is_none),
        };
        ensure!(right, "{when}: the first packet of {flow:?} became {fate:?}; rules {rules:?}");
        if let Fate::To(backend) = fate {
            flow.served_by = backend;
            self.flows.push(flow);
            self.established(program, self.flows.len() - 1, one, other, when)?;
        }
        Ok(())
    }

    /// Forgets flows of services that are not in these rules.
    pub(super) fn keep_to(&mut self, rules: &Rules) {
        self.flows.retain(|flow| rules.of(flow.listen).is_some());
    }
}

/// Drops are allowed where no backend takes anything, and while a service appears that has no backend yet: the agent asks
/// for the next hop of a new backend only when it needs it.
fn may_drop(rules: &[Option<&Rule>]) -> bool {
    rules.iter().any(|rule| rule.is_none_or(|rule| rule.takes.is_empty()))
}

fn may_keep(rules: &[Option<&Rule>], backend: IpAddr) -> bool {
    rules.iter().flatten().any(|rule| rule.keeps.contains(&backend))
}

fn may_take(rules: &[Option<&Rule>], backend: IpAddr) -> bool {
    rules.iter().flatten().any(|rule| rule.takes.contains(&backend))
}
