//! Colours, where they belong, and text from elsewhere made harmless.

use std::{env, io::IsTerminal};

use crate::printable::printable;

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

    pub const fn is_coloured(&self) -> bool {
        self.colour
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

/// Text that came from elsewhere, for example out of a backend's answer: on one line, and without what a terminal would
/// obey. Line feeds and tabs are blanks; several in a row, and the blanks around them, are one.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut blank = false;
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => blank = true,
            ' ' if blank => {}
            _ => {
                if std::mem::take(&mut blank) && !clean.is_empty() {
                    clean.truncate(clean.trim_end_matches(' ').len());
                    clean.push(' ');
                }
                clean.push(c);
            }
        }
    }
    printable(&clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_on_one_line() {
        let lines = "refused; it goes on\n  lb.toml:3:1: no\r\n\tlb.toml:4:1: no\n";
        assert_eq!(clean(lines), "refused; it goes on lb.toml:3:1: no lb.toml:4:1: no");
        assert_eq!(clean("two  blanks stay"), "two  blanks stay");
        assert_eq!(clean("x\u{1b}[2Jy\u{9b}z"), "x\\u{1b}[2Jy\\u{9b}z");
    }
}
