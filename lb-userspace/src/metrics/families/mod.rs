//! Every metric there is: name, kind, labels, one sentence, and where its samples come from, in a file for each scope. Names are
//! never changed once released.

mod backend;
mod node;
mod service;

use super::{Snapshot, text::Samples};
use crate::api::scope::Scope;

/// A metric with all its samples.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub collect: fn(&Snapshot<'_>, &mut Samples<'_>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only, and begins again at 0 with new maps.
    Counter,
    Gauge,
    /// Counts below bounds, with their number and sum.
    Histogram,
}

impl Family {
    /// What its series are about: a backend, a service or the node.
    pub fn scope(&self) -> Scope {
        let has = |name: &str| self.labels.contains(&name);
        match (has("backend"), has("service")) {
            (true, _) => Scope::Backend,
            (_, true) => Scope::Service,
            _ => Scope::Node,
        }
    }
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    collect: fn(&Snapshot<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, labels, help, collect }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    collect: fn(&Snapshot<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Gauge, labels, help, collect }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    collect: fn(&Snapshot<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Histogram, labels, help, collect }
}

const SERVICE: &[&str] = &["service"];
const BACKEND: &[&str] = &["service", "backend"];

/// All of them, in the order in which they are written.
pub fn all() -> impl Iterator<Item = &'static Family> {
    [node::FAMILIES, service::FAMILIES, backend::FAMILIES].into_iter().flatten()
}
