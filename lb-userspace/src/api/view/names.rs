//! What `GET /v1/names` answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What there is, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The names of the backends of each service.
    pub services: BTreeMap<String, Vec<String>>,
}
