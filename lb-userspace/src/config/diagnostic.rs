//! What is wrong, at which place, and with which object: the one form in which configuration errors reach people.

use std::{fmt, sync::Arc};

use super::words::plural;

/// The place of a value. Places sort in reading order: the file from top to bottom, then run-time changes, then the request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A file as a whole.
    File(Arc<str>),
    /// Line and column count from 1, columns in characters.
    Text { file: Arc<str>, line: u32, column: u32 },
    /// A change made at run time: `web/web-1.weight`.
    Overlay(Arc<str>),
    /// In the JSON body of a request: `$.health.port` (RFC 9535). Shown as `health.port of the request`.
    Body(Arc<str>),
}

impl Place {
    /// The place of a member of the value at this place. Only places that are paths differ for members.
    pub(super) fn member(&self, name: &str) -> Self {
        match self {
            Self::File(_) | Self::Text { .. } => self.clone(),
            Self::Overlay(path) => Self::Overlay(format!("{path}.{name}").into()),
            Self::Body(path) => Self::Body(format!("{path}.{name}").into()),
        }
    }

    /// The same for an element of an array; elements count from 0.
    pub(super) fn element(&self, index: usize) -> Self {
        match self {
            Self::File(_) | Self::Text { .. } => self.clone(),
            Self::Overlay(path) => Self::Overlay(format!("{path}[{index}]").into()),
            Self::Body(path) => Self::Body(format!("{path}[{index}]").into()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.write_str(file),
            Self::Text { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Overlay(path) => write!(f, "run-time change of {path}"),
            Self::Body(path) => match path.strip_prefix("$.") {
                Some(path) => write!(f, "{path} of the request"),
                None => f.write_str("the request"),
            },
        }
    }
}

/// The kind of a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The file cannot be read at all: no such file, not UTF-8, not TOML.
    Unreadable,
    /// A required value is missing.
    Missing,
    /// The value can be read, and is wrong.
    Wrong,
    /// The value asks for more than `[limits]` has.
    Limit,
}

/// One mistake. Displays as `file:line:column: object: message`, without a place where it is in a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic {
    pub place: Place,
    /// For example `service web` or `backend web/web-1`; empty = the whole.
    pub object: String,
    /// What is wrong and what to do about it.
    pub message: String,
    pub kind: Kind,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, object, message, kind: _ } = self;
        match object.as_str() {
            // The values of a request are options or fields, which have no line: the message names the option or field.
            object if matches!(place, Place::Body(_)) && !object.is_empty() => {
                write!(f, "{object}: {message}")
            }
            "" => write!(f, "{place}: {message}"),
            object => write!(f, "{place}: {object}: {message}"),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Errors in the order of places, none of them twice, and at most 1000, which is more than people read: the rest is counted.
pub(super) fn tidy(mut errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
    const MOST: usize = 1000;
    errors.sort();
    errors.dedup();
    if let Some(Diagnostic { place, kind, .. }) = errors.get(MOST).cloned() {
        let more = plural((errors.len() - MOST) as u64, "more error", "more errors");
        let message = format!("and {more} from here on");
        errors.truncate(MOST);
        errors.push(Diagnostic { place, object: String::new(), message, kind });
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_ordered_unique_and_bounded() {
        let error = |line| Diagnostic {
            place: Place::Text { file: "f".into(), line, column: 1 },
            object: String::new(),
            message: "no".into(),
            kind: Kind::Wrong,
        };
        assert_eq!(tidy(vec![error(2), error(1), error(2)]), [error(1), error(2)]);
        let many = tidy((1..=5000).map(error).collect());
        assert_eq!(many.len(), 1001);
        assert_eq!(many[1000].to_string(), "f:1001:1: and 4000 more errors from here on");
    }

    #[test]
    fn a_diagnostic_reads_as_place_object_message() {
        let mut diagnostic = Diagnostic {
            place: Place::Text { file: "lb.toml".into(), line: 3, column: 10 },
            object: "service web".into(),
            message: "listen is missing".into(),
            kind: Kind::Missing,
        };
        assert_eq!(diagnostic.to_string(), "lb.toml:3:10: service web: listen is missing");
        diagnostic.place = Place::Body("$".into()).member("backend").element(2).member("weight");
        assert_eq!(diagnostic.to_string(), "service web: listen is missing");
        assert_eq!(diagnostic.place.to_string(), "backend[2].weight of the request");
        diagnostic.object.clear();
        diagnostic.place = Place::Overlay("web/web-1".into()).member("weight");
        assert_eq!(diagnostic.to_string(), "run-time change of web/web-1.weight: listen is missing");
    }
}
