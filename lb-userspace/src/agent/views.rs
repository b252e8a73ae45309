//! What the agent knows, as the control socket shows it. Reads only; decides and changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use lb_common::{ABI_VERSION, counter::Counter, loss::Loss, map::TrafficCounters, slot::Track};
use nix::{errno::Errno, net::if_::if_indextoname};

use super::{by_backend::ByBackend, interfaces::Host, notes, tracking_causes::TrackingCauses};
use crate::{
    api::view,
    config::{
        self,
        spec::{self, Spec},
        words::{Word as _, duration},
    },
    health::{self, Trouble, Verdict},
    histogram::{self, Histogram},
    net::Hop,
    reconcile::{
        Reconciler,
        running::{BackendFlows, FlowCounts, RunningBackend, RunningService},
    },
    state,
    tables::{TableError, Tables},
};

use super::flow_sweep::Sweeper;

/// The version of this program.
pub(super) fn version() -> view::Version {
    view::Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi_version: ABI_VERSION,
        api_version: view::API_VERSION,
    }
}

/// Services and their backends in the configuration in force.
pub(super) fn names(spec: &Spec) -> view::Names {
    let backends =
        |service: &spec::Service| service.backends.iter().map(|backend| backend.name.clone()).collect();
    view::Names {
        services: spec.services.iter().map(|service| (service.name.clone(), backends(service))).collect(),
    }
}

/// What the health check knows of a backend.
pub(super) fn last_check(of: health::Snapshot) -> view::Health {
    let ended = of.last.is_some();
    view::Health {
        service: of.service,
        backend: of.backend,
        verdict: of.verdict.name().to_owned(),
        streak: of.streak,
        last: of.last.map(|result| result.err().unwrap_or_else(|| "ok".to_owned())),
        last_us: ended.then(|| u64::try_from(of.elapsed.as_micros()).unwrap_or(u64::MAX)),
        last_ms: ended.then(|| milliseconds(of.elapsed)),
        probes: of.probes,
        failures: of.failures,
        since_ms: milliseconds(of.since),
        said: Some(of.said.to_string()).filter(|said| !said.is_empty()),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What was counted since the agent was started.
pub(super) struct Counted {
    /// By service: how often health was ignored, and how often many failures at once were not believed.
    pub(super) health_ignored: HashMap<String, u64>,
    pub(super) doubted: HashMap<String, u64>,
    /// By service and backend: how often its state changed.
    pub(super) transitions: ByBackend<u64>,
    /// By service: how long its checks took.
    pub(super) checks: HashMap<String, Histogram>,
}

pub(super) fn durations(of: &Histogram) -> view::Durations {
    view::Durations {
        bounds_us: histogram::BOUNDS.into(),
        counts: of.cumulative(),
        count: of.count(),
        sum_us: of.microseconds(),
    }
}

/// The data of every view of services, read once.
pub(super) struct Reading {
    running: Vec<RunningService>,
    flows: FlowCounts,
    flows_age_ms: u64,
    service_tallies: Vec<TrafficCounters>,
    backend_tallies: Vec<TrafficCounters>,
    hop_notes: HashMap<IpAddr, String>,
    counted: Counted,
    troubles: HashMap<String, Trouble>,
    /// Milliseconds of the monotonic clock.
    at_ms: u64,
}

impl Reading {
    /// Reads tables and tallies at `at_ms` of the monotonic clock.
    pub(super) fn take<T: Tables>(
        reconciler: &Reconciler<T>,
        sweeper: &Sweeper,
        hop_notes: &HashMap<IpAddr, String>,
        counted: Counted,
        troubles: HashMap<String, Trouble>,
        at_ms: u64,
    ) -> Result<Self, TableError> {
        Ok(Self {
            running: reconciler.running(lb_common::slot::since(at_ms / 1000)),
            flows: sweeper.counts().clone(),
            flows_age_ms: sweeper.age(at_ms),
            service_tallies: reconciler.tables().service_tallies()?,
            backend_tallies: reconciler.tables().backend_tallies()?,
            hop_notes: hop_notes.clone(),
            counted,
            troubles,
            at_ms,
        })
    }

    /// One line for each service.
    pub(super) fn lines(&self, spec: &Spec, effective: &[state::Service]) -> Vec<view::ServiceLine> {
        spec.services
            .iter()
            .zip(effective)
            .map(|(service, state)| view::ServiceLine {
                name: service.name.clone(),
                listen: service.listen.to_string(),
                backends: service.backends.len(),
                backends_in_ring: state.usable(),
                backends_enabled: enabled(service),
                backends_healthy: state.backends.iter().filter(|backend| is_healthy(backend)).count(),
                slots_tracked: self.of(service).map_or(0, |running| running.states.tracked()),
                slots_learning: self.of(service).map_or(0, |running| running.states.learning),
                health_ignored: state.health_ignored.clone(),
                backends_starting: state.backends.iter().filter(|backend| backend.slow.is_some()).count(),
                checks_late_ms: self
                    .troubles
                    .get(&service.name)
                    .and_then(|trouble| trouble.late)
                    .map_or(0, |late| u64::try_from(late.as_millis()).unwrap_or(u64::MAX)),
                notes: notes::of_service(service, state, self.of(service), self.troubles.get(&service.name)),
            })
            .collect()
    }

    /// Every service with its backends.
    pub(super) fn services(
        &self,
        spec: &Spec,
        effective: &[state::Service],
        reasons: &TrackingCauses,
    ) -> Vec<view::Service> {
        let virtual_addresses = config::virtual_addresses(spec);
        spec.services
            .iter()
            .zip(effective)
            .map(|(service, state)| self.service(spec, &virtual_addresses, service, state, reasons))
            .collect()
    }

    fn service(
        &self,
        spec: &Spec,
        virtual_addresses: &HashMap<IpAddr, &str>,
        service: &spec::Service,
        state: &state::Service,
        reasons: &TrackingCauses,
    ) -> view::Service {
        let running = self.of(service);
        let numbers: HashMap<(&str, IpAddr), &RunningBackend> = running
            .iter()
            .flat_map(|running| &running.backends)
            .map(|backend| ((backend.name.as_str(), backend.address), backend))
            .collect();
        let states = running.map(|running| running.states).unwrap_or_default();
        let tally = running.and_then(|running| self.service_tallies.get(running.number as usize));
        view::Service {
            name: service.name.clone(),
            id: running.map_or(0, |running| running.number),
            listen: service.listen.to_string(),
            encapsulation: service.encapsulation.word().to_owned(),
            max_backends: service.max_backends.backends(),
            max_backends_by_default: service.max_backends.said().is_none(),
            track: service.track.word().to_owned(),
            hash: hash(service.hash, running),
            balance: service.balance.word().to_owned(),
            slots: running.map_or(0, |running| running.ring.length()),
            slot_states: BTreeMap::from(
                [
                    ("stable", states.stable),
                    ("learning", states.learning),
                    ("remembering", states.remembering),
                    ("empty", states.empty),
                ]
                .map(|(name, count)| (name.to_owned(), count)),
            ),
            learning_ends_in: running.and_then(|running| running.learning_ends_in),
            tracking: running.map(|running| self.tracking(service, running, reasons)).unwrap_or_default(),
            health: service.health.as_ref().map(ToString::to_string),
            ring: service.ring.word().to_owned(),
            slow_start: service.slow_start.map(duration),
            min_healthy: service.min_healthy.map(|least| least.to_string()),
            health_ignored: state.health_ignored.clone(),
            health_ignored_times: self.counted.health_ignored.get(&service.name).copied().unwrap_or(0),
            correlated_failure: state.doubted.clone(),
            correlated_failures: self.counted.doubted.get(&service.name).copied().unwrap_or(0),
            settings: service.settings(),
            backends_in_ring: state.usable(),
            notes: notes::of_service(service, state, running, self.troubles.get(&service.name)),
            check_durations: self.counted.checks.get(&service.name).map(durations),
            totals: tally.map(totals).unwrap_or_default(),
            backends: service
                .backends
                .iter()
                .zip(&state.backends)
                .map(|(backend, state)| {
                    let number = numbers.get(&(backend.name.as_str(), backend.address));
                    self.backend(spec, virtual_addresses, (service, running), backend, state, number.copied())
                })
                .collect(),
        }
    }

    fn tracking(
        &self,
        service: &spec::Service,
        running: &RunningService,
        reasons: &TrackingCauses,
    ) -> view::Tracking {
        let learning = running.backends.iter().filter(|backend| backend.learning_slots > 0);
        let flows = self.flows.by_service.get(&running.number).copied().unwrap_or_default();
        let changes = running.learning.iter().map(|group| view::TrackedChange {
            seconds_ago: group.seconds_ago,
            slots: group.slots,
            learning_ends_in: group.ends_in(service.window),
            why: reasons.of(&service.name, group.since),
        });
        view::Tracking {
            changes: changes.collect(),
            learning_from: learning.map(|backend| (backend.name.clone(), backend.learning_slots)).collect(),
            learning_from_old_ring: running.states.asks_old_ring,
            window_seconds: service.window.as_secs(),
            flows: flows.confirmed,
            // Records do not say which slots their flows fall into where a ring hashes sources.
            flows_elsewhere: (!running.ring.hashes_sources()).then_some(flows.elsewhere),
        }
    }

    fn backend(
        &self,
        spec: &Spec,
        virtual_addresses: &HashMap<IpAddr, &str>,
        (service, ring): (&spec::Service, Option<&RunningService>),
        backend: &spec::Backend,
        state: &state::Backend,
        running: Option<&RunningBackend>,
    ) -> view::Backend {
        let tally = running.and_then(|running| self.backend_tallies.get(running.number as usize));
        let length = ring.map_or(0, |ring| ring.ring.length());
        let owns_none = state.in_ring && running.is_some_and(|running| running.slots == 0);
        let mut reasons: Vec<String> = state.reason.iter().cloned().collect();
        reasons.extend(self.hop_notes.get(&backend.address).filter(|_| state.reason.is_none()).cloned());
        reasons.extend(state.said.changes_weight().then(|| format!("its check says {}", state.said)));
        let source = state.hop.as_ref().map(|hop| hop.source);
        let of = source.and_then(|source| Some((source, virtual_addresses.get(&source)?)));
        reasons.extend(of.map(|(source, of)| config::from_virtual_address(source, of)));
        reasons.extend(owns_none.then(|| config::no_slot(service, length)));
        let flows = running.and_then(|running| self.flows.by_backend.get(&running.number));
        let BackendFlows { live, idle } = flows.copied().unwrap_or_default();
        view::Backend {
            service: service.name.clone(),
            name: backend.name.clone(),
            id: running.map_or(0, |running| running.number),
            address: backend.address.to_string(),
            weight: backend.weight,
            effective_weight: state.weight,
            slow_start_ends_in: state.slow.map(|slow| slow.ends.saturating_sub(self.at_ms).div_ceil(1000)),
            state: state.state.name().to_owned(),
            admin: backend.admin.word().to_owned(),
            health: state.health.map_or("not_checked", Verdict::name).to_owned(),
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            slots: running.map_or(0, |running| running.slots),
            flows_tracked: flows_tracked(service, ring).to_owned(),
            flows: live,
            flows_idle: idle,
            flows_age_ms: Some(self.flows_age_ms),
            learning_slots: running.map_or(0, |running| running.learning_slots),
            next_hop: state.hop.as_ref().map(|hop| next_hop(spec, backend, hop)),
            transitions: self.counted.transitions.get(&service.name, &backend.name).copied().unwrap_or(0),
            totals: tally.map(totals).unwrap_or_default(),
        }
    }

    /// Counters and traffic at `at_ms` of the monotonic clock.
    pub(super) fn stats(
        &self,
        spec: &Spec,
        counters: &[u64],
        losses: &BTreeMap<Loss, u64>,
        at_ms: u64,
    ) -> view::Stats {
        let mut services = BTreeMap::new();
        let mut backends = BTreeMap::new();
        for service in &spec.services {
            let running = self.of(service);
            let tally = running.and_then(|running| self.service_tallies.get(running.number as usize));
            services.insert(service.name.clone(), tally.map(totals).unwrap_or_default());
            for backend in running.iter().flat_map(|running| &running.backends) {
                let tally = self.backend_tallies.get(backend.number as usize);
                let name = format!("{}/{}", service.name, backend.name);
                backends.insert(name, tally.map(totals).unwrap_or_default());
            }
        }
        let count = |counter: Counter| counters.get(counter as usize).copied().unwrap_or(0);
        view::Stats {
            at_ms,
            counters: Counter::ALL
                .iter()
                .map(|counter| view::CounterValue {
                    name: counter.name().to_owned(),
                    kind: counter.kind().name().to_owned(),
                    value: count(*counter),
                    description: counter.description().to_owned(),
                })
                .collect(),
            services,
            backends,
            egress_dropped: losses.iter().map(|(loss, frames)| lost(*loss, *frames)).collect(),
            flows: self.flows.confirmed,
            flows_age_ms: Some(self.flows_age_ms),
            pending_flows: self.flows.pending,
            flows_evicted: count(Counter::FlowEvicted),
            pending_flows_evicted: count(Counter::FlowEvictedUnproven),
        }
    }

    fn of(&self, service: &spec::Service) -> Option<&RunningService> {
        self.running.iter().find(|running| running.listen == service.listen)
    }
}

/// How full the maps are.
pub(super) fn limits<T: Tables + Host>(reconciler: &Reconciler<T>) -> Vec<view::Limit> {
    use lb_common::map::name;
    let (usage, sizes) = (reconciler.usage(), reconciler.tables().sizes());
    let memory = reconciler.tables().memory();
    let bytes =
        |maps: &[&str]| memory.iter().filter(|(map, _)| maps.contains(map)).map(|(_, bytes)| bytes).sum();
    let services = [name::SVC_FRONT, name::SVC_INDEX, name::SERVICES, name::SVC_META, name::SVC_TALLY];
    let backends = [name::BACKENDS, name::BK_META, name::BK_TALLY, name::BK_SERVICE, name::LIVE];
    [
        ("services", usage.services, sizes.services, bytes(&services)),
        ("backends", usage.backends, sizes.backends, bytes(&backends)),
        ("slots", usage.slots, sizes.slots, bytes(&[name::RING, name::SLOT_OWNERS, name::SLOT_ELSEWHERE])),
        ("flows", reconciler.mirror().flows_met, sizes.flows, bytes(&[name::FLOWS])),
    ]
    .map(|(name, used, size, bytes)| view::Limit { name: name.to_owned(), used, size: size.into(), bytes })
    .into()
}

/// Which part of a packet decides the slot now, and the setting that waits for the flows of the last change.
fn hash(wanted: spec::Hash, running: Option<&RunningService>) -> String {
    let is = running.map_or(wanted, |running| spec::Hash::of_source_bits(running.ring.source_bits()));
    if is == wanted { is.to_string() } else { format!("{is}, then {wanted}") }
}

/// Backends that the operator wants to take flows.
fn enabled(service: &spec::Service) -> usize {
    service.backends.iter().filter(|backend| backend.admin == spec::Admin::Enabled).count()
}

fn is_healthy(backend: &state::Backend) -> bool {
    backend.state != state::State::Disabled && backend.health.is_none_or(|verdict| verdict == Verdict::Up)
}

/// What is wrong with a way whose source is a virtual address.
pub(super) fn virtual_source(spec: &Spec, hop: &Hop) -> Option<String> {
    let of = spec.services.iter().find(|service| service.listen.address == hop.source)?;
    Some(config::from_virtual_address(hop.source, &of.name))
}

/// Which flows have records.
fn flows_tracked(service: &spec::Service, running: Option<&RunningService>) -> &'static str {
    let states = running.map(|running| running.states).unwrap_or_default();
    match service.track {
        Track::Always if states.learning == 0 => "all",
        _ if states.tracked() > 0 => "some",
        _ => "none",
    }
}

/// Frames that were lost behind the program, in words.
fn lost(loss: Loss, frames: u64) -> view::EgressDropped {
    let interface = if_indextoname(loss.interface).ok().and_then(|name| name.into_string().ok());
    let errno = |number: u32| format!("{:?}", Errno::from_raw(number.try_into().unwrap_or(0)));
    view::EgressDropped {
        interface: interface.unwrap_or_else(|| format!("number {}", loss.interface)),
        error: match loss.error {
            Loss::FULL => "full".to_owned(),
            Loss::NOT_SENT => "not_sent".to_owned(),
            number => errno(number),
        },
        frames,
    }
}

fn totals(tally: &TrafficCounters) -> view::Totals {
    let TrafficCounters { packets, bytes, new_connections, turns: _ } = *tally;
    view::Totals { packets, bytes, new_connections }
}

fn next_hop(spec: &Spec, backend: &spec::Backend, hop: &Hop) -> view::NextHop {
    let configured = if backend.address.is_ipv4() {
        spec.node.source_v4.map(|source| source.to_string())
    } else {
        spec.node.source_v6.map(|source| source.to_string())
    };
    view::NextHop {
        interface: hop.interface_name.clone(),
        via: hop.via.to_string(),
        mac: hop.mac.map(|byte| format!("{byte:02x}")).join(":"),
        mtu: hop.mtu,
        source: configured.unwrap_or_else(|| hop.source.to_string()),
    }
}
