//! What an operator should know without asking: about a service in its line, about a change in its answer. Pure.

use std::time::Duration;

use super::rings::Rings;
use crate::{
    config::{
        no_slot,
        spec::{self, Admin, Hash, Spec},
        words::{plural, rough},
    },
    health::Trouble,
    reconcile::running::RunningService,
    state,
};

/// The note of a service in which no backend takes new flows.
const NO_BACKEND: &str = "no usable backend";

/// All notes of the line about a service, the most important first. `running` = what the tables say of the service.
pub(super) fn of_service(
    service: &spec::Service,
    state: &state::Service,
    running: Option<&RunningService>,
    trouble: Option<&Trouble>,
) -> Vec<String> {
    let mut notes: Vec<String> = state.waits.iter().cloned().collect();
    if state.waits.is_none() && state.usable() == 0 {
        notes.push(if state.backends.is_empty() { "no backend" } else { NO_BACKEND }.to_owned());
    }
    notes.extend(state.health_ignored.as_ref().map(|why| format!("health is ignored: {why}")));
    notes.extend(
        state.doubted.as_ref().map(|why| format!("correlated_failure: {why}, which is not believed yet")),
    );
    if state.failing {
        notes.push("no backend passes its check: the ring stays as it was".to_owned());
    }
    notes.extend(trouble.into_iter().flat_map(not_checked));
    let starting = state.backends.iter().filter(|backend| backend.slow.is_some()).count();
    if starting > 0 {
        notes.push(format!("{} slowly", plural(starting as u64, "backend starts", "backends start")));
    }
    let waiting_backends = state.backends.iter().filter(|b| b.state == state::State::Waiting).count();
    if waiting_backends > 0 && state.waits.is_none() {
        let backends = plural(waiting_backends as u64, "backend waits", "backends wait");
        notes.push(format!("{backends} for a free number"));
    }
    let Some(running) = running else { return notes };
    let slots = |backend: &state::Backend| {
        let found = running.backends.iter().find(|r| r.name == backend.name && r.address == backend.address);
        found.map_or(0, |running| running.slots)
    };
    let without: Vec<&str> = state
        .backends
        .iter()
        .filter(|backend| backend.in_ring && slots(backend) == 0)
        .map(|backend| backend.name.as_str())
        .collect();
    match without[..] {
        [] => {}
        [one] => notes.push(format!("backend {one} is up and owns no slot")),
        _ => notes.push(format!("{} backends are up and own no slot", without.len())),
    }
    notes.extend(waiting(service, running));
    notes
}

/// Checks that do not run, or that use something out of date.
fn not_checked(trouble: &Trouble) -> Vec<String> {
    let Trouble { unasked, reason, stale, late } = trouble;
    let unasked = reason.as_ref().map(|reason| {
        let backends = plural(*unasked as u64, "backend is", "backends are");
        format!("{backends} not checked, the verdict stays: {}", reason.trim_start_matches("not asked: "))
    });
    let stale = stale.as_ref().map(|why| format!("{why}: checks go on with the certificates read before"));
    unasked.into_iter().chain(stale).chain(late.map(late_checks)).collect()
}

/// Checks that begin later than they are due.
pub(super) fn late_checks(late: Duration) -> String {
    let late = late.as_secs_f64();
    format!(
        "health checks begin {late:.1} s late, and a dead backend is out so much later: see `node.health_concurrency` and the \
         limit of open files, or raise `interval`"
    )
}

/// A hash and a length of the ring that wait: for the flows of the change before, or for room.
fn waiting(service: &spec::Service, running: &RunningService) -> impl Iterator<Item = String> {
    waiting_hash(service, running).into_iter().chain(waiting_length(service, running, running.ring.length()))
}

fn waiting_hash(service: &spec::Service, running: &RunningService) -> Option<String> {
    let is = Hash::of_source_bits(running.ring.source_bits());
    (is != service.hash).then(|| {
        format!(
            "hash {} waits {}; until then {is} holds",
            service.hash,
            until(running, service.max_backends.length())
        )
    })
}

/// `is`: the length that is, or would be, in force.
fn waiting_length(service: &spec::Service, running: &RunningService, is: u32) -> Option<String> {
    let wanted = service.max_backends.length();
    (is != wanted).then(|| {
        format!("a ring of {wanted} slots waits {}; until then one of {is} goes on", until(running, wanted))
    })
}

/// How long a new ring waits.
fn until(running: &RunningService, slots: u32) -> String {
    if !running.learns_from_old_ring {
        return format!(
            "for room: limits.slots has no {slots} free at a stretch until other rings are shorter or gone; to have it sooner, \
             raise it and restart lbd, which carries flows over"
        );
    }
    let at_most = running
        .learning_ends_in
        .map(|seconds| format!(", in {} at most", rough(Duration::from_secs(seconds))));
    format!("until the flows of the change before are known{}", at_most.unwrap_or_default())
}

/// What the operator should know about a change, or about a plan for one.
pub(super) struct Change<'a> {
    pub(super) old: &'a Spec,
    pub(super) new: &'a Spec,
    pub(super) before: &'a [state::Service],
    pub(super) after: &'a [state::Service],
    /// The rings of the change.
    pub(super) rings: &'a Rings,
}

impl Change<'_> {
    /// A sentence for each service without a usable backend and each backend without a slot.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (service, state) in self.new.services.iter().zip(self.after) {
            let old = self.old.services.iter().find(|old| old.name == service.name);
            if old == Some(service) {
                continue;
            }
            let before = self.before.iter().find(|before| before.name == service.name);
            let had = before.is_some_and(|before| before.usable() > 0);
            let settled = state.backends.iter().all(|backend| backend.state != state::State::Checking);
            if state.usable() == 0 && (had || (old.is_some() && settled)) {
                let name = &service.name;
                warnings.push(format!("service {name}: {NO_BACKEND}: new flows are dropped as no_backend"));
            }
            warnings.extend(self.without_slots(service, state));
        }
        warnings
    }

    fn without_slots(&self, service: &spec::Service, state: &state::Service) -> Vec<String> {
        let Some(built) =
            self.rings.built(&service.name).filter(|built| built.entries.len() == state.backends.len())
        else {
            return Vec::new();
        };
        let mut owned = vec![0u32; built.entries.len() + 1];
        for &owner in &*built.owners {
            owned[owner as usize] += 1;
        }
        let without = state.backends.iter().zip(&owned[1..]).filter(|(b, owned)| b.in_ring && **owned == 0);
        without
            .map(|(backend, _)| {
                let why = no_slot(service, built.slots());
                format!("backend {}/{}: {why}", service.name, backend.name)
            })
            .collect()
    }
}

/// Hashes and lengths that wait, for the services for which the change asks for another hash or length. `slots`: the
/// length of a service's ring that is, or would be, in force after the change.
pub(super) fn waiting_rings(
    old: &Spec,
    new: &Spec,
    running: &[RunningService],
    slots: &dyn Fn(&spec::Service, &RunningService) -> u32,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for service in &new.services {
        let before = old.services.iter().find(|old| old.listen == service.listen);
        let running = running.iter().find(|running| running.listen == service.listen);
        let Some((before, running)) = before.zip(running) else { continue };
        let hash = waiting_hash(service, running).filter(|_| before.hash != service.hash);
        let other_length = before.max_backends.length() != service.max_backends.length();
        let length = waiting_length(service, running, slots(service, running)).filter(|_| other_length);
        warnings.extend(hash.into_iter().chain(length).map(|why| format!("service {}: {why}", service.name)));
    }
    warnings
}

/// Why a backend that was just enabled, or had its drain ended, still takes no new flows.
pub(super) fn stays_out(service: &str, backend: &state::Backend, spec: &spec::Backend) -> Option<String> {
    if backend.in_ring || spec.admin != Admin::Enabled {
        return None;
    }
    let name = format!("{service}/{}", backend.name);
    let why = match spec.weight {
        0 => format!("its weight is 0; `lbctl backend set {name} --weight 100` gives it one"),
        _ => backend.reason.clone().unwrap_or_else(|| backend.state.name().to_owned()),
    };
    Some(format!("backend {name} takes no new flows: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_are_not_made_are_a_note_with_the_reason() {
        let trouble = |unasked, reason: Option<&str>, stale: Option<&str>| Trouble {
            unasked,
            reason: reason.map(str::to_owned),
            stale: stale.map(Into::into),
            late: None,
        };
        assert_eq!(
            not_checked(&trouble(2, Some("not asked: tls: ca file /c: has no certificate in it"), None)),
            ["2 backends are not checked, the verdict stays: tls: ca file /c: has no certificate in it"]
        );
        assert_eq!(
            not_checked(&trouble(1, Some("not asked: no free local port"), Some("tls: ca file /c: gone"))),
            [
                "1 backend is not checked, the verdict stays: no free local port",
                "tls: ca file /c: gone: checks go on with the certificates read before"
            ]
        );
        let late = Trouble { late: Some(Duration::from_millis(1_250)), ..Trouble::default() };
        assert!(
            not_checked(&late)[0].starts_with("health checks begin 1.2 s late"),
            "{:?}",
            not_checked(&late)
        );
    }
}
