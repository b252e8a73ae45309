//! What of a status needs the attention of an operator, in words and in the order of its weight: for `lbctl status`, and for
//! those who watch the balancer.

use super::view::{ServiceLine, Status};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Packets are lost, or do not come to the program.
    Broken,
    /// Packets are forwarded; something is not as it should be, or soon will not be.
    Worse,
}

/// One thing that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    pub level: Level,
    /// For example `interface eth0`.
    pub object: String,
    pub message: String,
}

/// From this share on, in percent, a map is worth a look.
pub const FULL: u64 = 80;

/// States of a service: every enabled backend takes new flows, some do, or none does.
pub const STATES: &[&str] = &["up", "degraded", "down"];

/// The state of a service by its backends.
pub const fn state(in_ring: usize, enabled: usize) -> &'static str {
    match in_ring {
        0 => "down",
        n if n < enabled => "degraded",
        _ => "up",
    }
}

/// What of the node needs attention, the worst first; services are apart.
pub fn of_node(status: &Status) -> Vec<Attention> {
    let mut found = Vec::new();
    let mut note = |level, object: &str, message: String| {
        found.push(Attention { level, object: object.to_owned(), message });
    };
    for interface in status.interfaces.iter().filter(|i| !matches!(i.attached.as_str(), "native" | "generic"))
    {
        let why = interface.note.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        note(Level::Broken, &format!("interface {}", interface.name), format!("{}{why}", interface.attached));
    }
    if let Some(why) = &status.last_error {
        note(Level::Worse, "configuration", format!("the last one was refused: {why}"));
    }
    if let Some(why) = &status.fallback {
        note(Level::Worse, "configuration", why.clone());
    }
    if let Some(seconds) = status.rolls_back_in {
        note(Level::Worse, "configuration", format!("not confirmed, rolls back in {seconds} s"));
    }
    if !status.needs_restart.is_empty() {
        let settings = status.needs_restart.join(", ");
        note(Level::Worse, "agent", format!("{settings}: followed when it starts again"));
    }
    if let Some(why) = &status.not_lasting {
        note(Level::Worse, "data path", why.clone());
    }
    for (number, what) in [(status.pins_trouble, "pins"), (status.management_trouble, "management")] {
        if number > 0 {
            note(Level::Worse, what, format!("{number} of them wrong, see the notes"));
        }
    }
    for egress in status.egress.iter().filter(|egress| !matches!(egress.sends.as_str(), "yes" | "unknown")) {
        let why = egress.note.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let sends = if egress.sends == "partly" { "sends only in part" } else { "cannot send" };
        note(Level::Worse, &format!("egress {}", egress.name), format!("{sends}{why}"));
    }
    for limit in &status.limits {
        let percent = limit.used.saturating_mul(100).checked_div(limit.size).unwrap_or(0);
        if percent >= FULL {
            note(
                Level::Worse,
                &format!("limit {}", limit.name),
                format!("{percent}% of {} in use", limit.size),
            );
        }
    }
    // Stable: what is equally bad stays in its order.
    found.sort_by_key(|attention| attention.level);
    found
}

/// Whether a service needs attention.
pub fn needs(service: &ServiceLine) -> bool {
    weight(service).is_some()
}

/// The services that need attention, the worst first.
pub fn services(status: &Status) -> Vec<&ServiceLine> {
    let mut found: Vec<&ServiceLine> = status.services.iter().filter(|service| needs(service)).collect();
    found.sort_by_key(|service| weight(service));
    found
}

/// The smaller, the worse; `None` = all is well.
fn weight(service: &ServiceLine) -> Option<u8> {
    match state(service.backends_in_ring, service.backends_enabled) {
        "down" => Some(0),
        _ if service.health_ignored.is_some() => Some(1),
        "degraded" => Some(2),
        _ if !service.notes.is_empty() => Some(3),
        _ => None,
    }
}
