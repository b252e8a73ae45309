//! `lbctl events`, and the events of one object.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    cli::monitor::{Events, Selection},
    client::{Lines, encode},
    exit::Failure,
    form::csv::Sheet,
    output::{Answer, Context},
    style::{Paint, Style, clean},
    units,
};
use crate::api::{
    filter::Filter,
    since::{Since, milliseconds_since_1970},
    view::Event,
};

/// The agent says something every 5 s, if only a blank line: one that does not is stuck, stopped or cut off.
const SILENCE: Duration = Duration::from_secs(12);

/// Between two tries to reach an agent that is gone.
const AGAIN: Duration = Duration::from_millis(200);

/// The columns of CSV: every event has those of its kind only.
const COLUMNS: &[&str] =
    &["number", "at_ms", "level", "kind", "object", "message", "by.uid", "by.user", "by.pid"];

pub async fn run(context: &Context, arguments: Events) -> Result<(), Failure> {
    let Events { selection, object } = arguments;
    show(context, "/v1/events", selection, object).await
}

/// Shows the events that `path` has; `objects` is for a path that has those of all objects.
pub async fn show(
    context: &Context,
    path: &str,
    selection: Selection,
    objects: Vec<String>,
) -> Result<(), Failure> {
    let Selection { follow, since, kind, lines } = selection;
    // An agent that is started again is asked later: what is meant is meant now.
    let since = since.unwrap_or_default().fixed(milliseconds_since_1970());
    let mut filter = Filter { since, objects, kinds: kind, limit: lines };
    *context.sheet.borrow_mut() = Sheet::with_columns(COLUMNS);
    if !follow {
        let (_, events) = context.client.get::<Vec<Value>>(&target(path, &filter)).await?;
        return events.iter().try_for_each(|event| show_one(context, event).map(|_| ()));
    }
    let mut connected = false;
    loop {
        let asked_at = milliseconds_since_1970();
        let ended = match context.client.lines(&format!("{}&follow=true", target(path, &filter))).await {
            Ok(lines) => {
                if connected {
                    context.remark("lbd answers again")?;
                } else {
                    // What came before is over, whether or not anything of it was asked for.
                    filter.since = match filter.limit.take() {
                        Some(_) => Since::At(asked_at),
                        None => filter.since,
                    };
                }
                connected = true;
                pass_on(context, lines, &mut filter).await?
            }
            Err(failure) if connected && failure.is_absence() => {
                sleep(AGAIN).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        context.remark(&format!("{ended}; waiting for it"))?;
    }
}

/// Shows what comes, until the stream ends; why it did. `filter` then asks for what follows.
async fn pass_on(context: &Context, mut lines: Lines, filter: &mut Filter) -> Result<String, Failure> {
    loop {
        let text = match timeout(SILENCE, lines.next()).await {
            Ok(Ok(Some(text))) => text,
            Ok(Ok(None)) => return Ok("lbd has stopped".into()),
            Ok(Err(Failure::Unreachable(why))) => return Ok(why),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Ok(format!("no event or heartbeat from lbd for {} s", SILENCE.as_secs())),
        };
        let value: Value = serde_json::from_str(&text).map_err(|why| not_understood(&why))?;
        filter.since = Since::Number(show_one(context, &value)?);
    }
}

/// Shows one event, on a line; its number.
fn show_one(context: &Context, value: &Value) -> Result<u64, Failure> {
    let event: Event = Event::deserialize(value).map_err(|why| not_understood(&why))?;
    context.next_answer(&Answer::new(value, &|| line(&event, &context.style)))?;
    Ok(event.number)
}

fn not_understood(why: &serde_json::Error) -> Failure {
    Failure::Failed(format!("an event is not understood: {why}; compare the versions with `lbctl version`"))
}

/// Path and query for what a filter asks for.
fn target(path: &str, filter: &Filter) -> String {
    let Filter { since, objects, kinds, limit } = filter;
    let since = match since {
        Since::Number(number) => number.to_string(),
        Since::At(time) => units::moment(*time),
        // Fixed before.
        Since::Ago(_) | Since::TimeOfDay(_) => "0".into(),
    };
    let mut target = format!("{path}?since={}", encode(&since));
    for object in objects {
        target.push_str(&format!("&object={}", encode(object)));
    }
    for kind in kinds {
        target.push_str(&format!("&kind={}", kind.name()));
    }
    if let Some(limit) = limit {
        target.push_str(&format!("&limit={limit}"));
    }
    target
}

/// The numbers are left to scripts, times are UTC.
fn line(event: &Event, style: &Style) -> String {
    let Event { number: _, at_ms, level, kind, object, message, by } = event;
    let paint = match (level.as_str(), kind.as_str()) {
        ("error", _) => Paint::Bad,
        ("warn", _) => Paint::Warn,
        (_, kind) if kind.ends_with("_up") || kind.ends_with("_attached") || kind.ends_with("_usable") => {
            Paint::Good
        }
        _ => Paint::Plain,
    };
    // Wide enough for most, so that what follows lines up.
    let kind = style.paint(&format!("{:<18}", clean(kind)), paint);
    let time = style.paint(&units::moment(*at_ms), Paint::Dim);
    let object = if object.is_empty() { String::new() } else { clean(object) + ": " };
    let by = by.as_ref().map(|caller| format!(" (by {})", clean(&caller.to_string()))).unwrap_or_default();
    format!("{time}  {kind}  {object}{}{by}\n", clean(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::Caller;

    #[test]
    fn a_filter_becomes_a_query_that_is_read_as_the_same_filter() {
        use crate::{api::kind::Kind, control::route};
        for filter in [
            Filter::default(),
            Filter {
                since: Since::At(1_709_251_199_999),
                objects: vec!["web/web-1".into(), "a b&c=%".into()],
                kinds: vec![Kind::Changed, Kind::Started],
                limit: Some(20),
            },
        ] {
            let target = target("/v1/events", &filter);
            let (path, query) = target.split_once('?').unwrap();
            let (request, _) = route::find("GET", path).unwrap().request(Some(query), b"").unwrap();
            assert_eq!(request, crate::api::request::Request::Events(filter));
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let event = Event {
            number: 7,
            at_ms: 1_709_251_199_999,
            level: "warn".into(),
            kind: "backend_down".into(),
            object: "web/web-1".into(),
            message: "answered\n\u{1b}[2Jnonsense".into(),
            by: None,
        };
        assert_eq!(
            line(&event, &Style::plain()),
            "2024-02-29 23:59:59.999Z  backend_down        web/web-1: answered \\u{1b}[2Jnonsense\n"
        );
        let event = Event { object: String::new(), message: "ready".into(), kind: "started".into(), ..event };
        assert!(line(&event, &Style::plain()).ends_with("Z  started             ready\n"));
        let by = Some(Caller { uid: 0, user: Some("root".into()), pid: Some(7) });
        assert!(line(&Event { by, ..event }, &Style::plain()).ends_with("ready (by root, uid 0, pid 7)\n"));
    }
}
