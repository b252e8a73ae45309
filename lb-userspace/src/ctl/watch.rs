//! Looking again and again: on a terminal the screen is written over, elsewhere one table follows the other, and scripts
//! get a line of JSON each time.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    cli::monitor::Watch,
    exit::Failure,
    output::Context,
    style::{Paint, clean},
};

/// Shows the view at `path`, once or until interrupted. `render` gets the view before it, too, where there is one.
///
/// An agent that stops answering in between, for example because it is restarted, is waited for.
pub async fn run<T: DeserializeOwned>(
    context: &Context,
    watch: Watch,
    path: &str,
    mut render: impl FnMut(&T, Option<&T>) -> String,
) -> Result<(), Failure> {
    let mut before: Option<T> = None;
    let mut absent = false;
    let mut ticks = interval(watch.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match context.client.get::<T>(path).await {
            Ok((value, view)) => {
                absent = false;
                if context.is_json() {
                    context.print(&if watch.watch {
                        format!("{value}\n")
                    } else {
                        format!("{value:#}\n")
                    })?;
                } else {
                    let text = render(&view, before.as_ref());
                    draw(context, watch, before.is_none(), &text)?;
                }
                before = Some(view);
            }
            Err(failure) if watch.watch && before.is_some() && failure.is_absence() => {
                let why = failure.as_api_error().map(|error| error.message).unwrap_or_default();
                if !absent && context.terminal && !context.is_json() {
                    let line = context.style.paint(&format!("{}; waiting for it", clean(&why)), Paint::Warn);
                    draw(context, watch, false, &format!("{line}\n"))?;
                } else if !absent {
                    context.remark(&format!("{why}; waiting for it"))?;
                }
                absent = true;
            }
            Err(failure) => return Err(failure),
        }
        if !watch.watch {
            return Ok(());
        }
    }
}

fn draw(context: &Context, watch: Watch, first: bool, text: &str) -> Result<(), Failure> {
    match (watch.watch, context.terminal) {
        // Home, every line cleared to its end as it is written, the rest of the screen cleared: nothing flickers.
        (true, true) => {
            let text = text.replace('\n', "\u{1b}[K\n");
            let clear = if first { "\u{1b}[2J" } else { "" };
            context.print(&format!("{clear}\u{1b}[H{text}\u{1b}[J"))
        }
        (true, false) if !first => context.print(&format!("\n{text}")),
        _ => context.print(text),
    }
}
