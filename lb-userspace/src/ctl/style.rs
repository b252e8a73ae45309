//! Colours, where they belong, and text from elsewhere made harmless.

use std::{env, io::IsTerminal};

/// What a piece of text says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paint {
    #[default]
    Plain,
    Head,
    Good,
    Bad,
    Warn,
    Dim,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    pub const fn plain() -> Self {
        Self { colour: false }
    }

    /// Colours for a stream: on a terminal, unless the user, NO_COLOR (<https://no-color.org>) or TERM say no.
    pub fn of(stream: &impl IsTerminal, no_color: bool) -> Self {
        let forbidden = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: !no_color && !forbidden && !dumb && stream.is_terminal() }
    }

    #[cfg(test)]
    pub const fn coloured() -> Self {
        Self { colour: true }
    }

    /// Text with its colour (ECMA-48, 8.3.117), or as it is.
    pub fn paint(&self, text: &str, paint: Paint) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            Paint::Head => 1,
            Paint::Bad => 31,
            Paint::Good => 32,
            Paint::Warn => 33,
            Paint::Dim => 2,
        };
        if self.colour && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Text that came from elsewhere, for example out of a backend's answer: without what a terminal would obey.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
