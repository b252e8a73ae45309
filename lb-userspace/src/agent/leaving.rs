//! Backends that a new configuration no longer names, while none of the backends that it names is known to work: the old
//! ones serve on until a new one works, so that no change leaves a service without a backend. Pure; the caller supplies
//! verdicts and the clock.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::spec::{Admin, Backend, Listen, Service, Spec},
    state::{self, State},
};

/// Until when backends of a service may serve on, in milliseconds of the monotonic clock.
pub(super) type Deadlines = HashMap<Listen, u64>;

/// A configuration, and the backends of the one before that serve on.
#[derive(Clone)]
pub(super) struct InForce {
    pub(super) spec: Arc<Spec>,
    pub(super) deadlines: Deadlines,
}

impl InForce {
    /// A configuration with no backend of the one before.
    pub(super) fn of(spec: &Arc<Spec>) -> Self {
        Self { spec: spec.clone(), deadlines: Deadlines::new() }
    }

    /// Names of the backends that serve on, by service.
    pub(super) fn leaving<'a>(&'a self, wanted: &Spec) -> Vec<(&'a Service, Vec<&'a Backend>)> {
        let mut all = Vec::new();
        for service in self.spec.services.iter().filter(|s| self.deadlines.contains_key(&s.listen)) {
            let named: HashSet<IpAddr> = of(wanted, &service.listen)
                .into_iter()
                .flat_map(|s| &s.backends)
                .map(|b| b.address)
                .collect();
            let leaving = service.backends.iter().filter(|backend| !named.contains(&backend.address));
            all.push((service, leaving.collect()));
        }
        all
    }
}

fn of<'a>(spec: &'a Spec, listen: &Listen) -> Option<&'a Service> {
    spec.services.iter().find(|service| service.listen == *listen)
}

/// `wanted`, with the backends of `before` that serve on. `effective` is what is in force of `before`; `works` says
/// whether a backend of `wanted` is known to work.
pub(super) fn in_force(
    wanted: &Arc<Spec>,
    before: &InForce,
    effective: &[state::Service],
    works: &dyn Fn(&Service, &Backend) -> bool,
    now: u64,
) -> InForce {
    // The ordinary case, after each verdict.
    if before.deadlines.is_empty() && Arc::ptr_eq(wanted, &before.spec) {
        return before.clone();
    }
    let mut spec = wanted.clone();
    let mut deadlines = Deadlines::new();
    for (place, service) in wanted.services.iter().enumerate() {
        let running =
            before.spec.services.iter().zip(effective).find(|(old, _)| old.listen == service.listen);
        let Some((old, state)) = running else { continue };
        let leaving = working(old, state, service);
        let mut successors = service.backends.iter().filter(|b| b.admin == Admin::Enabled && b.weight > 0);
        // Where the operator wants no backend to take flows, the old ones do not serve on, either.
        let (mut any, mut known) = (false, false);
        while let Some(backend) = successors.next().filter(|_| !known) {
            any = true;
            known = works(service, backend);
        }
        if leaving.is_empty() || !any || known {
            continue;
        }
        let longest = u64::try_from(service.handover.as_millis()).unwrap_or(u64::MAX);
        let deadline = before.deadlines.get(&service.listen).copied().unwrap_or(now.saturating_add(longest));
        if deadline <= now {
            continue;
        }
        deadlines.insert(service.listen, deadline);
        let with = Arc::make_mut(&mut spec);
        for backend in leaving {
            let names: HashSet<&str> =
                with.services[place].backends.iter().map(|b| b.name.as_str()).collect();
            let name = free_name(&backend.name, &names);
            with.services[place].backends.push(Backend { name, ..backend.clone() });
        }
        with.services[place].backends.sort_by(|a, b| a.name.cmp(&b.name));
    }
    InForce { spec, deadlines }
}

/// Backends of `old` that work, take new flows, and are not named by `new`.
fn working<'a>(old: &'a Service, state: &state::Service, new: &Service) -> Vec<&'a Backend> {
    let named: HashSet<IpAddr> = new.backends.iter().map(|backend| backend.address).collect();
    let pairs = old.backends.iter().zip(&state.backends);
    pairs
        .filter(|(backend, state)| {
            state.in_ring && state.state == State::Up && !named.contains(&backend.address)
        })
        .map(|(backend, _)| backend)
        .collect()
}

/// The name itself, or a similar one that no other backend has.
fn free_name(name: &str, taken: &HashSet<&str>) -> String {
    if !taken.contains(name) {
        return name.to_owned();
    }
    let short: String = name.chars().take(40).collect();
    let mut names = (0..).map(|n: u32| match n {
        0 => format!("{short}-leaving"),
        n => format!("{short}-leaving-{n}"),
    });
    names.find(|name| !taken.contains(name.as_str())).unwrap_or_default()
}
