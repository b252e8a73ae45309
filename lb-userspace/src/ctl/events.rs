//! `lbctl events`.

use serde_json::Value;

use super::{
    cli::observe::Events,
    failure::Failure,
    output::Context,
    style::{Paint, Style, clean},
    units,
};
use crate::control::view::Event;

pub async fn run(context: &Context, arguments: Events) -> Result<(), Failure> {
    let Events { follow, since } = arguments;
    let path = format!("/v1/events?since={since}");
    if !follow {
        return context
            .show(&path, |events: &Vec<Event>, style| events.iter().map(|event| line(event, style)).collect())
            .await;
    }
    let mut lines = context.client.lines(&format!("{path}&follow=true")).await?;
    while let Some(text) = lines.next().await? {
        let value: Value = serde_json::from_str(&text)
            .map_err(|why| Failure::Failed(format!("an event is not understood: {why}")))?;
        if context.is_json() {
            context.print_json_line(&value)?;
            continue;
        }
        let event = serde_json::from_value(value)
            .map_err(|why| Failure::Failed(format!("an event is not understood: {why}")))?;
        context.print(&line(&event, &context.style))?;
    }
    Err(Failure::Unreachable("the agent stopped".into()))
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
    use crate::control::view::Caller;

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
            "2024-02-29 23:59:59.999Z  backend_down        web/web-1: answered\u{fffd}\u{fffd}[2Jnonsense\n"
        );
        let event = Event { object: String::new(), message: "ready".into(), kind: "started".into(), ..event };
        assert!(line(&event, &Style::plain()).ends_with("Z  started             ready\n"));
        let by = Some(Caller { uid: 0, user: Some("root".into()), pid: Some(7) });
        assert!(line(&Event { by, ..event }, &Style::plain()).ends_with("ready (by root, uid 0, pid 7)\n"));
    }
}
