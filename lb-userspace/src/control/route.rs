//! From verb, path, query and body to a [`Request`], by the table in `routes`; nothing here knows of sockets.
//!
//! A path is looked up first ([`find`]), so that a wrong one is refused before its body is read; then the body and
//! the query make the request ([`Match::request`]).

use serde_json::Value;

use super::{
    parse::{self, Query, decode, error},
    routes::{Arguments, Body, ROUTES, Route},
    suggest_path::suggest_path,
};
use crate::api::{
    filter::Parameter,
    request::Request,
    view::{ApiError, Code},
};

/// The paths that list all others; the server answers them itself.
pub fn is_index(path: &str) -> bool {
    matches!(path, "/" | "/v1" | "/v1/")
}

/// The list of paths, for `GET /v1`.
pub fn index() -> Value {
    let line = |r: &Route| {
        let mut line = serde_json::json!({ "verb": r.verb, "path": r.path, "about": r.about });
        if !r.query.is_empty() {
            let parameter = |(name, about): &Parameter| serde_json::json!({ "name": name, "about": about });
            line["query"] = r.query.iter().map(parameter).collect();
        }
        line
    };
    serde_json::json!({ "paths": ROUTES.iter().map(line).collect::<Vec<_>>() })
}

/// Why no route was found, with the verbs for the `Allow` header where there are any.
#[derive(Clone, Debug, PartialEq)]
pub struct NoRoute {
    pub error: ApiError,
    pub allow: Option<String>,
}

/// A route that was found, with the names out of its path.
#[derive(Debug)]
pub struct Match {
    pub route: &'static Route,
    names: [String; 2],
}

/// The route for a verb and a path as the request line has it, without the query.
pub fn find(verb: &str, path: &str) -> Result<Match, NoRoute> {
    // A HEAD is a GET whose body is not sent.
    let verb = if verb == "HEAD" { "GET" } else { verb };
    let segments: Vec<&str> = path.split('/').collect();
    let fitting: Vec<&'static Route> = ROUTES.iter().filter(|r| fits(r.path, &segments)).collect();
    let refuse = |code, message, allow| Err(NoRoute { error: error(code, message), allow });
    if let Some(route) = fitting.iter().find(|r| r.verb == verb) {
        return match names(route.path, &segments) {
            Ok(names) => Ok(Match { route, names }),
            Err(message) => refuse(Code::BadRequest, message, None),
        };
    }
    if fitting.is_empty() && !is_index(path) {
        let nearest = suggest_path(&segments);
        return refuse(
            Code::NotFound,
            format!("unknown path {path}; the nearest is {nearest}, and GET /v1 lists them all"),
            None,
        );
    }
    let mut allow: Vec<&str> = fitting.iter().map(|r| r.verb).collect();
    if is_index(path) {
        allow.push("GET");
    }
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    let allow = allow.join(", ");
    refuse(Code::MethodNotAllowed, format!("{path} does not take {verb}; it takes {allow}"), Some(allow))
}

impl Match {
    /// The request, and whether its answer goes on as a stream.
    ///
    /// `body` is what arrived, empty where nothing did; `query` is the text behind the `?`.
    ///
    /// # Errors
    /// [`Code::BadRequest`], with everything that is wrong.
    pub fn request(self, query: Option<&str>, body: &[u8]) -> Result<(Request, bool), ApiError> {
        let object = match &self.names {
            [service, _] if service.is_empty() => String::new(),
            [service, backend] if backend.is_empty() => format!("service {service}"),
            [service, backend] => format!("backend {service}/{backend}"),
        };
        self.parse(query, body).map_err(|error| ApiError { object, ..error })
    }

    fn parse(self, query: Option<&str>, body: &[u8]) -> Result<(Request, bool), ApiError> {
        let Self { route, names } = self;
        let title = format!("{} {}", route.verb, route.path);
        let Query { filter, follow, secrets, scopes, strict: _ } =
            Query::parse(route.query, query.unwrap_or_default())?;
        let (mut confirm, mut force) = (None, false);
        let (body, text) = match route.body {
            Body::Nothing => {
                if !matches!(body.trim_ascii(), b"" | b"{}") {
                    return Err(parse::bad(format!("{title} takes no body")));
                }
                (Value::Null, None)
            }
            Body::Object => (Value::Object(parse::object(&title, body)?), None),
            Body::BackendChange => {
                let mut fields = parse::object(&title, body)?;
                force = parse::force(&mut fields)?;
                parse::check_backend_change(&fields)?;
                (Value::Object(fields), None)
            }
            Body::Force if body.trim_ascii().is_empty() => (Value::Null, None),
            Body::Force => {
                let mut fields = parse::object(&title, body)?;
                force = parse::force(&mut fields)?;
                parse::nothing_left(&fields, "`force`")?;
                (Value::Null, None)
            }
            Body::Text => (Value::Null, Some(parse::text(parse::object(&title, body)?)?)),
            Body::Apply if body.trim_ascii().is_empty() => (Value::Null, None),
            Body::Apply => {
                let mut fields = parse::object(&title, body)?;
                confirm = parse::confirm(&mut fields)?;
                let only_confirms = confirm.is_some() && fields.is_empty();
                (Value::Null, if only_confirms { None } else { Some(parse::text(fields)?) })
            }
        };
        Ok(((route.make)(Arguments { names, body, text, confirm, force, secrets, filter, scopes }), follow))
    }
}

/// Whether a part of a template is the place of a name.
pub(super) fn is_name(part: &str) -> bool {
    part.starts_with('{')
}

fn fits(template: &str, segments: &[&str]) -> bool {
    let parts: Vec<&str> = template.split('/').collect();
    parts.len() == segments.len()
        && parts.iter().zip(segments).all(|(part, s)| if is_name(part) { !s.is_empty() } else { part == s })
}

fn names(template: &str, segments: &[&str]) -> Result<[String; 2], String> {
    let mut names = [String::new(), String::new()];
    let given = template.split('/').zip(segments).filter(|(part, _)| is_name(part));
    for (slot, (part, segment)) in names.iter_mut().zip(given) {
        *slot = decode(segment).map_err(|why| format!("{part} in the path: {why}"))?;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, target: &str, body: &str) -> Result<(Request, bool), ApiError> {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        find(verb, path).map_err(|no| no.error)?.request(query, body.as_bytes())
    }

    #[test]
    fn names_are_percent_decoded() {
        assert_eq!(
            request("GET", "/v1/services/a%2Fb/backends/%C3%A9", ""),
            Ok((Request::Backend { service: "a/b".into(), backend: "é".into() }, false))
        );
        let error = request("GET", "/v1/services/a%f", "").unwrap_err();
        assert_eq!(error.code, Code::BadRequest);
        assert!(error.message.starts_with("{service} in the path: `a%f`"), "{}", error.message);
    }

    #[test]
    fn wrong_verb_lists_the_right_ones() {
        let no = find("PUT", "/v1/services/web").unwrap_err();
        assert_eq!(no.error.code, Code::MethodNotAllowed);
        assert_eq!(no.allow.as_deref(), Some("GET, PATCH, DELETE, HEAD"));
        let no = find("GET", "/v1/detach").unwrap_err();
        assert_eq!(no.allow.as_deref(), Some("POST"));
        let no = find("POST", "/v1").unwrap_err();
        assert_eq!(no.allow.as_deref(), Some("GET, HEAD"));
    }

    #[test]
    fn unknown_path_names_the_nearest() {
        let no = find("GET", "/v1/servces/web").unwrap_err();
        assert_eq!((no.error.code, no.allow), (Code::NotFound, None));
        assert!(no.error.message.contains("/v1/services/web"), "{}", no.error.message);
    }

    #[test]
    fn a_body_where_none_belongs_is_refused() {
        let error = request("POST", "/v1/detach", r#"{"force": true}"#).unwrap_err();
        assert!(error.message.contains("takes no body"), "{}", error.message);
    }

    #[test]
    fn force_is_a_truth_value_and_may_have_none() {
        for (verb, body, why) in [
            ("DELETE", r#"{"force": 1}"#, "`force` is a number, not true or false"),
            ("DELETE", r#"{"force": true, "weight": 1}"#, "unknown field `weight`; known is `force`"),
            ("PATCH", r#"{"force": true}"#, "nothing to change: give `weight`, `state` or both"),
        ] {
            let error = request(verb, "/v1/services/web/backends/web-1", body).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (Code::BadRequest, why), "{verb} {body}");
        }
    }

    #[test]
    fn a_time_for_the_confirmation_that_is_none_is_refused() {
        for bad in ["0", "86401", "-1", "1.5", "\"60s\"", "null"] {
            let error =
                request("POST", "/v1/config/apply", &format!("{{\"confirm_seconds\": {bad}}}")).unwrap_err();
            assert_eq!(error.code, Code::BadRequest, "{bad}");
            assert!(error.message.contains("`confirm_seconds`"), "{}", error.message);
        }
    }

    #[test]
    fn errors_name_the_object_of_the_path() {
        let object = |verb, path| request(verb, path, "").unwrap_err().object;
        assert_eq!(object("PATCH", "/v1/services/web"), "service web");
        assert_eq!(object("PATCH", "/v1/services/web/backends/b"), "backend web/b");
        assert_eq!(object("POST", "/v1/services"), "");
    }

    #[test]
    fn the_index_lists_every_route_and_parameter() {
        let index = index();
        let paths = index["paths"].as_array().unwrap();
        assert_eq!(paths.len(), ROUTES.len());
        let parameters = |path: &str| -> Vec<&str> {
            let line = paths.iter().find(|line| line["path"] == path).unwrap();
            let query = line["query"].as_array().into_iter().flatten();
            query.map(|parameter| parameter["name"].as_str().unwrap()).collect()
        };
        assert_eq!(parameters("/v1/events"), ["since", "object", "kind", "limit", "follow"]);
        assert_eq!(parameters("/v1/config"), ["secrets"]);
        assert!(parameters("/v1/version").is_empty());
    }
}
