//! Events with `follow=true`: a stream that asks the loop again and again, one JSON object a line. A blank line now
//! and then finds out whether anybody still listens.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Response,
    body::Frame,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep, timeout},
};

use super::shared::{Payload, ServerState, error, json_text, stopped};
use crate::{
    api::{
        request::Request,
        since::{Since, milliseconds_since_1970},
        view::{ApiError, Code},
    },
    config::words::plural,
};

/// For the last question, when the agent stops.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Of silence, after which a blank line is sent.
const HEARTBEAT: Duration = Duration::from_secs(5);

struct Follower {
    shared: Arc<ServerState>,
    shutdown: watch::Receiver<bool>,
    /// The request for events that is asked next.
    request: Request,
    /// The agent stops: what happened until now is the last that is sent.
    ending: bool,
    /// What is to be sent before the loop is asked again.
    pending: Option<Bytes>,
    spoke: Instant,
    _place: OwnedSemaphorePermit,
}

/// Answers a request for events with what there is, and goes on until the client or the agent goes.
///
/// # Errors
/// Those of the first question; [`Code::Unavailable`] when as many follow as may.
pub(super) async fn stream(
    mut request: Request,
    shared: &Arc<ServerState>,
) -> Result<Response<Payload>, ApiError> {
    let place = Arc::clone(&shared.followers).try_acquire_owned().map_err(|_| {
        let most = shared.settings.followers;
        let clients = plural(most as u64, "client follows", "clients follow");
        error(Code::Unavailable, &format!("{clients} the events already; end one of them"))
    })?;
    let mut most = usize::MAX;
    if let Some(filter) = request.filter_mut() {
        // A time counts from now on, not from each question.
        filter.since = filter.since.fixed(milliseconds_since_1970());
        // Asked for without the limit: what is left out now is not news later.
        most = filter.limit.take().unwrap_or(most);
    }
    let first = shared.ask(request.clone()).await?;
    let mut follower = Follower {
        shared: Arc::clone(shared),
        shutdown: shared.shutdown.clone(),
        request,
        ending: false,
        pending: None,
        spoke: Instant::now(),
        _place: place,
    };
    // An empty first line tells the client at once that it is being served.
    follower.pending = Some(follower.take(&first, most).unwrap_or_else(|| Bytes::from_static(b"\n")));
    let lines = futures_util::stream::unfold(follower, |mut follower| async move {
        let line = follower.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), follower))
    });
    let mut response = Response::new(StreamBody::new(lines).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

impl Follower {
    /// The next lines; `None` = the agent stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let lines = match self.pending.take() {
                Some(lines) => Some(lines),
                None => {
                    if self.ending {
                        return None;
                    }
                    tokio::select! {
                        () = stopped(&mut self.shutdown) => self.ending = true,
                        () = sleep(self.shared.settings.follow_interval) => {}
                    }
                    let asked = self.shared.ask(self.request.clone());
                    let events = if self.ending {
                        timeout(LAST_ANSWER, asked).await.ok()?.ok()?
                    } else {
                        asked.await.ok()?
                    };
                    let silent = self.spoke.elapsed() >= HEARTBEAT;
                    self.take(&events, usize::MAX).or_else(|| silent.then(|| Bytes::from_static(b"\n")))
                }
            };
            if let Some(lines) = lines {
                self.spoke = Instant::now();
                return Some(lines);
            }
        }
    }

    /// A line for each of the last `most` events, and where to go on after them.
    fn take(&mut self, events: &Value, most: usize) -> Option<Bytes> {
        let (mut lines, events) = (Vec::new(), events.as_array()?);
        let mut filter = self.request.filter_mut();
        let surplus = events.len().saturating_sub(most);
        for (place, event) in events.iter().enumerate() {
            if place >= surplus {
                lines.extend(json_text(event));
            }
            if let (Some(filter), Some(number)) = (&mut filter, event.get("number").and_then(Value::as_u64)) {
                filter.since = Since::Number(number);
            }
        }
        (!lines.is_empty()).then(|| lines.into())
    }
}
