//! Plans for tables in which all numbers are taken, some of them by objects that were removed a moment ago, or in which
//! the arena is full of rings that will soon get shorter. Objects that have a number and a ring go on; new objects are
//! left out until they get them.

use std::time::Duration;

use super::{Agent, desired, interfaces::Host, refused, rings::Rings};
use crate::{
    api::view::ApiError,
    config::{
        spec::{Service, Spec},
        words::{plural, rough},
    },
    reconcile::{Lack, Lacking, Plan, RingWish, desired::Desired},
    state,
    tables::{Sizes, Tables},
};

/// Why numbers are not free although their objects are gone.
const KEPT: &str = "what was removed last keeps its number for some seconds, until no packet can name it";

/// What helps where waiting does not.
const RAISE: &str = "raise it and restart lbd, which carries flows over";

/// How many waiting objects an answer names.
const NAMED: usize = 5;

/// What the answer of a change, or of a plan for one, says of the objects that are left out for now.
pub(super) fn warnings(waiting: Vec<String>) -> Vec<String> {
    let more = waiting.len().saturating_sub(NAMED) as u64;
    let mut warnings = waiting;
    warnings.truncate(NAMED);
    if more > 0 {
        let more = plural(more, "more service or backend waits", "more services and backends wait");
        warnings.push(format!("{more}: `lbctl status` names them"));
    }
    warnings
}

impl<T: Tables + Host> Agent<T> {
    /// A plan for `effective`, which was made from `spec`, and a sentence for each object that the plan leaves out until
    /// numbers are free. `effective` then says that the object waits.
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
        let lacking = self.reconciler.lacking(&desired, &desired::wishes(spec), since);
        let Some(lacking) = lacking.filter(|lacking| self.may_wait_for(lacking, spec, fingerprint)) else {
            return Err(refused(&error));
        };
        let sizes = self.reconciler.tables().sizes();
        let (reduced, standing, waiting) = leave_out(&lacking, &sizes, spec, effective);
        let desired = self.desired(&reduced, fingerprint, &standing, rings);
        let plan = self.reconciler.plan(&desired, since).map_err(|error| refused(&error))?;
        Ok((plan, waiting))
    }

    /// Whether every object that is left out gets what it lacks later, or was accepted before. A configuration in force
    /// is never refused: otherwise the agent could not bring in anything else of it.
    fn may_wait_for(&self, lacking: &Lacking, spec: &Spec, fingerprint: u64) -> bool {
        if self.reconciler.mirror().node.configuration == fingerprint {
            return true;
        }
        let before = |service: &Service| self.effective.iter().find(|is| is.listen == service.listen);
        lacking
            .services
            .iter()
            .all(|lacking| lacking.within.is_some() || before(&spec.services[lacking.place]).is_some())
            && lacking.backends.iter().all(|lacking| {
                let service = &spec.services[lacking.service];
                let address = service.backends[lacking.backend].address;
                let known =
                    |is: &state::Service| is.backends.iter().any(|backend| backend.address == address);
                lacking.will_fit || before(service).is_some_and(known)
            })
    }

    fn desired(
        &self,
        spec: &Spec,
        fingerprint: u64,
        effective: &[state::Service],
        rings: &mut Rings,
    ) -> Desired {
        let lengths = |wishes: &[RingWish]| self.reconciler.ring_lengths(wishes);
        self.with_surroundings(spec, desired::desired(spec, effective, rings, fingerprint, lengths))
    }
}

/// Configuration and state without the lacking objects, and a sentence for each object that is left out.
fn leave_out(
    lacking: &Lacking,
    sizes: &Sizes,
    spec: &Spec,
    effective: &mut [state::Service],
) -> (Spec, Vec<state::Service>, Vec<String>) {
    let Lacking { services, backends } = lacking;
    let (mut reduced, mut standing, mut waiting) = (spec.clone(), effective.to_vec(), Vec::new());
    // From the back, so that the places in front stay valid.
    for lacking in backends.iter().rev() {
        let (service, backend) = (lacking.service, lacking.backend);
        let why = waits_for_number("limits.backends", sizes.backends, lacking.will_fit);
        reduced.services[service].backends.remove(backend);
        standing[service].backends.remove(backend);
        let of = &mut effective[service];
        waiting.push(format!("backend {}/{} {why}", of.name, of.backends[backend].name));
        of.backends[backend].wait(&why);
    }
    for lacking in services.iter().rev() {
        let service = lacking.place;
        let why = match lacking.lack {
            Lack::Number => waits_for_number("limits.services", sizes.services, lacking.within.is_some()),
            Lack::Room => {
                waits_for_room(spec.services[service].max_backends.length(), sizes.slots, lacking.within)
            }
        };
        reduced.services.remove(service);
        standing.remove(service);
        let of = &mut effective[service];
        waiting.push(format!("service {} {why}", of.name));
        of.backends.iter_mut().for_each(|backend| backend.wait(&why));
        of.waits = Some(why);
    }
    waiting.reverse();
    (reduced, standing, waiting)
}

fn waits_for_number(limit: &str, size: u32, will_fit: bool) -> String {
    let until = if will_fit { KEPT } else { RAISE };
    format!("waits for a free number: {limit} = {size}, and {until}")
}

fn waits_for_room(length: u32, size: u32, within: Option<u64>) -> String {
    let until = match within {
        Some(0) => " until what is removed has given up its ring, in a moment".to_owned(),
        Some(seconds) => format!(
            " until rings that became too long are shorter and their flows are known, in about {}",
            rough(Duration::from_secs(seconds))
        ),
        None => format!("; {RAISE}"),
    };
    format!("waits for room: limits.slots = {size} has no {length} free at a stretch{until}")
}
