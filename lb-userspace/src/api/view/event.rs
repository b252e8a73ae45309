//! What `GET /v1/events` answers.

use serde::{Deserialize, Serialize};

/// Something that happened in the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows from event to event, also over restarts of the agent.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `error`, `warn` or `info`.
    #[serde(default)]
    pub level: String,
    /// One of [`super::super::kind::Kind`]: `backend_up`, `backend_down`, `changed`, `interface_attached`, …
    pub kind: String,
    pub object: String,
    pub message: String,
    /// Who asked for it, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Caller>,
}

/// Who asked for a change, as the kernel says of the other end of the socket (`SO_PEERCRED`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub uid: u32,
    /// Where this host knows the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

impl std::fmt::Display for Caller {
    /// `root, uid 0, pid 4711`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { uid, user, pid } = self;
        if let Some(user) = user {
            write!(f, "{user}, ")?;
        }
        write!(f, "uid {uid}")?;
        pid.map_or(Ok(()), |pid| write!(f, ", pid {pid}"))
    }
}
