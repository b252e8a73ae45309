//! How a command ends when it does not succeed: what is said on standard error, and the exit code.

use serde_json::Value;

use super::{
    cli::Output,
    form::yaml,
    style::{Paint, Style, clean},
};
use crate::api::view::{ApiError, Code};

/// Why a command ends early.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// The agent said no.
    Refused(ApiError),
    /// What was typed, or a file that was named, is wrong.
    Usage(String),
    /// Something on this side does not work.
    Failed(String),
    /// A deadline passed.
    Deadline(String),
    /// What was asked for, a pattern or a filter, fits nothing.
    NoMatch(String),
    /// No agent answers.
    Unreachable(String),
    /// The answer, already given, says no: `config check` for scripts.
    Answered,
    /// The reader of the output is gone: nothing to say, and no failure.
    Quiet,
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Quiet => 0,
            Self::Refused(ApiError { code: Code::BadRequest | Code::Invalid, .. })
            | Self::Usage(_)
            | Self::Answered => 2,
            Self::Refused(_) | Self::Failed(_) => 1,
            Self::Deadline(_) => 3,
            Self::Unreachable(_) => 4,
            Self::NoMatch(_) => 5,
        }
    }

    /// Whether the agent is not there, or not yet: it may be started again.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refused(ApiError { code: Code::Unavailable, .. }))
    }

    /// The error as scripts get it, whatever its origin.
    pub fn as_api_error(&self) -> Option<ApiError> {
        let (code, message) = match self {
            Self::Quiet | Self::Answered => return None,
            Self::Refused(error) => return Some(error.clone()),
            Self::Usage(message) => (Code::BadRequest, message),
            Self::Failed(message) => (Code::Failed, message),
            Self::Deadline(message) => (Code::RequestTimeout, message),
            Self::Unreachable(message) => (Code::Unavailable, message),
            Self::NoMatch(message) => (Code::NotFound, message),
        };
        Some(ApiError { code, message: message.clone(), object: String::new(), details: Vec::new() })
    }

    /// For people: the message, then every detail on a line of its own.
    pub fn to_text(&self, style: &Style) -> String {
        let Some(ApiError { object, message, details, code: _ }) = self.as_api_error() else {
            return String::new();
        };
        let mut text = style.paint("error:", Paint::Bad);
        text.push(' ');
        if !object.is_empty() && !message.contains(&object) {
            text.push_str(&clean(&object));
            text.push_str(": ");
        }
        text.push_str(&clean(&message));
        text.push('\n');
        for detail in details {
            text.push_str("  ");
            text.push_str(&clean(&detail));
            text.push('\n');
        }
        text
    }

    /// What standard error gets, in the form of the answer where that has one for errors.
    pub fn report(&self, output: Output, style: &Style) -> String {
        match output {
            Output::Json => self.to_json(),
            Output::Yaml => self.value().map(|error| yaml::document(&error)).unwrap_or_default(),
            Output::Table | Output::Wide | Output::Csv | Output::Name => self.to_text(style),
        }
    }

    /// For scripts.
    pub fn to_json(&self) -> String {
        self.value().map(|error| format!("{error:#}\n")).unwrap_or_default()
    }

    fn value(&self) -> Option<Value> {
        self.as_api_error().map(|error| serde_json::to_value(error).unwrap_or(Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code) -> Failure {
        Failure::Refused(ApiError {
            code,
            message: "2 errors".into(),
            object: "service web".into(),
            details: vec!["a:1:2: one".into(), "a:3:4: two\u{1b}[31m".into()],
        })
    }

    #[test]
    fn errors_are_printed_once_without_control_characters() {
        let text = refused(Code::Invalid).to_text(&Style::plain());
        assert_eq!(text, "error: service web: 2 errors\n  a:1:2: one\n  a:3:4: two\\u{1b}[31m\n");
        let text = Failure::Refused(ApiError {
            code: Code::NotFound,
            message: "there is no service web".into(),
            object: "service web".into(),
            details: vec![],
        })
        .to_text(&Style::plain());
        assert_eq!(text, "error: there is no service web\n");
    }

    #[test]
    fn exit_codes_distinguish_input_refusal_and_no_agent() {
        assert_eq!(refused(Code::Invalid).exit_code(), 2);
        assert_eq!(refused(Code::BadRequest).exit_code(), 2);
        assert_eq!(refused(Code::NotFound).exit_code(), 1);
        assert_eq!(refused(Code::Conflict).exit_code(), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::Deadline(String::new()).exit_code(), 3);
        assert_eq!(Failure::Unreachable(String::new()).exit_code(), 4);
        assert_eq!(Failure::NoMatch(String::new()).exit_code(), 5);
        assert_eq!(Failure::Quiet.exit_code(), 0);
    }

    #[test]
    fn scripts_get_the_error_of_the_agent_unchanged() {
        let error: ApiError = serde_json::from_str(&refused(Code::Invalid).to_json()).unwrap();
        assert_eq!(Failure::Refused(error), refused(Code::Invalid));
    }
}
