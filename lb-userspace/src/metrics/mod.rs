//! Metrics in the Prometheus text format: a pure function of what the control socket answers, so that a scraper and
//! `lbctl` cannot disagree. [`families`] says what there is, [`text`] how it is written, [`reference`] documents it.
//! Serving them is `control::server`'s.

pub mod families;
pub mod reference;
pub mod text;

use crate::api::{
    scope::Scopes,
    view::{Health, Service, Stats, Status},
};

/// Everything a scrape reports, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub status: &'a Status,
    pub stats: &'a Stats,
    pub services: &'a [Service],
    pub health: &'a [Health],
}

/// The exposition of these scopes: text format 0.0.4, every family with its `# HELP` and `# TYPE`.
pub fn render(snapshot: &Snapshot<'_>, scopes: Scopes) -> String {
    // A backend has about fifteen lines of a hundred bytes.
    let backends: usize = snapshot.services.iter().map(|s| s.backends.len()).sum();
    let mut exposition = text::Exposition::with_capacity(16 * 1024 + backends * 1600);
    for family in families::all().filter(|family| scopes.has(family.scope())) {
        exposition.family(family, snapshot);
    }
    exposition.finish()
}

#[cfg(test)]
mod tests;
