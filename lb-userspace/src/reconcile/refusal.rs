//! Why a plan is refused. Nothing was written then.

use crate::config::words::plural;

/// One reason. A refused plan gives all of its reasons.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{} asked for{}, but limits.services is {size} in the running maps: \
         raise it and restart lbd, which carries flows over into larger maps",
        plural(*.wanted, "service is", "services are"),
        while_kept(*.kept)
    )]
    Services { wanted: u64, kept: u64, size: u32 },
    #[error(
        "{} asked for{}, but limits.backends is {size} in the running maps: \
         raise it and restart lbd, which carries flows over into larger maps",
        plural(*.wanted, "backend is", "backends are"),
        while_kept(*.kept)
    )]
    Backends { wanted: u64, kept: u64, size: u32 },
    #[error(
        "service {service}: {need} slots at a stretch are asked for, but limits.slots is {size} in the running maps, where \
         {largest} are free at a stretch and {free} in all: lower max_backends of a service, or raise it \
         and restart lbd, which carries flows over into larger maps"
    )]
    Slots { service: String, need: u32, largest: u32, free: u64, size: u32 },
    #[error("service {service}: the service index has no room near its key; raise limits.services")]
    Index { service: String },
    #[error("{} needed, {size} are possible", plural(*.wanted, "egress interface is", "egress interfaces are"))]
    Egress { wanted: u64, size: u32 },
    #[error(
        "{object}: the name has {bytes} bytes, at most {} are possible",
        lb_common::map::NameRecord::NAME
    )]
    Name { object: String, bytes: usize },
    #[error("service {service}: service {other} listens on the same address, protocol and port")]
    Listen { service: String, other: String },
    #[error("service {service}: its ring of {length} slots names backend {owner} of {backends}, or is empty")]
    Ring { service: String, length: usize, owner: u32, backends: usize },
    #[error(
        "service {service}: flows are remembered for {seconds} s; the slots' clock can tell at most {} s apart",
        super::MAX_WINDOW.as_secs()
    )]
    Window { service: String, seconds: u64 },
    #[error(
        "service {service}: the ring cannot change its length or hash again before the flows of the last such change \
         are known, in about {seconds} s; set max_backends and hash back or try again then"
    )]
    ResizeRunning { service: String, seconds: u64 },
    #[error(
        "node.seed is not the one running flows were placed with: a new seed moves every established flow; set it \
         back, or `lbd --detach` and start again"
    )]
    Seed,
}

impl Refusal {
    /// Whether a map is too small, as opposed to a wish that cannot be fulfilled in any map.
    pub const fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::Services { .. }
                | Self::Backends { .. }
                | Self::Slots { .. }
                | Self::Index { .. }
                | Self::Egress { .. }
        )
    }
}

fn while_kept(kept: u64) -> String {
    if kept == 0 {
        return String::new();
    }
    format!(" ({kept} removed ones are kept for a few seconds until no packet can name them)")
}
