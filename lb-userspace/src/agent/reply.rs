//! What an answer to a request is made of: a view as JSON or an error, and what the loop does afterwards.

use serde::Serialize;

use super::failed;
use crate::{
    api::{
        request::Reply,
        view::{ApiError, Code},
    },
    tables::TableError,
};

/// What the loop does after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterRequest {
    Continue,
    /// Take the program off, remove every pin and stop.
    Detach,
}

pub(super) fn json(view: &impl Serialize) -> Reply {
    serde_json::to_value(view).map_err(|error| ApiError {
        code: Code::Failed,
        message: format!("the answer cannot be written as JSON: {error}"),
        object: String::new(),
        details: Vec::new(),
    })
}

pub(super) fn not_found(kind: &str, name: &str, way_out: &str) -> ApiError {
    ApiError {
        code: Code::NotFound,
        message: format!("there is no {kind} {name}; {way_out}"),
        object: format!("{kind} {name}"),
        details: Vec::new(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
pub(super) fn unreadable(error: TableError) -> ApiError {
    failed(&error)
}
