//! Who changed what: one event for each change that a client asked for, whether the agent made or refused it. Files that
//! are reloaded, confirmed or rolled back have events of their own, where the agent does that.

use serde::Deserialize as _;

use super::{Agent, interfaces::Host};
use crate::{
    api::{
        kind::Kind,
        request::{Reply, Request},
        view::{Changed, Code},
    },
    config::words::plural,
    tables::Tables,
};

impl<T: Tables + Host> Agent<T> {
    /// Records the outcome of a request, if the request changes something.
    pub(super) fn note_outcome(&mut self, request: &Request, answer: &Reply) {
        let Some(object) = self.changes(request) else { return };
        match answer {
            Ok(_) if matches!(request, Request::ConfigApply { .. }) => {}
            Ok(answer) => {
                let Some(message) = Changed::deserialize(answer).ok().and_then(|changed| said(&changed))
                else {
                    return;
                };
                self.journal.note(Kind::Changed, object, message);
            }
            // A refused file has an event of its own.
            Err(error) if matches!(request, Request::ConfigApply { .. }) && error.code != Code::Conflict => {}
            Err(error) => {
                let mut message = error.message.clone();
                for detail in &error.details {
                    message.push_str("; ");
                    message.push_str(detail);
                }
                self.journal.note(Kind::ChangeRefused, object, message);
            }
        }
    }

    /// The object that a request changes; `None` = the request changes nothing, or it has events of its own.
    fn changes(&self, request: &Request) -> Option<String> {
        let name = |body: &serde_json::Value, or: &str| {
            ["name", "address"].iter().find_map(|key| body[*key].as_str()).unwrap_or(or).to_owned()
        };
        Some(match request {
            Request::ServiceAdd { body } => name(body, "service"),
            Request::ServiceSet { service, .. } | Request::ServiceRemove { service } => service.clone(),
            Request::BackendAdd { service, body } => format!("{service}/{}", name(body, "backend")),
            Request::BackendSet { service, backend, .. }
            | Request::BackendRemove { service, backend, .. } => {
                format!("{service}/{backend}")
            }
            Request::ConfigApply { .. } | Request::ConfigSave | Request::ConfigRevert => {
                self.store.file().to_owned()
            }
            _ => return None,
        })
    }
}

/// What a change did, in words; `None` = nothing.
fn said(changed: &Changed) -> Option<String> {
    let Changed { writes, slots_changed, summary, warnings } = changed;
    if *writes == 0 && summary.is_empty() {
        return None;
    }
    let mut parts = summary.clone();
    if *slots_changed > 0 {
        parts.push(format!("{} changed", plural(*slots_changed, "slot", "slots")));
    }
    if parts.is_empty() {
        parts.push(format!("{} written", plural(*writes, "map entry", "map entries")));
    }
    parts.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    Some(parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_logged_with_its_summary_and_slots() {
        let summary = vec!["backend web/web-1: weight 100 -> 50".to_owned()];
        let changed = |writes, slots_changed, summary| {
            said(&Changed { writes, slots_changed, summary, warnings: Vec::new() })
        };
        assert_eq!(
            changed(3, 12, summary.clone()).as_deref(),
            Some("backend web/web-1: weight 100 -> 50; 12 slots changed")
        );
        assert_eq!(changed(0, 0, summary).as_deref(), Some("backend web/web-1: weight 100 -> 50"));
        assert_eq!(changed(2, 0, vec![]).as_deref(), Some("2 map entries written"));
        assert_eq!(changed(1, 0, vec![]).as_deref(), Some("1 map entry written"));
        assert_eq!(changed(0, 0, vec![]), None);
        let warned = Changed { writes: 1, warnings: vec!["none is left".to_owned()], ..Changed::default() };
        assert_eq!(said(&warned).as_deref(), Some("1 map entry written; warning: none is left"));
    }
}
