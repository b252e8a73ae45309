//! The commands that `lb-userspace/doc/backend.md` tells people to type, exactly as they are there: the test runs what is
//! documented.

use anyhow::{Context, Result};

const TEXT: &str = include_str!("../../lb-userspace/doc/backend.md");

/// The commands in the first `blocks` blocks of a section, one after the other. Only what is typed: neither files nor output
/// that is shown to be read.
pub(crate) fn commands(heading: &str, blocks: usize) -> Result<String> {
    section(TEXT, heading, blocks)
        .with_context(|| format!("backend.md: no {blocks} blocks under \"{heading}\""))
}

fn section(text: &str, heading: &str, wanted: usize) -> Option<String> {
    let at = text
        .lines()
        .position(|line| line.trim_start_matches('#').trim() == heading && line.starts_with('#'))?;
    let mut commands = String::new();
    let mut inside = false;
    let mut found = 0;
    for line in text.lines().skip(at + 1) {
        if line.starts_with("```") {
            inside = !inside;
            found += usize::from(!inside);
            if found == wanted {
                return Some(commands);
            }
        } else if inside {
            commands += line;
            commands.push('\n');
        } else if line.starts_with('#') {
            return None;
        }
    }
    None
}
