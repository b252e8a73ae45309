//! Plans where all numbers are taken, some of them by what was removed a moment ago: what has a number goes on, what is new
//! is left out until it gets one.

use super::{Agent, interfaces::Host, refused, rings::Rings, wanted};
use crate::{
    config::{spec::Spec, words::plural},
    control::view::ApiError,
    dataplane::{Sizes, Tables},
    reconcile::{Lacking, Plan, RingWish, desired::Desired},
    state,
};

/// Why numbers are not free although what had them is gone.
const KEPT: &str = "what was removed last keeps its number for some seconds, until no packet can name it";

/// How many waiting things an answer names.
const NAMED: usize = 5;

/// What the answer of a change, or of a plan for one, says of what is left out for now.
pub(super) fn warnings(waiting: Vec<String>) -> Vec<String> {
    let more = waiting.len().saturating_sub(NAMED) as u64;
    let mut warnings = waiting;
    warnings.truncate(NAMED);
    if more > 0 {
        let more = plural(more, "more service or backend waits", "more services and backends wait");
        warnings.push(format!("{more} for a free number"));
    }
    warnings
}

impl<T: Tables + Host> Agent<T> {
    /// A plan for `effective`, which was made from `spec`, and a sentence for each thing that the plan leaves out until
    /// numbers are free. `effective` says then that it waits.
    pub(super) fn planned(
        &mut self,
        spec: &Spec,
        fingerprint: u64,
        effective: &mut [state::Service],
        rings: &mut Rings,
        since: u16,
    ) -> Result<(Plan, Vec<String>), ApiError> {
        let mut all = rings.clone();
        let desired = self.desired(spec, fingerprint, effective, &mut all);
        let error = match self.reconciler.plan(&desired, since) {
            Ok(plan) => {
                *rings = all;
                return Ok((plan, Vec::new()));
            }
            Err(error) => error,
        };
        let Some(lacking) = self.reconciler.lacking(&desired, since) else { return Err(refused(&error)) };
        let sizes = self.reconciler.tables().sizes();
        let (reduced, standing, waiting) = leave_out(&lacking, &sizes, spec, effective);
        let desired = self.desired(&reduced, fingerprint, &standing, rings);
        let plan = self.reconciler.plan(&desired, since).map_err(|error| refused(&error))?;
        Ok((plan, waiting))
    }

    fn desired(
        &self,
        spec: &Spec,
        fingerprint: u64,
        effective: &[state::Service],
        rings: &mut Rings,
    ) -> Desired {
        let lengths = |wishes: &[RingWish]| self.reconciler.ring_lengths(wishes);
        self.with_surroundings(spec, wanted::desired(spec, effective, rings, fingerprint, lengths))
    }
}

/// Configuration and state without what is lacking, and a sentence for each thing that is left out.
fn leave_out(
    lacking: &Lacking,
    sizes: &Sizes,
    spec: &Spec,
    effective: &mut [state::Service],
) -> (Spec, Vec<state::Service>, Vec<String>) {
    let Lacking { services, backends } = lacking;
    let Sizes { services: most_services, backends: most_backends, slots, .. } = sizes;
    let why_backend = format!("waits for a free number: limits.backends = {most_backends}, and {KEPT}");
    let why_service = format!(
        "waits for a free number and a free ring: limits.services = {most_services}, limits.slots = {slots}, and {KEPT}"
    );
    let (mut reduced, mut standing, mut waiting) = (spec.clone(), effective.to_vec(), Vec::new());
    // From the back, so that the places in front stay what they are.
    for &(service, backend) in backends.iter().rev() {
        reduced.services[service].backends.remove(backend);
        standing[service].backends.remove(backend);
        let of = &mut effective[service];
        waiting.push(format!("backend {}/{} {why_backend}", of.name, of.backends[backend].name));
        of.backends[backend].wait(&why_backend);
    }
    for &service in services.iter().rev() {
        reduced.services.remove(service);
        standing.remove(service);
        let of = &mut effective[service];
        waiting.push(format!("service {} {why_service}", of.name));
        of.backends.iter_mut().for_each(|backend| backend.wait(&why_service));
    }
    waiting.reverse();
    (reduced, standing, waiting)
}
