//! What `GET /v1/ready` answers.

use serde::{Deserialize, Serialize};

/// Whether this node does what a balancer is there for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The program is attached to every interface, and the maps say what the configuration does.
    pub ready: bool,
    /// Why not, one sentence each.
    pub reasons: Vec<String>,
    /// What else of the node needs attention; it does not keep packets from being forwarded.
    pub attention: Vec<String>,
}
