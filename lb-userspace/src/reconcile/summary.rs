//! What a plan changes, in sentences for people.

use std::iter;

use lb_common::backend::Backend;

use super::{allocate::AssignedService, desired};
use crate::config::{spec::Hash, words::plural};

/// What changes in one service.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) altered: Vec<String>,
    pub(super) slots: usize,
}

impl Changes {
    /// The sentences for these changes. `was_called`: the name of the running service.
    pub(super) fn describe(
        self,
        service: &desired::Service,
        numbers: &AssignedService,
        was_called: &str,
    ) -> Vec<String> {
        let Self { added, altered, slots } = self;
        let name = &service.name;
        let length = numbers.ring.length();
        if !numbers.running {
            let backends = plural(service.backends.len() as u64, "backend", "backends");
            let new = format!("service {name} is new: {backends}, {length} slots");
            let takes = numbers.takes_from.is_some().then(|| {
                format!("service {name}: connections of before on its port stay where the service on every port had them")
            });
            return iter::once(new).chain(takes).collect();
        }
        let mut lines = Vec::new();
        if was_called != name {
            lines.push(format!("service {was_called} is now called {name}"));
        }
        if let Some(old) = numbers.replaces {
            let from = old.length();
            if from != length {
                lines.push(format!(
                    "service {name}: the ring changes its length from {from} to {length} slots"
                ));
            }
            let [was, is] = [old, numbers.ring].map(|ring| Hash::of_source_bits(ring.source_bits()));
            if was != is {
                lines.push(format!("service {name}: slots go by hash {is} instead of {was}"));
            }
        }
        let added = added.into_iter().map(|backend| format!("backend {name}/{backend} is new"));
        let altered = altered.into_iter().map(|backend| format!("backend {name}/{backend}"));
        lines.extend(shortened(added.chain(altered).collect(), name));
        if slots > 0 {
            lines.push(format!("service {name}: {slots} of {length} slots change"));
        }
        lines
    }
}

/// At most twenty sentences.
fn shortened(mut lines: Vec<String>, service: &str) -> Vec<String> {
    const MOST: usize = 20;
    if lines.len() > MOST {
        let more = lines.len() - MOST;
        lines.truncate(MOST);
        lines.push(format!(
            "service {service}: {}",
            plural(more as u64, "more backend changes", "more backends change")
        ));
    }
    lines
}

/// What becomes of a backend, in words.
pub(super) fn alteration(was: &Backend, is: &Backend) -> &'static str {
    match (was.is_alive(), is.is_alive()) {
        (true, false) => "loses its flows",
        (false, true) => "takes flows again",
        _ if was.is_draining() != is.is_draining() && is.is_draining() => "is draining: no new flows",
        _ if was.is_draining() != is.is_draining() => "is no longer draining",
        _ if was.is_failing() != is.is_failing() && is.is_failing() => {
            "gets new flows only if the other candidate fails too: its health check fails"
        }
        _ if was.is_failing() != is.is_failing() => "gets new flows by its live flows again",
        _ if Backend { weight: is.weight, ..*was } == *is => "has another weight",
        _ if was.interface != 0 && is.interface == 0 => "has no next hop",
        _ => "has another next hop",
    }
}
