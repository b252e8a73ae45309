//! The last change that was carried out and the last change that was refused, for `lbctl status`.

use crate::api::{
    since::milliseconds_since_1970,
    view::{self, ApiError, Changed},
};

/// Both outcomes, with their times.
#[derive(Debug, Default)]
pub(super) struct LastChanges {
    pub(super) applied: Option<view::Outcome>,
    pub(super) refused: Option<view::Outcome>,
}

impl LastChanges {
    /// Records the outcome of a change of the configuration. A change that changed nothing does not count.
    pub(super) fn note(&mut self, outcome: &Result<Changed, ApiError>) {
        let at = milliseconds_since_1970() / 1000;
        match outcome {
            Ok(changed) if changed.summary.is_empty() => {}
            Ok(changed) => self.applied = Some(view::Outcome { at, lines: changed.summary.clone() }),
            Err(error) => {
                let message = std::iter::once(error.message.clone());
                let lines = message.chain(error.details.iter().cloned()).collect();
                self.refused = Some(view::Outcome { at, lines });
            }
        }
    }
}
