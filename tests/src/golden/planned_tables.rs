//! From a configuration to the tables: the product's own parser, state, rings and planner, on in-memory tables. No
//! kernel here; `kernel_tables` copies the tables into the kernel.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::atomic::Ordering,
};

use anyhow::{Context as _, Result, anyhow, bail};
use lb_common::{map::Node, slot::Slot};
use lb_userspace::{
    agent::{desired, rings::Rings},
    config::{
        self, Configuration, Diagnostic,
        overlay::Overlay,
        spec::{Backend, Listen, Service},
    },
    health::Verdict,
    net,
    reconcile::{Desired, Reconciler, mirror, operation::Operation},
    state::{self, Before, Observed},
    tables::{Sizes, Tables as _, address, memory::Twin},
};

use super::step::{Hop, Step, Via};
use crate::frame::OUR_MAC;

/// The time of every change; the end of the learning is a step.
const NOW: u16 = 1;

/// The time of every change in milliseconds, for holds: by then every hold is over.
const LONG_AFTER: u64 = 1 << 40;

/// A balancer's tables, and everything that decides their content.
pub(super) struct PlannedTables {
    configuration: Configuration,
    verdicts: HashMap<(String, String), Verdict>,
    hops: HashMap<IpAddr, Hop>,
    before: HashMap<(Listen, IpAddr), Before>,
    rings: Rings,
    reconciler: Reconciler<Twin>,
    /// The number of the other interface.
    other: u32,
    /// Whether the other interface is gone.
    gone: bool,
    /// The version in the node's record instead of ours.
    version: Option<u32>,
    decap: Vec<IpAddr>,
    hosts: BTreeSet<IpAddr>,
    ingress: BTreeMap<u32, u32>,
}

impl PlannedTables {
    /// # Errors
    /// Everything that is wrong with the configuration, line by line, or what does not fit into the tables.
    pub(super) fn new(text: &str, name: &str, sizes: Sizes, other: u32) -> Result<Self> {
        let document = config::parse(text.as_bytes(), name).map_err(|errors| all(&errors))?;
        let mut planned = Self {
            configuration: Configuration::new(document, &Overlay::default()),
            verdicts: HashMap::new(),
            hops: HashMap::new(),
            before: HashMap::new(),
            rings: Rings::default(),
            reconciler: Reconciler::new(Twin::new(sizes))?,
            other,
            gone: false,
            version: None,
            decap: Vec::new(),
            hosts: BTreeSet::new(),
            ingress: BTreeMap::new(),
        };
        let services = &planned.configuration.spec().services;
        planned.decap = services.iter().flat_map(|service| &service.backends).map(|b| b.address).collect();
        planned.settle_down()?;
        Ok(planned)
    }

    pub(super) fn tables(&self) -> &Twin {
        self.reconciler.tables()
    }

    /// The node's record, possibly of another version.
    pub(super) fn node(&self) -> Result<Node> {
        let node = self.tables().node()?;
        Ok(Node { abi_version: self.version.unwrap_or(node.abi_version), ..node })
    }

    /// The addresses at which `lb_decap` takes headers off.
    pub(super) fn decap(&self) -> &[IpAddr] {
        &self.decap
    }

    /// Interfaces in the device map.
    pub(super) fn egress(&self) -> Result<Vec<u32>> {
        let mut all = self.tables().egress()?;
        all.retain(|interface| !(self.gone && *interface == self.other));
        Ok(all)
    }

    /// `SERVICE/BACKEND` of a backend number.
    pub(super) fn backend(&self, number: u32) -> Result<String> {
        let metas = self.tables().backend_metas()?;
        let meta = metas.get(number as usize).with_context(|| format!("no backend {number}"))?;
        Ok(format!("{}/{}", self.service(meta.service)?, mirror::name(meta)))
    }

    /// The name of the service that has this backend.
    pub(super) fn service_of(&self, backend: u32) -> Result<String> {
        let metas = self.tables().backend_metas()?;
        self.service(metas.get(backend as usize).with_context(|| format!("no backend {backend}"))?.service)
    }

    /// `SERVICE/BACKEND` of the backend that is behind this Ethernet address.
    pub(super) fn backend_behind(&self, mac: &[u8]) -> Result<String> {
        let records = self.tables().backends()?;
        let number = records.iter().position(|record| record.interface != 0 && record.ethernet[..6] == *mac);
        self.backend(number.context("a packet was sent to a next hop that no backend has")? as u32)
    }

    /// `SERVICE/BACKEND` of the backend that has this address, given as on the wire.
    pub(super) fn backend_at(&self, octets: &[u8]) -> Result<String> {
        let named = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets() == *octets,
            IpAddr::V6(v6) => v6.octets() == *octets,
        };
        let metas = self.tables().backend_metas()?;
        let number =
            metas.iter().position(|meta| meta.flags != 0 && named(address::from_wire(&meta.address)));
        self.backend(number.context("a packet was sent to an address that no backend has")? as u32)
    }

    /// The name of a service number.
    pub(super) fn service(&self, number: u32) -> Result<String> {
        let metas = self.tables().service_metas()?;
        Ok(mirror::name(metas.get(number as usize).with_context(|| format!("no service {number}"))?))
    }

    /// Takes a step. Returns the backends whose flow records must be removed now.
    pub(super) fn step(&mut self, step: Step) -> Result<BTreeSet<u32>> {
        match step {
            Step::Hop { address, hop } => {
                self.hops.insert(address, hop);
            }
            Step::Health { service, backend, verdict } => {
                let services = &self.configuration.spec().services;
                let known = services.iter().find(|known| known.name == service);
                if known.is_none_or(|known| known.backends.iter().all(|known| known.name != backend)) {
                    bail!("there is no backend {service}/{backend}");
                }
                self.verdicts.insert((service, backend), verdict);
            }
            Step::Change(change) => {
                let refused = |refusal: config::Refusal| anyhow!("{refusal}");
                self.configuration = self.configuration.change(&change).map_err(refused)?.configuration;
            }
            Step::WindowOver => return self.each_slot(Slot::end_learning).map(|()| BTreeSet::new()),
            Step::Settled => return self.each_slot(Slot::settle).map(|()| BTreeSet::new()),
            // The kernel reports no eviction: the agent's knowledge stays as it is.
            Step::Evicted => return Ok(BTreeSet::new()),
            Step::InterfaceGone => self.gone = true,
            Step::Unconfigured => self.version = Some(0),
            Step::OtherVersion => self.version = Some(lb_common::ABI_VERSION + 1),
            Step::Decap(address) => self.decap.push(address),
            Step::Host(address) => drop(self.hosts.insert(address)),
            Step::IngressMtu(mtu) => drop(self.ingress.insert(crate::world::INGRESS, mtu)),
        }
        self.settle_down()
    }

    /// Brings the tables into the state that is in force now, as the agent does.
    fn settle_down(&mut self) -> Result<BTreeSet<u32>> {
        let key = |service: &str, backend: &str| (service.to_owned(), backend.to_owned());
        let verdict = |s: &Service, b: &Backend| {
            self.verdicts.get(&key(&s.name, &b.name)).copied().unwrap_or(Verdict::Up)
        };
        let spec = self.configuration.spec().clone();
        let effective = state::effective(
            &spec,
            Observed {
                health: &verdict,
                hops: &|address| self.hop(address),
                said: &|_, _| lb_userspace::health::Said::default(),
                doubted: &|_, _| None,
                before: &|listen, address| self.before.get(&(*listen, address)).copied(),
                // Every hold is over.
                failing: &|_, _| Some(0),
                entered: &|_, _| None,
                now: LONG_AFTER,
            },
        );
        for service in &effective {
            for backend in &service.backends {
                self.before.insert((service.listen, backend.address), backend.before());
            }
        }
        let reconciler = &self.reconciler;
        let lengths = |wishes: &[_]| reconciler.ring_lengths(wishes);
        let desired = Desired {
            hosts: Some(self.hosts.clone()),
            ingress: self.ingress.clone(),
            ..desired::desired(&spec, &effective, &mut self.rings, 0, lengths)
        };
        let plan = self.reconciler.plan(&desired, NOW)?;
        self.reconciler.apply(&plan)?;
        let mut purged = BTreeSet::new();
        for operation in plan.operations {
            if let Operation::PurgeFlows(backends) = operation {
                purged.extend(backends);
            }
        }
        Ok(purged)
    }

    fn hop(&self, address: IpAddr) -> Result<net::Hop, String> {
        let hop = self.hops.get(&address).copied().unwrap_or(Hop { via: Via::Same, mtu: 1500 });
        let interface = match hop.via {
            Via::Same => crate::world::INGRESS,
            Via::Other => self.other,
            Via::Unknown => return Err("not known".to_owned()),
        };
        let (last, source) = match address {
            IpAddr::V4(v4) => (v4.octets()[2..].to_vec(), IpAddr::from([10, 0, 0, 1])),
            IpAddr::V6(v6) => (v6.octets()[14..].to_vec(), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])),
        };
        Ok(net::Hop {
            interface,
            interface_name: "golden".to_owned(),
            via: address,
            // The next hop has the last two bytes of the backend's address.
            mac: [0x02, 0, 0, 1, last[0], last[1]],
            local_mac: OUR_MAC,
            mtu: hop.mtu,
            source,
        })
    }

    /// Applies a change that the agent's sweep makes to every slot in the course of time.
    fn each_slot(&mut self, change: fn(Slot) -> Slot) -> Result<()> {
        let tables = self.reconciler.tables_mut();
        for at in 0..tables.sizes().slots {
            let was = Slot(tables.slots()[at as usize].load(Ordering::Relaxed));
            let word = change(was);
            if word != was {
                tables.set_slots(&[(at, word.0)])?;
            }
        }
        Ok(())
    }
}

fn all(errors: &[Diagnostic]) -> anyhow::Error {
    anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}
