//! Settings that take effect only when the agent starts again.

use crate::config::spec::Spec;

/// Settings that differ and that a running agent does not adopt.
pub(super) fn needs_restart(old: &Spec, new: &Spec) -> Vec<&'static str> {
    let (o, n) = (&old.node, &new.node);
    [
        ("limits", old.limits != new.limits),
        ("node.health_concurrency", o.health_concurrency != n.health_concurrency),
        ("node.metrics", o.metrics != n.metrics),
        ("node.mode", o.mode != n.mode),
        ("node.socket_group", o.socket_group != n.socket_group),
    ]
    .into_iter()
    .filter_map(|(setting, differs)| differs.then_some(setting))
    .collect()
}
