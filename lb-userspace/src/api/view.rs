//! What the control socket answers: the wire types, written by the agent and read by `lbctl` and scripts. They are
//! not the agent's own types, so that those may change without breaking scripts.

mod event;
mod names;
mod plan;
mod process;
mod ready;
mod status;

use std::collections::BTreeMap;

pub use self::event::{Caller, Event};
pub use self::names::Names;
pub use self::plan::{Plan, PlannedBackend, PlannedService};
pub use self::process::{Durations, Process};
pub use self::ready::Ready;
pub use self::status::{Limit, ServiceLine};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Version of the paths and of these types: the `1` of `/v1/`. Fields are added, never renamed.
pub const API_VERSION: u32 = 1;

/// An error, in every 4xx and 5xx answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: Code,
    /// For people: says what to do.
    pub message: String,
    /// What the error is about, for example `service web` or `backend web/web-1`; empty = the request.
    pub object: String,
    /// All that was wrong, where it was more than one thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// Machine-readable kind of an error, with the HTTP status it is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: the request cannot be read: bad JSON, truncated, a wrong type.
    BadRequest,
    /// 404: no such path or object.
    NotFound,
    /// 405: the path exists, not with this verb.
    MethodNotAllowed,
    /// 408: the request did not arrive whole in time.
    RequestTimeout,
    /// 409: contradicts what exists: a name taken, a file changed since.
    Conflict,
    /// 413: body above 1 MiB, or above 9 MiB where it is a configuration.
    TooLarge,
    /// 422: readable, but the configuration it makes is refused; see `details`.
    Invalid,
    /// 507: a map is too small for it; names the limit.
    LimitExceeded,
    /// 500: the kernel or a file refused.
    Failed,
    /// 503: the agent is starting or stopping.
    Unavailable,
}

impl Code {
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::LimitExceeded => 507,
            Self::Failed => 500,
            Self::Unavailable => 503,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub abi_version: u32,
    pub api_version: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub instance: String,
    pub pid: u32,
    pub version: String,
    pub uptime_seconds: u64,
    pub config_file: String,
    /// When the configuration in force was applied, seconds since 1970.
    pub applied_at: u64,
    /// Why the last attempt to apply was refused; `None` = it was not.
    pub last_error: Option<String>,
    /// The last change somebody asked for that was carried out; `None` = none since the agent started.
    #[serde(default)]
    pub last_change: Option<Outcome>,
    /// The last one that was refused.
    #[serde(default)]
    pub last_refused: Option<Outcome>,
    /// Run-time changes that the file does not have.
    pub overlay_changes: usize,
    /// Seconds until the configuration is rolled back because no one has confirmed it; `None` = it is there to stay.
    #[serde(default)]
    pub rolls_back_in: Option<u64>,
    /// Settings of the configuration in force that differ from those the agent was started with, and that it follows when
    /// it starts again.
    #[serde(default)]
    pub needs_restart: Vec<String>,
    /// Why what was in force last is in force, and not the file; `None` = the file is.
    #[serde(default)]
    pub fallback: Option<String>,
    /// Why what is pinned does not outlive the agent; `None` = it does.
    #[serde(default)]
    pub not_lasting: Option<String>,
    /// What is wrong with pins, each with a note; 0 = the next start takes over what runs.
    #[serde(default)]
    pub pins_trouble: usize,
    /// Pins that were gone and were put back since the agent started.
    #[serde(default)]
    pub pins_mended: u64,
    /// What is wrong with control socket, lock and scrape address, each with a note.
    #[serde(default)]
    pub management_trouble: usize,
    /// How often one of these was mended since the agent started.
    #[serde(default)]
    pub management_mended: u64,
    /// Fingerprint of the rings, 16 hexadecimal digits: equal on nodes that send flows to the same backends.
    pub fingerprint: String,
    /// Of the running slots and of the owners of their unknown flows: equal on nodes that also treat flows alike that began
    /// before a change.
    #[serde(default)]
    pub fingerprint_unknown: String,
    /// Whether this agent took over maps and program of one before it.
    pub adopted: bool,
    pub interfaces: Vec<Interface>,
    /// What the operator should know of the host, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Interfaces that next hops leave by.
    #[serde(default)]
    pub egress: Vec<Egress>,
    /// Why frames that are lost behind the program are not counted; `None` = they are.
    #[serde(default)]
    pub losses_not_counted: Option<String>,
    pub services: Vec<ServiceLine>,
    pub limits: Vec<Limit>,
    /// Bytes the kernel accounts for our maps.
    pub map_memory: u64,
    /// What the agent costs.
    #[serde(default)]
    pub process: Process,
    /// How long changes took to be written into the maps.
    #[serde(default)]
    pub applies: Durations,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Seconds since 1970.
    pub at: u64,
    /// What changed, or why it was refused.
    pub lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub index: Option<u32>,
    /// `native`, `generic`, `detached` (the interface is gone; attached again when it is back).
    pub attached: String,
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Egress {
    pub name: String,
    pub index: u32,
    /// Whether it sends what our program hands it: `yes`, `no`, `partly` (not what comes in over some interfaces),
    /// `unknown` (it is used; what is lost is counted).
    pub sends: String,
    /// The program we have put there, because its driver sends XDP frames only while there is one.
    pub program: Option<String>,
    /// Frames that were lost there after our program had sent them; `None` = they are not counted.
    pub dropped: Option<u64>,
    /// Why not, and what would help.
    pub note: Option<String>,
}

/// Frames that were counted as forwarded and lost behind the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressDropped {
    /// Its name, or `number 7` when it is gone.
    pub interface: String,
    /// The kernel's error, for example `ENXIO`; `full` (no room for the rest of a bundle) or `not_sent` (the driver does not
    /// say why).
    pub error: String,
    pub frames: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub id: u32,
    pub listen: String,
    pub encapsulation: String,
    /// What the ring is planned for.
    pub max_backends: u32,
    /// The configuration does not say it; it follows from the backends that the configuration has.
    #[serde(default)]
    pub max_backends_by_default: bool,
    /// Which flows are tracked: `on-change`, `always` or `never`.
    pub track: String,
    /// What of a packet says its slot: `five-tuple` or `source/BITS`, and which of them comes after it where a change
    /// waits.
    #[serde(default)]
    pub hash: String,
    /// How a new flow finds its backend: `hash`, `round-robin` or `random`.
    #[serde(default)]
    pub balance: String,
    pub slots: u32,
    /// By state: `stable`, `learning`, `remembering`, `empty`.
    pub slot_states: BTreeMap<String, u32>,
    /// Seconds until the last learning slot stops learning; `None` = none learns.
    pub learning_ends_in: Option<u64>,
    /// Why slots are tracked.
    #[serde(default)]
    pub tracking: Tracking,
    pub health: Option<String>,
    /// How slots are dealt: `maglev` or `rendezvous`.
    #[serde(default)]
    pub ring: String,
    /// In which time the weight of a backend that comes back grows to its whole; `None` = at once.
    #[serde(default)]
    pub slow_start: Option<String>,
    /// With fewer healthy backends health is ignored; `None` = never.
    #[serde(default)]
    pub min_healthy: Option<String>,
    /// It is ignored now: how many are healthy.
    #[serde(default)]
    pub health_ignored: Option<String>,
    /// How often that has begun since the agent was started.
    #[serde(default)]
    pub health_ignored_times: u64,
    /// So many backends failed at once that their checks are not believed, in words.
    #[serde(default)]
    pub correlated_failure: Option<String>,
    /// How often that has begun since the agent was started.
    #[serde(default)]
    pub correlated_failures: u64,
    /// Every setting that has a value, defaults included, as a file would have it; `health` and `backend` are apart.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// Backends that take new flows.
    #[serde(default)]
    pub backends_in_ring: usize,
    /// As in [`ServiceLine::notes`].
    #[serde(default)]
    pub notes: Vec<String>,
    /// How long health checks took; `None` = none has ended yet.
    #[serde(default)]
    pub check_durations: Option<Durations>,
    pub totals: Totals,
    pub backends: Vec<Backend>,
}

/// What the tracked slots of a service wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Changes whose slots are still learning, the newest first.
    pub changes: Vec<TrackedChange>,
    /// Learning slots by the backend that their unknown flows belong to, in the order of names.
    pub learning_from: BTreeMap<String, u32>,
    /// Learning slots that ask the ring before the last change of its length.
    pub learning_from_old_ring: u32,
    /// Seconds of silence after which a tracked flow counts as gone.
    pub window_seconds: u64,
    /// Live tracked flows.
    pub flows: u64,
    /// Of these, those that are not at their slot's owner: the slot is tracked until they are over. `None` = not known, because
    /// the service's hash is of the client only, and a record does not say its client.
    #[serde(default)]
    pub flows_elsewhere: Option<u64>,
}

/// A change, or several within the eight seconds that slot words count time by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedChange {
    pub seconds_ago: u64,
    /// Slots that are learning since.
    pub slots: u32,
    /// Seconds until they stop learning.
    pub learning_ends_in: u64,
    /// What changed; empty = it was before the agent started.
    pub why: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    pub service: String,
    pub name: String,
    pub id: u32,
    pub address: String,
    pub weight: u16,
    /// The weight in the ring now: 0 outside of it, a part of `weight` while the backend starts slowly.
    #[serde(default)]
    pub effective_weight: u16,
    /// Seconds until the weight is whole; `None` = it is, or the backend is not in the ring.
    #[serde(default)]
    pub slow_start_ends_in: Option<u64>,
    /// `up`, `down`, `draining`, `disabled`, `unresolved` (the next hop is not known), `checking` (no verdict yet),
    /// `waiting` (all numbers of the maps are taken, some of them by what was removed a moment ago).
    pub state: String,
    /// What the operator wants: `enabled`, `draining` or `disabled`. A weight of 0 is no part of it.
    #[serde(default)]
    pub admin: String,
    /// What the health check says: `up`, `down`, `checking` (no verdict yet) or `not_checked`.
    #[serde(default)]
    pub health: String,
    /// Why, in words, where it is not `up`, and what else is wrong with it.
    pub reason: Option<String>,
    /// Slots of the ring it owns.
    pub slots: u32,
    /// Its live tracked flows, when they were counted last. See `flows_tracked` for what a 0 says.
    pub flows: u64,
    /// Of which flows `flows` is the number: `all`, `some` (those in tracked slots) or `none` (no slot of the service is
    /// tracked, so that no flow is).
    #[serde(default)]
    pub flows_tracked: String,
    /// Besides these, flows that have sent nothing for `idle_after`: no drain waits for them.
    #[serde(default)]
    pub flows_idle: u64,
    /// Milliseconds since that count began; `None` = an older agent, which counts when it is asked.
    #[serde(default)]
    pub flows_age_ms: Option<u64>,
    /// Learning slots whose unknown flows belong to it: silent flows may still be there.
    pub learning_slots: u32,
    pub next_hop: Option<NextHop>,
    /// How often `state` changed since the agent was started.
    #[serde(default)]
    pub transitions: u64,
    pub totals: Totals,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextHop {
    pub interface: String,
    /// The neighbour packets go to: a gateway, or the backend itself.
    pub via: String,
    pub mac: String,
    pub mtu: u16,
    /// Outer source address or prefix.
    pub source: String,
}

/// Counters since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub packets: u64,
    /// From the inner IP header on.
    pub bytes: u64,
    /// TCP segments with SYN and without ACK: connections begun, each retransmission counted again.
    pub new_connections: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Milliseconds of the monotonic clock; subtract two of them for rates.
    pub at_ms: u64,
    /// Every counter of `lb_common::counter`, in its order.
    pub counters: Vec<CounterValue>,
    pub services: BTreeMap<String, Totals>,
    /// Keys are `service/backend`.
    pub backends: BTreeMap<String, Totals>,
    /// Frames that were lost behind the program, also while no agent ran.
    #[serde(default)]
    pub egress_dropped: Vec<EgressDropped>,
    /// Live tracked flows, when they were counted last.
    pub flows: u64,
    /// The same of those of which only the SYN was seen.
    pub pending_flows: u64,
    /// Milliseconds since that count began; `None` = an older agent, which counts when it is asked.
    #[serde(default)]
    pub flows_age_ms: Option<u64>,
    /// Flows that lost their record in the full table since the maps were made: those that more than one packet has confirmed.
    #[serde(default)]
    pub flows_evicted: u64,
    /// The same of handshakes, closed flows and flows of which one packet was seen.
    #[serde(default)]
    pub pending_flows_evicted: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterValue {
    pub name: String,
    /// `forwarded`, `passed`, `dropped` or `event`.
    pub kind: String,
    pub value: u64,
    pub description: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub service: String,
    pub backend: String,
    /// `up`, `down` or `checking`.
    pub verdict: String,
    /// Results in a row that differ from the verdict.
    pub streak: u32,
    /// How the last probe ended: `ok` or the failure in words; `None` = none has ended yet.
    pub last: Option<String>,
    /// How many microseconds it took: on a local network a probe is over in fewer than a thousand.
    pub last_us: Option<u64>,
    /// The same in whole milliseconds, for scripts that knew it before.
    pub last_ms: Option<u64>,
    pub probes: u64,
    pub failures: u64,
    /// Milliseconds since the verdict changed.
    pub since_ms: u64,
    /// What the backend says of itself: part of its weight, `drain` or `maint`.
    #[serde(default)]
    pub said: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub file: String,
    /// File and overlay together, as TOML; `node.seed` is `***` unless it was asked for.
    pub text: String,
    /// Seconds until it is rolled back because no one has confirmed it; `None` = it is there to stay.
    #[serde(default)]
    pub rolls_back_in: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    pub ok: bool,
    /// Each `file:line:column: object: message`.
    pub errors: Vec<String>,
    /// What is allowed and will hardly do what is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// What the overlay changes, one sentence each.
    pub overlay: Vec<String>,
    /// What `config apply` would change because the file was edited since, one sentence each.
    pub file: Vec<String>,
    /// Settings of the configuration in force that wait for the agent to start again.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// The outcome of a change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// Map entries written; 0 = everything was so already.
    pub writes: u64,
    /// Slots whose word changed.
    pub slots_changed: u64,
    /// What was done, one sentence each.
    pub summary: Vec<String>,
    /// What the change leaves to be known: a service without a usable backend, a part that waits, and until when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
