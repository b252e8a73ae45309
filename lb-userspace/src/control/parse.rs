//! What arrives as text, read strictly: percent-encoding, the query, JSON bodies. Every error says what is wrong
//! and where; which path takes what is said in `route`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    api::{
        filter::{Filter, Parameter},
        kind::Kind,
        scope::Scopes,
        since::Since,
        view::{ApiError, Code},
    },
    config::{
        spec::{Admin, MOST_WEIGHT},
        words::Word as _,
    },
};

/// An error about the request itself.
pub(super) fn error(code: Code, message: String) -> ApiError {
    ApiError { code, message, object: String::new(), details: Vec::new() }
}

pub(super) fn bad(message: String) -> ApiError {
    error(Code::BadRequest, message)
}

/// Percent-decoding of one part of a path or query (RFC 3986, 2.1). A `%` that begins no pair of digits is refused,
/// where the library would keep it as it is.
pub(super) fn decode(text: &str) -> Result<String, String> {
    let encoded =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(encoded) {
        return Err(format!("`{text}` has a % without two hexadecimal digits"));
    }
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| format!("`{text}` is not UTF-8 when decoded"))
}

/// Objects in one query: every event is compared with each.
const MOST_OBJECTS: usize = 64;

/// What the query says.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub filter: Filter,
    pub follow: bool,
    /// Whether the secrets of the configuration are asked for.
    pub secrets: bool,
    pub scopes: Scopes,
    /// Whether everything that needs attention matters.
    pub strict: bool,
}

impl Query {
    /// Reads a query with the parameters that its path takes.
    pub(super) fn parse(known: &[Parameter], query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = |why: String| bad(format!("parameter `{key}`: {why}"));
            let value = decode(value).map_err(wrong)?;
            if !known.iter().any(|(name, _)| *name == key) {
                let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                let known = match names[..] {
                    [] => "this path takes none".to_owned(),
                    [one] => format!("known is `{one}`"),
                    _ => format!("known are {}", names.join(", ")),
                };
                return Err(bad(format!("unknown parameter `{key}`; {known}")));
            }
            parsed.take(key, value).map_err(wrong)?;
        }
        Ok(parsed)
    }

    /// Takes one parameter that the path knows.
    fn take(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "since" => self.filter.since = Since::parse(&value)?,
            "object" if value.is_empty() => return Err("the name of an object is missing".to_owned()),
            "object" if self.filter.objects.len() == MOST_OBJECTS => {
                return Err(format!("at most {MOST_OBJECTS} objects can be asked for at once"));
            }
            "object" => self.filter.objects.push(value),
            "kind" => {
                for name in value.split(',') {
                    self.filter.kinds.push(Kind::parse(name)?);
                }
            }
            "limit" => {
                let limit = value.parse().map_err(|_| format!("{value:?} is not a whole number from 0"))?;
                self.filter.limit = Some(limit);
            }
            "follow" => self.follow = truth(&value)?,
            "strict" => self.strict = truth(&value)?,
            "scope" => self.scopes.add(&value)?,
            "secrets" => self.secrets = truth(&value)?,
            _ => return Err("it has no meaning".to_owned()),
        }
        Ok(())
    }
}

/// A parameter without a value is true.
fn truth(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{value}` is neither true nor false")),
    }
}

/// What a JSON value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The body as a JSON object; `title` is the request in messages.
pub(super) fn object(title: &str, body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(bad(format!("{title} needs a body: a JSON object")));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(bad(format!("the body is {}, not a JSON object", kind(&other)))),
        // serde_json says line and column itself.
        Err(why) => Err(bad(format!("the body is not valid JSON: {why}"))),
    }
}

/// `weight` and/or `state` and nothing else, each of its type and range.
pub(super) fn check_backend_change(fields: &Map<String, Value>) -> Result<(), ApiError> {
    let mut wrong = Vec::new();
    let most: u64 = MOST_WEIGHT.into();
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("weight", Value::Number(n)) if n.as_u64().is_some_and(|n| n <= most) => {}
            ("weight", Value::Number(n)) => {
                wrong.push(format!("`weight`: {n} is not a whole number from 0 to {most}"));
            }
            ("weight", Value::String(text)) if text.ends_with('%') => {}
            ("weight", other) => {
                wrong
                    .push(format!("`weight` is {}, not a number and not a share as in \"50%\"", kind(other)));
            }
            ("state", Value::String(s)) if Admin::of_word(s).is_some() => {}
            ("state", Value::String(s)) => {
                let words: Vec<&str> = Admin::WORDS.iter().map(|(word, _)| *word).collect();
                wrong.push(format!("`state`: \"{s}\" is none of {}", words.join(", ")));
            }
            ("state", other) => wrong.push(format!("`state` is {}, not a string", kind(other))),
            (other, _) => {
                wrong.push(format!("unknown field `{other}`; known are `weight`, `state` and `force`"));
            }
        }
    }
    if fields.is_empty() {
        wrong.push("nothing to change: give `weight`, `state` or both".into());
    }
    refuse_all(wrong)
}

/// `force`, which is taken out of the fields.
pub(super) fn force(fields: &mut Map<String, Value>) -> Result<bool, ApiError> {
    match fields.remove("force") {
        None => Ok(false),
        Some(Value::Bool(force)) => Ok(force),
        Some(other) => Err(bad(format!("`force` is {}, not true or false", kind(&other)))),
    }
}

/// Refuses what was not taken out of the fields; `known` are those that could have been.
pub(super) fn nothing_left(fields: &Map<String, Value>, known: &str) -> Result<(), ApiError> {
    refuse_all(fields.keys().map(|key| format!("unknown field `{key}`; known is {known}")).collect())
}

/// The longest time a configuration may wait for its confirmation, in seconds.
const LONGEST_WAIT: u64 = 86_400;

/// `confirm_seconds`, which is taken out of the fields.
pub(super) fn confirm(fields: &mut Map<String, Value>) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.remove("confirm_seconds") else { return Ok(None) };
    let seconds = value.as_u64().filter(|seconds| (1..=LONGEST_WAIT).contains(seconds));
    seconds.map(Some).ok_or_else(|| {
        bad(format!("`confirm_seconds`: {value} is not a whole number from 1 to {LONGEST_WAIT}"))
    })
}

/// `text` and `name` of a configuration.
pub(super) fn text(mut fields: Map<String, Value>) -> Result<(String, String), ApiError> {
    let mut wrong = Vec::new();
    let mut take = |key: &str| match fields.remove(key) {
        None => None,
        Some(Value::String(s)) => Some(s),
        Some(other) => {
            wrong.push(format!("`{key}` is {}, not a string", kind(&other)));
            None
        }
    };
    let (text, name) = (take("text"), take("name"));
    if text.is_none() && wrong.is_empty() {
        wrong.push("`text` is missing: the configuration, as TOML".into());
    }
    wrong.extend(fields.keys().map(|key| format!("unknown field `{key}`; known are `text` and `name`")));
    refuse_all(wrong)?;
    Ok((text.unwrap_or_default(), name.unwrap_or_else(|| "request".into())))
}

/// One error for everything that was wrong with a body.
fn refuse_all(mut wrong: Vec<String>) -> Result<(), ApiError> {
    match wrong.len() {
        0 => Ok(()),
        1 => Err(bad(wrong.remove(0))),
        n => Err(ApiError { details: wrong, ..bad(format!("{n} things in the body are wrong")) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::filter::{FOLLOW, KIND, LIMIT, OBJECT, SINCE},
        control::routes::SECRETS,
    };

    #[test]
    fn percent_encoding_is_decoded_and_broken_one_refused() {
        assert_eq!(decode("a%2Fb%20c").unwrap(), "a/b c");
        assert_eq!(decode("%C3%A9").unwrap(), "é");
        for broken in ["%", "%2", "a%zz", "%+1", "%é"] {
            assert!(decode(broken).unwrap_err().contains("two hexadecimal digits"), "{broken}");
        }
        assert!(decode("%ff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn secrets_are_given_only_to_those_who_ask_for_them() {
        let secrets = |query| Query::parse(&[SECRETS], query).map(|query| query.secrets);
        for (query, wanted) in
            [("", false), ("secrets=false", false), ("secrets", true), ("secrets=true", true)]
        {
            assert_eq!(secrets(query), Ok(wanted), "{query}");
        }
        for (query, says) in [
            ("secrets=maybe", "parameter `secrets`: `maybe` is neither true nor false"),
            ("secret=true", "unknown parameter `secret`; known is `secrets`"),
        ] {
            assert_eq!(secrets(query).unwrap_err().message, says);
        }
    }

    #[test]
    fn invalid_json_is_refused_with_its_place() {
        let message = object("POST /x", b"{\n  \"a\": 1,\n  \"b\": \n").unwrap_err().message;
        assert!(message.contains("line 4 column 0") && message.contains("EOF"), "{message}");
        let message = object("POST /x", b"{\"a\" 1}").unwrap_err().message;
        assert!(message.contains("line 1 column 6"), "{message}");
        let message = object("POST /x", b"{\"a\": \"\xff\"}").unwrap_err().message;
        assert!(message.contains("column"), "{message}");
    }

    #[test]
    fn a_body_that_is_no_object_is_named() {
        for (body, what) in [("[1]", "an array"), ("3", "a number"), ("\"x\"", "a string"), ("null", "null")]
        {
            let message = object("POST /x", body.as_bytes()).unwrap_err().message;
            assert_eq!(message, format!("the body is {what}, not a JSON object"));
        }
        assert!(object("POST /x", b" ").unwrap_err().message.contains("POST /x needs a body"));
    }

    #[test]
    fn deeply_nested_json_is_refused_without_a_crash() {
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(object("POST /x", deep.as_bytes()).unwrap_err().message.contains("recursion limit"));
    }

    #[test]
    fn everything_wrong_with_a_backend_change_is_said_at_once() {
        let fields = object("PATCH /x", br#"{"weight": "3", "state": 7, "colour": 1}"#).unwrap();
        let details = check_backend_change(&fields).unwrap_err().details;
        assert_eq!(details.len(), 3, "{details:?}");
        for body in
            [r#"{"weight": -1}"#, r#"{"weight": 1001}"#, r#"{"weight": 1.5}"#, r#"{"state": "on"}"#, "{}"]
        {
            let fields = object("PATCH /x", body.as_bytes()).unwrap();
            assert_eq!(check_backend_change(&fields).unwrap_err().code, Code::BadRequest, "{body}");
        }
        let fields = object("PATCH /x", br#"{"weight": 1000, "state": "draining"}"#).unwrap();
        assert_eq!(check_backend_change(&fields), Ok(()));
    }

    #[test]
    fn a_configuration_needs_its_text() {
        let fields = |body: &str| object("POST /x", body.as_bytes()).unwrap();
        assert_eq!(text(fields(r#"{"text": "t"}"#)).unwrap(), ("t".into(), "request".into()));
        assert_eq!(text(fields(r#"{"text": "t", "name": "n"}"#)).unwrap(), ("t".into(), "n".into()));
        assert!(text(fields("{}")).unwrap_err().message.contains("`text` is missing"));
        assert!(text(fields(r#"{"text": 1}"#)).unwrap_err().message.contains("a number, not a string"));
        assert!(
            text(fields(r#"{"text": "", "file": 1}"#)).unwrap_err().message.contains("unknown field `file`")
        );
    }

    #[test]
    fn the_query_is_read_strictly() {
        let known = &[SINCE, OBJECT, KIND, LIMIT, FOLLOW];
        let query =
            Query::parse(known, "since=7&follow=true&object=web%2Fweb-1&kind=changed,started&limit=0");
        let Query { filter, follow, secrets, .. } = query.unwrap();
        let expected = Filter {
            since: Since::Number(7),
            objects: vec!["web/web-1".to_owned()],
            kinds: vec![Kind::Changed, Kind::Started],
            limit: Some(0),
        };
        assert!(follow && !secrets && filter == expected, "{filter:?}");
        for (query, says) in [
            ("since=-1", "event's number"),
            ("since=", "event's number"),
            ("follow=perhaps", "neither true nor false"),
            ("kind=", "unknown kind of event \"\""),
            ("kind=changed,strated", "did you mean started?"),
            ("object=", "name of an object"),
            (&"object=a&".repeat(MOST_OBJECTS + 1), "at most 64 objects"),
            ("limit=-1", "parameter `limit`: \"-1\" is not a whole number"),
            ("until=3", "unknown parameter `until`; known are since, object"),
        ] {
            let message = Query::parse(known, query).unwrap_err().message;
            assert!(message.contains(says), "{message}");
        }
        let none = Query::parse(&[], "since=1").unwrap_err();
        assert_eq!(none.message, "unknown parameter `since`; this path takes none");
    }
}
