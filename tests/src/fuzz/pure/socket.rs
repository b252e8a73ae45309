//! Requests to the control socket: a line `VERB PATH?QUERY`, then the body, with any bytes. The agent refuses them with a
//! reason or reads a request. A change that a request asks for is refused with a reason, or makes a configuration that is as
//! good as one from a file.

use std::sync::LazyLock;

use lb_userspace::{
    api::{request::Request, view::ApiError},
    config::{self, Change, Configuration, overlay::Overlay},
    control::{route, routes},
};

use super::config::meant;

const FILE: &str = "[node]\ninterface = \"eth0\"\nseed = \"s\"\n\n[[service]]\nname = \"web\"\nlisten = \
    \"tcp/203.0.113.10:443\"\nmax_backends = 4\n\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.0.1\"\n\n\
    [[service.backend]]\nname = \"b2\"\naddress = \"10.0.0.2\"\nweight = 7\nstate = \"draining\"\n\n[[service]]\n\
    name = \"dns\"\nlisten = \"udp/[2001:db8::1]:53\"\nmax_backends = 2\n";

/// The configuration that is in force when the request comes.
static BEFORE: LazyLock<Configuration> = LazyLock::new(|| {
    let document = config::parse(FILE.as_bytes(), "file").expect("it is right");
    Configuration::new(document, &Overlay::default())
});

pub(super) fn judge(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = bytes.split_at(line);
    let body = body.get(1..).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let (verb, target) = head.split_once(' ').unwrap_or((&head, "/"));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let found = match route::find(verb, path) {
        Ok(found) => found,
        Err(no) => return check_error(&no.error),
    };
    let changes = found.route.verb != "GET";
    match found.request(query, body) {
        Ok((mut request, follow)) => {
            assert!(!follow || request.filter_mut().is_some(), "follows {request:?}");
            if let Some(change) = change(request) {
                assert!(changes, "a GET changes something");
                changed(&change);
            }
        }
        Err(error) => check_error(&error),
    }
}

fn check_error(error: &ApiError) {
    assert!(!error.message.is_empty(), "refused without a reason: {error:?}");
    assert!(error.details.iter().all(|detail| !detail.is_empty()), "an empty detail: {error:?}");
}

/// The change that the agent reads from a request.
fn change(request: Request) -> Option<Change> {
    Some(match request {
        Request::ServiceAdd { body } => Change::ServiceAdd { body },
        Request::ServiceSet { service, body } => Change::ServiceSet { service, body },
        Request::ServiceRemove { service } => Change::ServiceRemove { service },
        Request::BackendAdd { service, body } => Change::BackendAdd { service, body },
        Request::BackendSet { service, backend, body, force: _ } => {
            Change::BackendSet { service, backend, body }
        }
        Request::BackendRemove { service, backend, force: _ } => Change::BackendRemove { service, backend },
        _ => return None,
    })
}

fn changed(change: &Change) {
    let before = &*BEFORE;
    let after = match before.change(change) {
        Ok(after) => after,
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty(), "refused without a reason");
            return;
        }
    };
    let after_configuration = &after.configuration;
    meant(after_configuration.spec());
    let differs = after_configuration.spec() != before.spec();
    assert!(differs != after.summary.is_empty(), "differs: {differs}, and says {:?}", after.summary);
    assert!(
        differs == (after_configuration.overlay_changes() > 0),
        "differs: {differs}, and keeps {} run-time changes",
        after_configuration.overlay_changes()
    );
    assert!(after_configuration.reverted().spec() == before.spec(), "reverting is not going back");
    // The same change again: it changes nothing more, or it is refused since it was made already.
    if let Ok(again) = after_configuration.change(change) {
        assert!(again.configuration.spec() == after_configuration.spec(), "the same change changes more");
        assert!(again.summary.is_empty(), "nothing changed, and it says {:?}", again.summary);
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<String> = routes::ROUTES
        .iter()
        .map(|route| {
            let path = route.path.replace("{service}", "web").replace("{backend}", "b1");
            format!("{} {path}", route.verb)
        })
        .collect();
    seeds.extend(
        [
            "POST /v1/services\n{\"name\":\"api\",\"listen\":\"tcp/203.0.113.11:80\",\"max_backends\":3,\"backend\":[{\"address\":\
             \"10.0.0.9\"}]}",
            "PATCH /v1/services/web\n{\"track\":\"always\",\"on_down\":\"hold\",\"min_healthy\":\"50%\",\"slow_start\":null}",
            "PATCH /v1/services/web\n{\"health\":{\"kind\":\"http\",\"port\":80,\"path\":\"/x\",\"expect\":[200,\"301-302\"]}}",
            "PATCH /v1/services/dns\n{\"health\":false,\"udp_idle\":\"3m\",\"encapsulation\":\"ip6ip6\"}",
            "POST /v1/services/web/backends\n{\"name\":\"b3\",\"address\":\"fd00::3\",\"weight\":9}",
            "PATCH /v1/services/web/backends/b1\n{\"weight\":0,\"state\":\"draining\"}",
            "PATCH /v1/services/web/backends/b%31\n{\"weight\":null}",
            "DELETE /v1/services/web/backends/b2",
            "POST /v1/config/check\n{\"text\":\"[node]\",\"name\":\"n\"}",
            "GET /v1/events?since=7&follow=true",
        ]
        .map(str::to_owned),
    );
    seeds.into_iter().map(String::into_bytes).collect()
}
