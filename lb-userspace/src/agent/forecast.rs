//! What a configuration would change, told before anything is applied: `lbctl plan`. Works everything out as an apply
//! would, and stops before the first write. Backends that are new are taken for healthy and reachable; those that are
//! there are taken as they are.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{
    Agent, clock,
    compared::{self, Compared},
    interfaces::Host,
    key, refused,
    requests::needs_restart,
    store::Wanted,
    wanted,
};
use crate::{
    config::spec::{Listen, Service, Spec},
    control::view::{ApiError, Plan, PlannedService},
    dataplane::Tables,
    health::Verdict,
    net::Hop,
    reconcile::affected::Affected,
    state,
};

impl<T: Tables + Host> Agent<T> {
    /// The forecast for a text and the name it has in messages. Changes nothing.
    pub(super) fn forecast(&mut self, text: &str, name: &str) -> Result<Plan, ApiError> {
        let candidate = self.store.reloaded(Some(&(text.to_owned(), name.to_owned())))?;
        let Wanted { spec, fingerprint } = &candidate.wanted;
        let effective = self.assumed(spec);
        let mut rings = self.rings.clone();
        let reconciler = &self.reconciler;
        let length = |listen: &Listen, wanted| reconciler.ring_length(listen, wanted);
        let desired = wanted::desired(spec, &effective, &mut rings, *fingerprint, length);
        let now = clock::since();
        let plan = self.reconciler.plan(&desired, now).map_err(|error| refused(&error))?;
        let affected = self.reconciler.affected(&plan, now).map_err(|error| super::failed(&error))?;
        let old = self.store.spec();
        let numbers: HashMap<Listen, u32> = self
            .reconciler
            .running(now)
            .into_iter()
            .map(|service| (service.listen, service.number))
            .collect();
        let of = |service: &Service| {
            let found = numbers.get(&service.listen).and_then(|number| affected.get(number));
            found.cloned().unwrap_or_default()
        };
        let mut services = Vec::new();
        for service in &spec.services {
            let Some(is) = rings.built(&service.name) else { continue };
            let before = old.services.iter().find(|old| old.listen == service.listen);
            services.push(match before.and_then(|before| self.rings.built(&before.name)) {
                Some(was) => {
                    planned(service, is.slots(), compared::compare(was, is), &of(service), "changed")
                }
                None => planned(service, is.slots(), compared::fresh(is), &Affected::default(), "new"),
            });
        }
        for service in old.services.iter().filter(|old| spec.services.iter().all(|s| s.listen != old.listen))
        {
            let Some(was) = self.rings.built(&service.name) else { continue };
            services.push(planned(service, was.slots(), compared::gone(was), &of(service), "removed"));
        }
        Ok(Plan {
            summary: candidate.summary,
            services,
            warnings: self.cuts(&effective),
            writes: plan.entries(),
            needs_restart: needs_restart(&old, spec).into_iter().map(str::to_owned).collect(),
        })
    }

    /// Backends whose flows would be cut: they are alive, and would not be.
    fn cuts(&self, new: &[state::Service]) -> Vec<String> {
        let alive = |services: &[state::Service], service: &str, backend: &str| {
            let service = services.iter().find(|known| known.name == service);
            service.is_some_and(|s| s.backends.iter().any(|b| b.name == backend && b.alive))
        };
        let mut warnings = Vec::new();
        for service in &self.effective {
            let name = &service.name;
            for backend in service.backends.iter().filter(|backend| backend.alive) {
                let backend = &backend.name;
                if new.iter().any(|new| new.name == *name) && !alive(new, name, backend) {
                    warnings.push(format!(
                        "backend {name}/{backend} would lose its flows at once; to let them end first: `lbctl backend \
                         drain {name}/{backend} --wait`"
                    ));
                }
            }
        }
        warnings
    }

    /// What would be in force if all that is new worked, with whole weights.
    fn assumed(&self, spec: &Spec) -> Vec<state::Service> {
        let old = self.store.spec();
        let known: HashSet<(&str, &str, IpAddr)> = backends(&old).collect();
        let addresses: HashMap<(&str, &str), IpAddr> =
            backends(spec).map(|(service, backend, address)| ((service, backend), address)).collect();
        let is_new = |service: &str, backend: &str| {
            let address = addresses.get(&(service, backend));
            address.is_none_or(|address| !known.contains(&(service, backend, *address)))
        };
        let health = |service: &str, backend: &str| match self.verdicts.get(&key(service, backend)) {
            _ if is_new(service, backend) => Verdict::Up,
            Some((_, verdict)) => *verdict,
            None => Verdict::Checking,
        };
        let mut routed = self.hops.values().filter_map(|hop| hop.as_ref().ok());
        let any = routed.next().cloned();
        let hops = |address: IpAddr| match self.hops.get(&address) {
            Some(hop) => hop.clone(),
            None => Ok(any.clone().unwrap_or_else(|| somewhere(address))),
        };
        let before = |service: &str, backend: &str| {
            let before = self.before.get(&key(service, backend)).copied();
            before.filter(|_| !is_new(service, backend))
        };
        let now = clock::milliseconds();
        let entered = |service: &str, backend: &str| {
            let before = before(service, backend).filter(|before| before.in_ring)?;
            self.entries.entered(service, backend, Some(before), now)
        };
        let observed =
            state::Observed { health: &health, hops: &hops, before: &before, entered: &entered, now };
        state::effective(spec, observed)
    }
}

fn backends(spec: &Spec) -> impl Iterator<Item = (&str, &str, IpAddr)> {
    spec.services.iter().flat_map(|service| {
        service.backends.iter().map(|backend| (&*service.name, &*backend.name, backend.address))
    })
}

/// A next hop for an address while none is known at all.
fn somewhere(address: IpAddr) -> Hop {
    Hop {
        interface: 1,
        interface_name: String::new(),
        via: address,
        mac: [0; 6],
        local_mac: [0; 6],
        mtu: 1500,
        source: address,
    }
}

fn planned(
    service: &Service,
    slots: u32,
    compared: Compared,
    affected: &Affected,
    change: &str,
) -> PlannedService {
    let Compared { moved, collateral, backends } = compared;
    let Affected { slots_changed, slots_tracked, longest_learning, flows, cut } = affected;
    let is_same = change == "changed" && *slots_changed == 0 && *cut == 0 && backends.is_empty();
    let tracked_for = match *longest_learning {
        Some(learning) => Some(learning.ends_in(service.window)),
        None => (*slots_tracked > 0).then_some(service.window.as_secs()),
    };
    PlannedService {
        name: service.name.clone(),
        change: if is_same { "unchanged" } else { change }.to_owned(),
        slots,
        slots_moved: moved,
        moved_percent: percent(moved, slots),
        slots_collateral: collateral,
        collateral_percent: percent(collateral, slots),
        flows_in_moved_slots: *flows,
        flows_cut: *cut,
        slots_tracked: *slots_tracked,
        tracked_for_seconds: tracked_for,
        backends,
    }
}

/// With one decimal.
fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { (f64::from(part) * 1000.0 / f64::from(whole)).round() / 10.0 }
}
