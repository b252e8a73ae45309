//! Byte offsets of a text as lines and columns.

use std::sync::Arc;

use super::diagnostic::Place;

/// Finds places in one text.
pub(super) struct Positions<'a> {
    file: Arc<str>,
    text: &'a str,
    /// Byte offset of each line's first byte.
    lines: Vec<usize>,
}

impl<'a> Positions<'a> {
    pub(super) fn new(file: Arc<str>, text: &'a str) -> Self {
        let starts = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { file, text, lines: std::iter::once(0).chain(starts).collect() }
    }

    /// The place of the character at a byte offset; an offset past the end means the place behind the last character.
    pub(super) fn at(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|&start| start <= offset).saturating_sub(1);
        let start = self.lines.get(line).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        // Count the bytes that begin a character.
        let column = before.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() + 1;
        Place::Text {
            file: self.file.clone(),
            line: u32::try_from(line + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, offset: usize) -> (u32, u32) {
        match Positions::new("f".into(), text).at(offset) {
            Place::Text { line, column, .. } => (line, column),
            place => panic!("{place}"),
        }
    }

    #[test]
    fn lines_and_columns_count_from_1_and_columns_in_characters() {
        assert_eq!(at("", 0), (1, 1));
        assert_eq!(at("ab\ncd", 1), (1, 2));
        assert_eq!(at("ab\ncd", 2), (1, 3));
        assert_eq!(at("ab\ncd", 3), (2, 1));
        assert_eq!(at("äö\nü=1", 4), (1, 3));
        assert_eq!(at("äö\nü=1", 7), (2, 2));
    }

    #[test]
    fn an_offset_past_the_end_is_the_end() {
        assert_eq!(at("ab\n", 99), (2, 1));
    }
}
