//! Text from elsewhere, made fit for a line of a log or a table: a server's answer, a name in a request, a file's name. What
//! a terminal would obey, or a reader take for another line, is written as an escape.

use std::fmt::Write as _;

/// The text with its control characters as Rust writes them: `\n`, `\u{1b}`. Those that turn the direction of writing, or
/// break lines in Unicode, are among them.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if moves(character) {
            // Writing into a string does not fail.
            let _ = write!(printable, "{}", character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

fn moves(character: char) -> bool {
    let (marks, embeddings) = ('\u{200e}'..='\u{200f}', '\u{202a}'..='\u{202e}');
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        || marks.contains(&character)
        || embeddings.contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_or_forges_a_line_is_left() {
        assert_eq!(printable("a\nb\t\u{1b}[31m\r\u{7f}"), "a\\nb\\t\\u{1b}[31m\\r\\u{7f}");
        assert_eq!(printable("evil\u{202e}txt\u{2028}x\u{9b}2J"), "evil\\u{202e}txt\\u{2028}x\\u{9b}2J");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let text = "längst — 日本語 \"x\" C:\\n";
        assert_eq!(printable(text), text);
    }
}
