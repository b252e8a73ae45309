//! The whole control surface as one enum. The HTTP server makes it out of a path and a body, the agent's loop
//! answers it; nothing else changes a running agent.

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    filter::Filter,
    scope::Scopes,
    view::{ApiError, Caller},
};

/// What can be asked of a running agent. Every variant is legal at any time unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `GET /v1/version` → [`super::view::Version`]
    Version,
    /// `GET /v1/status` → [`super::view::Status`]
    Status,
    /// `GET /v1/services` → array of [`super::view::Service`]
    Services,
    /// `GET /v1/services/{service}` → [`super::view::Service`]
    Service { service: String },
    /// `GET /v1/ready` → [`super::view::Ready`], whatever it says with status 200; `/readyz` of the metrics address says it with
    /// 200 or 503
    Ready,
    /// `GET /v1/names` → [`super::view::Names`]: what completions need, without reading a map.
    Names,
    /// `POST /v1/services`, body: a service as in the file → [`super::view::Changed`]
    ServiceAdd { body: Value },
    /// `PATCH /v1/services/{service}`, body: the fields to change → [`super::view::Changed`]. A `health` with its `kind`
    /// replaces the check there is, one without changes the fields that it names.
    ServiceSet { service: String, body: Value },
    /// `DELETE /v1/services/{service}` → [`super::view::Changed`]
    ServiceRemove { service: String },
    /// `GET /v1/services/{service}/backends` → array of [`super::view::Backend`]
    Backends { service: String },
    /// `GET /v1/services/{service}/backends/{backend}` → [`super::view::Backend`]
    Backend { service: String, backend: String },
    /// `GET /v1/services/{service}/backends/{backend}/events` with the parameters of [`super::filter`] except for `object`
    /// → array of [`super::view::Event`]: the last changes of the backend, also where it was removed a while ago. With
    /// `follow=true` as [`Request::Events`].
    BackendEvents { service: String, backend: String, filter: Filter },
    /// `POST /v1/services/{service}/backends`, body: a backend as in the file → [`super::view::Changed`]
    BackendAdd { service: String, body: Value },
    /// `PATCH /v1/services/{service}/backends/{backend}`, body: `weight` and/or `state`
    /// (`enabled`, `draining`, `disabled`) → [`super::view::Changed`]. Refused where the service would have no usable
    /// backend any more, unless `"force": true` is in the body.
    BackendSet { service: String, backend: String, body: Value, force: bool },
    /// `DELETE /v1/services/{service}/backends/{backend}`, body: nothing or `{"force": true}`
    /// → [`super::view::Changed`]. Refused as `BackendSet` is.
    BackendRemove { service: String, backend: String, force: bool },
    /// `GET /v1/config` → [`super::view::Config`], with `***` in the place of `node.seed` unless `?secrets=true` asks for it
    Config { secrets: bool },
    /// `POST /v1/config/check`, body: `{"text": "…", "name": "file name for messages"}` → [`super::view::Checked`]
    ConfigCheck { text: String, name: String },
    /// `POST /v1/plan`, body: `{"text": "…", "name": "file name for messages"}` → [`super::view::Plan`]: what applying
    /// that text would change. Changes nothing.
    Plan { text: String, name: String },
    /// `GET /v1/config/diff` → [`super::view::Diff`]: what the overlay changes of the file
    ConfigDiff,
    /// `POST /v1/config/apply`: reads the file again and applies it (what SIGHUP does) → [`super::view::Changed`].
    /// With a body `{"text": "…", "name": "…"}` the text replaces the file first. With `"confirm_seconds": N` in it what
    /// was in force before comes back after so many seconds unless [`Request::ConfigConfirm`] comes. Refused without
    /// it while a configuration waits for its confirmation, as saving and reverting are.
    ConfigApply { replacement: Option<(String, String)>, confirm: Option<u64> },
    /// `POST /v1/config/confirm`: what is in force stays → [`super::view::Changed`]. Legal while a configuration waits for
    /// its confirmation.
    ConfigConfirm,
    /// `POST /v1/config/rollback`: goes back at once, run-time changes made since included → [`super::view::Changed`].
    /// Legal while a configuration waits for its confirmation.
    ConfigRollback,
    /// `POST /v1/config/save`: writes the overlay into the file → [`super::view::Changed`]
    ConfigSave,
    /// `POST /v1/config/revert`: drops the overlay → [`super::view::Changed`]
    ConfigRevert,
    /// `GET /v1/stats` → [`super::view::Stats`]
    Stats,
    /// `GET /v1/health` → array of [`super::view::Health`]
    Health,
    /// `GET /v1/events` with the parameters of [`super::filter`] → array of [`super::view::Event`]. With
    /// `follow=true` the server goes on, one JSON object a line, by asking again; the loop never waits.
    Events(Filter),
    /// `GET /v1/metrics`, with `?scope=node,service,backend` or a part of them → a JSON string in the Prometheus text format,
    /// which the server sends as text
    Metrics(Scopes),
    /// `POST /v1/detach`: takes the program off and removes every pin, then the agent stops
    /// → [`super::view::Changed`]
    Detach,
}

impl Request {
    /// What a request for events asks for, of which a follower asks for the next ones; `None` for all other requests.
    pub fn filter_mut(&mut self) -> Option<&mut Filter> {
        match self {
            Self::Events(filter) | Self::BackendEvents { filter, .. } => Some(filter),
            _ => None,
        }
    }
}

/// The answer: a view as JSON, or an error.
pub type Reply = Result<Value, ApiError>;

/// One request on its way to the agent's loop.
#[derive(Debug)]
pub struct Envelope {
    pub request: Request,
    /// Who asks, where the request changes something.
    pub by: Option<Caller>,
    pub reply: oneshot::Sender<Reply>,
}

/// The server's end of the way to the loop. Bounded: a flood of requests waits at the socket.
pub type Sender = mpsc::Sender<Envelope>;
