//! Configurations that have to be confirmed: an operator whose change cuts off the own connection gets the configuration
//! before back.

use super::{Agent, clock, config_store::ConfigStore, interfaces::Host};
use crate::{
    api::{
        kind::Kind,
        view::{ApiError, Changed, Code},
    },
    tables::Tables,
};

/// When a rollback that failed is tried again, in milliseconds.
const AGAIN: u64 = 5_000;

impl<T: Tables + Host> Agent<T> {
    /// Reads the file again, or takes a text in its place. With `confirm`, in seconds, the configuration before comes
    /// back unless somebody confirms the new one in time.
    pub(super) fn apply(
        &mut self,
        replacement: Option<&(String, String)>,
        confirm: Option<u64>,
    ) -> Result<Changed, ApiError> {
        let Some(seconds) = confirm else {
            self.ensure_no_pending_confirm()?;
            return self.reload(replacement);
        };
        // A configuration that is refused must not start the wait.
        if let Err(error) = self.may_wait(replacement) {
            self.refuse(Kind::ConfigRefused, &error);
            let outcome = Err(error);
            self.last_changes.note(&outcome);
            return outcome;
        }
        let waited = self.store.unconfirmed().is_some();
        let before = self.store.desired().fingerprint;
        self.store.wait_for_confirmation(clock::milliseconds() + seconds * 1000)?;
        let changed = self.reload(replacement);
        if changed.is_err() && !waited && self.store.desired().fingerprint == before {
            self.store.confirmed()?;
        }
        let mut changed = changed?;
        let message = format!("rolls back in {seconds} s unless it is confirmed: `lbctl config confirm`");
        self.journal.note(Kind::ConfigUnconfirmed, self.store.file(), message.clone());
        changed.summary.push(message);
        Ok(changed)
    }

    fn may_wait(&mut self, replacement: Option<&(String, String)>) -> Result<(), ApiError> {
        let candidate = self.store.reloaded(replacement)?;
        self.plan_for(&candidate.wanted)?;
        if candidate.wanted.spec.node.state_directory == self.store.spec().node.state_directory {
            return Ok(());
        }
        Err(conflict(
            "node.state_directory cannot change in a configuration that waits for its confirmation, since what to go \
             back to is kept there; apply that change by itself"
                .to_owned(),
        ))
    }

    /// Confirms: the configuration in force stays.
    pub(super) fn confirm(&mut self) -> Result<Changed, ApiError> {
        self.something_must_wait()?;
        self.store.confirmed()?;
        let message = "the configuration is confirmed".to_owned();
        self.journal.note(Kind::ConfigConfirmed, self.store.file(), message.clone());
        Ok(Changed { summary: vec![message], ..Changed::default() })
    }

    /// Brings back the configuration before, run-time changes included.
    pub(super) fn roll_back(&mut self) -> Result<Changed, ApiError> {
        self.something_must_wait()?;
        let changed = self.change(&ConfigStore::rolled_back)?;
        self.store.confirmed()?;
        let message = format!("back to the configuration before; {}", self.store.kept_rejected());
        self.journal.note(Kind::ConfigRolledBack, self.store.file(), message.clone());
        let mut summary = vec![message];
        summary.extend(changed.summary);
        Ok(Changed { summary, ..changed })
    }

    /// Rolls back when the time for the confirmation is over.
    pub(super) fn roll_back_if_due(&mut self) {
        let now = clock::milliseconds();
        if !self.store.unconfirmed().is_some_and(|unconfirmed| unconfirmed.is_over(now)) {
            return;
        }
        if let Err(error) = self.roll_back() {
            self.refuse(Kind::RollbackFailed, &error);
            self.store.put_off(now + AGAIN);
        }
    }

    /// For changes of the file as a whole: they would remove the configuration that a rollback goes back to.
    pub(super) fn ensure_no_pending_confirm(&self) -> Result<(), ApiError> {
        match self.store.unconfirmed() {
            None => Ok(()),
            Some(unconfirmed) => {
                let left = unconfirmed.deadline_ms().saturating_sub(clock::milliseconds()).div_ceil(1000);
                Err(conflict(format!(
                    "the configuration in force waits {left} s more for its confirmation; `lbctl config confirm` keeps it, \
                     `lbctl config rollback` goes back to the one before"
                )))
            }
        }
    }

    fn something_must_wait(&self) -> Result<(), ApiError> {
        match self.store.unconfirmed() {
            Some(_) => Ok(()),
            None => Err(conflict(
                "no configuration waits for a confirmation; `lbctl events` tells whether one was rolled back"
                    .to_owned(),
            )),
        }
    }
}

fn conflict(message: String) -> ApiError {
    ApiError { code: Code::Conflict, message, object: "configuration".to_owned(), details: Vec::new() }
}
