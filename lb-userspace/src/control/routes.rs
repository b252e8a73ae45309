//! The whole control surface: which verb and path makes which [`Request`], and what it takes. How a path is looked up is in
//! `route`, what a request does is the agent's business.

use serde_json::Value;

use crate::api::{
    filter::{FOLLOW, Filter, KIND, LIMIT, OBJECT, Parameter, SCOPE, SINCE},
    request::Request,
    scope::Scopes,
};

/// What a path takes as its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Nothing,
    /// A JSON object, handed on as it is: the configuration checks what is in it.
    Object,
    /// `weight` and/or `state`, and `force`.
    BackendChange,
    /// `force`, or nothing.
    Force,
    /// `{"text": "…", "name": "…"}`, `name` optional.
    Text,
    /// The same and `confirm_seconds`, all optional, or nothing.
    Apply,
}

/// One line of the control surface.
#[derive(Debug)]
pub struct Route {
    pub verb: &'static str,
    /// `{service}` and `{backend}` stand for any name, percent-encoded where it has to be.
    pub path: &'static str,
    pub body: Body,
    /// What the query may say.
    pub query: &'static [Parameter],
    /// One sentence for the list of paths.
    pub about: &'static str,
    pub(super) make: fn(Arguments) -> Request,
}

impl Route {
    const fn with_query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }
}

/// Everything a request is made of, checked.
pub(super) struct Arguments {
    pub(super) names: [String; 2],
    pub(super) body: Value,
    pub(super) text: Option<(String, String)>,
    pub(super) confirm: Option<u64>,
    pub(super) force: bool,
    pub(super) secrets: bool,
    pub(super) filter: Filter,
    pub(super) scopes: Scopes,
}

/// The whole surface, in the order of [`Request`].
pub static ROUTES: &[Route] = {
    use Body::{Apply, BackendChange, Force, Nothing, Object, Text};
    const fn route(
        verb: &'static str,
        path: &'static str,
        body: Body,
        about: &'static str,
        make: fn(Arguments) -> Request,
    ) -> Route {
        Route { verb, path, body, query: &[], about, make }
    }
    &[
        route("GET", "/v1/version", Nothing, "versions of agent, ABI and API", |_| Request::Version),
        route("GET", "/v1/status", Nothing, "the agent, its interfaces and services", |_| Request::Status),
        route("GET", "/v1/services", Nothing, "every service with its backends", |_| Request::Services),
        route("GET", SERVICE, Nothing, "one service with its backends", |a| {
            let [service, _] = a.names;
            Request::Service { service }
        }),
        route("GET", "/v1/ready", Nothing, "whether this node does its work", |_| Request::Ready),
        route("GET", "/v1/names", Nothing, "names of services and backends", |_| Request::Names),
        route("POST", "/v1/services", Object, "add a service; body as in the file", |a| {
            Request::ServiceAdd { body: a.body }
        }),
        route("PATCH", SERVICE, Object, "change fields of a service", |a| {
            let [service, _] = a.names;
            Request::ServiceSet { service, body: a.body }
        }),
        route("DELETE", SERVICE, Nothing, "remove a service", |a| {
            let [service, _] = a.names;
            Request::ServiceRemove { service }
        }),
        route("GET", BACKENDS, Nothing, "the backends of a service", |a| {
            let [service, _] = a.names;
            Request::Backends { service }
        }),
        route("GET", BACKEND, Nothing, "one backend", |a| {
            let [service, backend] = a.names;
            Request::Backend { service, backend }
        }),
        route("GET", BACKEND_EVENTS, Nothing, "the last changes of a backend, why and when", |a| {
            let ([service, backend], filter) = (a.names, a.filter);
            Request::BackendEvents { service, backend, filter }
        })
        .with_query(&[SINCE, KIND, LIMIT, FOLLOW]),
        route("POST", BACKENDS, Object, "add a backend; body as in the file", |a| {
            let [service, _] = a.names;
            Request::BackendAdd { service, body: a.body }
        }),
        route("PATCH", BACKEND, BackendChange, "change weight or state of a backend", |a| {
            let [service, backend] = a.names;
            Request::BackendSet { service, backend, body: a.body, force: a.force }
        }),
        route("DELETE", BACKEND, Force, "remove a backend", |a| {
            let [service, backend] = a.names;
            Request::BackendRemove { service, backend, force: a.force }
        }),
        route("GET", "/v1/config", Nothing, "the configuration in force", |a| Request::Config {
            secrets: a.secrets,
        })
        .with_query(&[SECRETS]),
        route("POST", "/v1/config/check", Text, "check a configuration, changing nothing", |a| {
            let (text, name) = a.text.unwrap_or_default();
            Request::ConfigCheck { text, name }
        }),
        route("POST", "/v1/plan", Text, "what a configuration would change", |a| {
            let (text, name) = a.text.unwrap_or_default();
            Request::Plan { text, name }
        }),
        route("GET", "/v1/config/diff", Nothing, "what the overlay changes of the file", |_| {
            Request::ConfigDiff
        }),
        route("POST", "/v1/config/apply", Apply, "read the file again, or take this one", |a| {
            Request::ConfigApply { replacement: a.text, confirm: a.confirm }
        }),
        route("POST", "/v1/config/confirm", Nothing, "keep a configuration that waits for it", |_| {
            Request::ConfigConfirm
        }),
        route("POST", "/v1/config/rollback", Nothing, "take back a configuration that waits", |_| {
            Request::ConfigRollback
        }),
        route("POST", "/v1/config/save", Nothing, "write the overlay into the file", |_| Request::ConfigSave),
        route("POST", "/v1/config/revert", Nothing, "drop the overlay", |_| Request::ConfigRevert),
        route("GET", "/v1/stats", Nothing, "every counter", |_| Request::Stats),
        route("GET", "/v1/health", Nothing, "what health checks say", |_| Request::Health),
        route("GET", "/v1/events", Nothing, "what happened in the agent", |a| Request::Events(a.filter))
            .with_query(&[SINCE, OBJECT, KIND, LIMIT, FOLLOW]),
        route("GET", "/v1/metrics", Nothing, "Prometheus text format", |a| Request::Metrics(a.scopes))
            .with_query(&[SCOPE]),
        route("POST", "/v1/detach", Nothing, "take the program off and stop", |_| Request::Detach),
    ]
};

const SERVICE: &str = "/v1/services/{service}";
const BACKENDS: &str = "/v1/services/{service}/backends";
const BACKEND: &str = "/v1/services/{service}/backends/{backend}";
const BACKEND_EVENTS: &str = "/v1/services/{service}/backends/{backend}/events";
pub(super) const SECRETS: Parameter = ("secrets", "true: the seed, too, which is otherwise ***");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{since::Since, view::ApiError},
        control::route::find,
    };

    fn request(verb: &str, target: &str, body: &str) -> Result<(Request, bool), ApiError> {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        find(verb, path).map_err(|no| no.error)?.request(query, body.as_bytes())
    }

    #[test]
    fn every_path_makes_the_request_of_its_line() {
        let all = Filter::default;
        let service = || "web".to_owned();
        let backend = || "web-1".to_owned();
        let fields = serde_json::json!({ "weight": 5 });
        let replacement = Some(("t".to_owned(), "n".to_owned()));
        for (verb, target, body, wanted) in [
            ("GET", "/v1/version", "", Request::Version),
            ("HEAD", "/v1/version", "", Request::Version),
            ("GET", "/v1/status", "", Request::Status),
            ("GET", "/v1/services", "", Request::Services),
            ("GET", "/v1/ready", "", Request::Ready),
            ("GET", "/v1/names", "", Request::Names),
            ("GET", "/v1/services/web", "", Request::Service { service: service() }),
            ("POST", "/v1/services", r#"{"weight":5}"#, Request::ServiceAdd { body: fields.clone() }),
            (
                "PATCH",
                "/v1/services/web",
                r#"{"weight":5}"#,
                Request::ServiceSet { service: service(), body: fields.clone() },
            ),
            ("DELETE", "/v1/services/web", "", Request::ServiceRemove { service: service() }),
            ("GET", "/v1/services/web/backends", "", Request::Backends { service: service() }),
            (
                "GET",
                "/v1/services/web/backends/web-1",
                "",
                Request::Backend { service: service(), backend: backend() },
            ),
            (
                "GET",
                "/v1/services/web/backends/web-1/events?limit=3",
                "",
                Request::BackendEvents {
                    service: service(),
                    backend: backend(),
                    filter: Filter { limit: Some(3), ..all() },
                },
            ),
            (
                "POST",
                "/v1/services/web/backends",
                r#"{"weight":5}"#,
                Request::BackendAdd { service: service(), body: fields.clone() },
            ),
            (
                "PATCH",
                "/v1/services/web/backends/web-1",
                r#"{"weight":5}"#,
                Request::BackendSet {
                    service: service(),
                    backend: backend(),
                    body: fields.clone(),
                    force: false,
                },
            ),
            (
                "PATCH",
                "/v1/services/web/backends/web-1",
                r#"{"weight":5,"force":true}"#,
                Request::BackendSet { service: service(), backend: backend(), body: fields, force: true },
            ),
            (
                "DELETE",
                "/v1/services/web/backends/web-1",
                "",
                Request::BackendRemove { service: service(), backend: backend(), force: false },
            ),
            (
                "DELETE",
                "/v1/services/web/backends/web-1",
                r#"{"force":true}"#,
                Request::BackendRemove { service: service(), backend: backend(), force: true },
            ),
            ("GET", "/v1/config", "", Request::Config { secrets: false }),
            ("GET", "/v1/config?secrets=false", "", Request::Config { secrets: false }),
            ("GET", "/v1/config?secrets=true", "", Request::Config { secrets: true }),
            (
                "POST",
                "/v1/config/check",
                r#"{"text":"t","name":"n"}"#,
                Request::ConfigCheck { text: "t".into(), name: "n".into() },
            ),
            (
                "POST",
                "/v1/plan",
                r#"{"text":"t","name":"n"}"#,
                Request::Plan { text: "t".into(), name: "n".into() },
            ),
            ("GET", "/v1/config/diff", "", Request::ConfigDiff),
            ("POST", "/v1/config/apply", "", Request::ConfigApply { replacement: None, confirm: None }),
            (
                "POST",
                "/v1/config/apply",
                r#"{"text":"t","name":"n"}"#,
                Request::ConfigApply { replacement: replacement.clone(), confirm: None },
            ),
            (
                "POST",
                "/v1/config/apply",
                r#"{"text":"t","name":"n","confirm_seconds":60}"#,
                Request::ConfigApply { replacement, confirm: Some(60) },
            ),
            (
                "POST",
                "/v1/config/apply",
                r#"{"confirm_seconds":60}"#,
                Request::ConfigApply { replacement: None, confirm: Some(60) },
            ),
            ("POST", "/v1/config/confirm", "", Request::ConfigConfirm),
            ("POST", "/v1/config/rollback", "", Request::ConfigRollback),
            ("POST", "/v1/config/save", "{}", Request::ConfigSave),
            ("POST", "/v1/config/revert", "", Request::ConfigRevert),
            ("GET", "/v1/stats", "", Request::Stats),
            ("GET", "/v1/health", "", Request::Health),
            ("GET", "/v1/events?since=7", "", Request::Events(Filter { since: Since::Number(7), ..all() })),
            ("GET", "/v1/metrics", "", Request::Metrics(Scopes::default())),
            (
                "GET",
                "/v1/metrics?scope=service&scope=node,backend",
                "",
                Request::Metrics(Scopes::whole(true)),
            ),
            ("POST", "/v1/detach", "", Request::Detach),
        ] {
            assert_eq!(request(verb, target, body), Ok((wanted, false)), "{verb} {target}");
        }
        assert_eq!(request("GET", "/v1/events?follow=true", ""), Ok((Request::Events(all()), true)));
    }

    #[test]
    fn the_events_of_one_backend_are_of_no_other_object() {
        let path = "/v1/services/web/backends/web-1/events";
        let error = request("GET", &format!("{path}?object=web"), "").unwrap_err();
        assert_eq!(error.message, "unknown parameter `object`; known are since, kind, limit, follow");
        let (mut followed, follow) = request("GET", &format!("{path}?follow=true"), "").unwrap();
        assert!(follow && followed.filter_mut().is_some(), "{followed:?}");
    }
}
