//! Looking again and again: on a terminal the screen is written over, and what does not fit is cut off; elsewhere one table
//! follows the other, and scripts get a line of JSON, a document of YAML or further rows of CSV each time.

use std::{io, time::Duration};

use serde::de::IgnoredAny;
use serde_json::Value;
use terminal_size::{Height, Width};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    cli::{Output, monitor::Watch},
    exit::Failure,
    output::{Answer, Context, plural},
    style::{Paint, clean},
};

/// Shows what `path` answers, once or until interrupted.
///
/// An agent that stops answering in between, for example because it is restarted, is waited for.
pub async fn run(
    context: &Context,
    watch: Watch,
    path: &str,
    mut show: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut answered, mut absent) = (false, false);
    let mut ticks = interval(watch.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match context.client.get::<IgnoredAny>(path).await {
            Ok((value, _)) => {
                absent = false;
                show(&value)?;
                answered = true;
            }
            Err(failure) if watch.watch && answered && failure.is_absence() => {
                let why = failure.as_api_error().map(|error| error.message).unwrap_or_default();
                if !absent && context.terminal && !context.for_scripts() {
                    let line = context.style.paint(&format!("{}; waiting for it", clean(&why)), Paint::Warn);
                    draw(context, &format!("{line}\n"))?;
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

/// One of the answers.
pub fn put(context: &Context, watch: Watch, answer: &Answer<'_>) -> Result<(), Failure> {
    if !watch.watch {
        return context.answer(answer);
    }
    match context.output {
        Output::Table | Output::Wide => draw(context, &(answer.text)()),
        _ => context.next_answer(answer),
    }
}

/// An answer whose parts are not what they should be.
pub fn not_understood(path: &str, why: &serde_json::Error) -> Failure {
    Failure::Failed(format!(
        "the agent's answer to {path} is not understood: {why}; compare the versions with `lbctl version`"
    ))
}

fn draw(context: &Context, text: &str) -> Result<(), Failure> {
    let first = !context.drawn.replace(true);
    if !context.terminal {
        return context.print(&if first { text.to_owned() } else { format!("\n{text}") });
    }
    let text = match size() {
        Some((width, height)) => cut(text, width, height),
        None => text.to_owned(),
    };
    // Home, every line cleared to its end as it is written, the rest of the screen cleared: nothing flickers.
    let text = text.replace('\n', "\u{1b}[K\n");
    let clear = if first { "\u{1b}[2J" } else { "" };
    context.print(&format!("{clear}\u{1b}[H{text}\u{1b}[J"))
}

/// Columns and lines of the terminal that standard output is; `None` = it is none, or does not say.
pub fn size() -> Option<(usize, usize)> {
    let (Width(width), Height(height)) = terminal_size::terminal_size_of(io::stdout())?;
    (width > 0 && height > 0).then_some((width.into(), height.into()))
}

/// What fits on a screen: the last line stays free for the cursor.
fn cut(text: &str, width: usize, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1).max(2);
    let mut shown: Vec<String> = lines.iter().map(|line| cut_line(line, width)).collect();
    if shown.len() > room {
        let left_out = shown.len() - (room - 1);
        shown.truncate(room - 1);
        shown.push(cut_line(
            &format!("... and {}", plural(left_out as u64, "more line", "more lines")),
            width,
        ));
    }
    shown.iter().map(|line| line.clone() + "\n").collect()
}

/// The first `width` characters, colours not counted.
fn cut_line(line: &str, width: usize) -> String {
    let (mut text, mut taken, mut in_colour) = (String::with_capacity(line.len()), 0, false);
    let mut escape = false;
    for c in line.chars() {
        if c == '\u{1b}' {
            escape = true;
            in_colour = true;
        } else if !escape {
            if taken == width {
                if in_colour {
                    text.push_str("\u{1b}[0m");
                }
                return text;
            }
            taken += 1;
        }
        text.push(c);
        escape &= c != 'm';
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_off_and_counted() {
        let text = "HEAD of a table\n1\n2\n3\n4\n";
        assert_eq!(cut(text, 80, 6), text, "it fits");
        assert_eq!(cut(text, 80, 5), "HEAD of a table\n1\n2\n... and 2 more lines\n");
        assert_eq!(cut(text, 4, 6), "HEAD\n1\n2\n3\n4\n");
        assert_eq!(cut(text, 80, 1), "HEAD of a table\n... and 4 more lines\n", "a screen of no size");
        assert_eq!(cut("", 80, 24), "");
    }

    #[test]
    fn colours_take_no_room_and_end_where_a_line_is_cut() {
        let line = "\u{1b}[32mup\u{1b}[0m and \u{1b}[31mdown\u{1b}[0m";
        assert_eq!(cut_line(line, 80), line);
        assert_eq!(cut_line(line, 11), line);
        assert_eq!(cut_line(line, 8), "\u{1b}[32mup\u{1b}[0m and \u{1b}[31md\u{1b}[0m");
        assert_eq!(cut_line("größer", 3), "grö");
    }
}
