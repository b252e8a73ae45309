//! How long the probes of each service take. Counts stay when backends come and go, and go with their service.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::histogram::Histogram;

/// By service; written by the scheduler's thread, read by those who ask.
#[derive(Debug, Default)]
pub(super) struct Durations(Mutex<HashMap<String, Histogram>>);

impl Durations {
    pub(super) fn note(&self, service: &str, took: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(service) {
            Some(histogram) => histogram.note(took),
            None => all.entry(service.to_owned()).or_default().note(took),
        }
    }

    /// Forgets all services but these.
    pub(super) fn keep(&self, services: &HashSet<&str>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| services.contains(name.as_str()));
    }

    pub(super) fn all(&self) -> HashMap<String, Histogram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_for_services_that_there_are() {
        let durations = Durations::default();
        durations.note("web", Duration::from_millis(1));
        durations.note("web", Duration::from_millis(2));
        durations.note("dns", Duration::from_millis(3));
        durations.keep(&["web"].into());
        let all = durations.all();
        assert_eq!((all.len(), all["web"].count(), all["web"].microseconds()), (1, 2, 3_000));
    }
}
