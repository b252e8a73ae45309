//! The body of an HTTP answer: its framing taken off, and a text looked for in what is left. Pure.

use super::head::Framing;
use crate::config::words::plural;
use crate::health::probe::words::{quoted, shortened};

/// Bytes of a body that are searched.
const LIMIT: usize = 64 * 1024;
/// Bytes of a chunk's size line that are kept for words, and of a trailer line for telling whether it is empty.
const KEPT: usize = 64;

/// Looks for a text in a body that comes in pieces of any size.
#[derive(Debug)]
pub(super) struct Search<'a> {
    wanted: &'a str,
    decoder: Decoder,
    /// What was searched.
    seen: Vec<u8>,
}

impl<'a> Search<'a> {
    pub(super) fn new(wanted: &'a str, framing: Framing) -> Self {
        let decoder = match framing {
            Framing::Empty => Decoder::End,
            Framing::Length(0) => Decoder::End,
            Framing::Length(left) => Decoder::Length { left, of: left },
            Framing::Chunked => Decoder::Size(Vec::new()),
            Framing::Close => Decoder::Close,
        };
        Self { wanted, decoder, seen: Vec::new() }
    }

    /// Takes the next piece. `true` = the text is there; `false` = the body goes on.
    ///
    /// # Errors
    ///
    /// In words: the body ended, or its limit is reached, without the text, or its framing is broken.
    pub(super) fn take(&mut self, mut piece: &[u8]) -> Result<bool, String> {
        if self.wanted.is_empty() {
            return Ok(true);
        }
        loop {
            if matches!(self.decoder, Decoder::End) {
                return Err(self.lacks(""));
            }
            if piece.is_empty() {
                return Ok(false);
            }
            let (used, data) = self.decoder.step(piece)?;
            if data && self.search(&piece[..used]) {
                return Ok(true);
            }
            if self.seen.len() >= LIMIT {
                return Err(self.lacks(" in its first 64 KiB"));
            }
            piece = &piece[used..];
        }
    }

    /// The connection ended, for the reason given.
    pub(super) fn close(&self, reason: &str) -> String {
        let came = self.seen.len();
        let wanted = quoted(self.wanted.as_bytes());
        match &self.decoder {
            Decoder::Close | Decoder::End if reason == "connection closed" => self.lacks(""),
            Decoder::Length { of, .. } => {
                let of = plural(*of, "byte", "bytes");
                format!("body broke off after {came} of {of}, without {wanted}: {reason}")
            }
            _ => {
                let came = plural(came as u64, "byte", "bytes");
                format!("body broke off after {came}, without {wanted}: {reason}")
            }
        }
    }

    fn lacks(&self, place: &str) -> String {
        format!("body lacks {:?}{place}", shortened(self.wanted))
    }

    fn search(&mut self, data: &[u8]) -> bool {
        let wanted = self.wanted.as_bytes();
        // What was searched before matters only as far as a match may begin in it.
        let from = self.seen.len().saturating_sub(wanted.len() - 1);
        let room = LIMIT - self.seen.len();
        self.seen.extend_from_slice(&data[..data.len().min(room)]);
        self.seen[from..].windows(wanted.len()).any(|window| window == wanted)
    }
}

#[derive(Debug)]
enum Decoder {
    Close,
    Length {
        left: u64,
        of: u64,
    },
    /// In the line with a chunk's size, of which this is there.
    Size(Vec<u8>),
    Chunk(u64),
    /// Behind a chunk's bytes.
    ChunkEnd,
    End,
}

impl Decoder {
    /// Takes bytes from the front of `piece`, which has some: how many, and whether they are the body's.
    fn step(&mut self, piece: &[u8]) -> Result<(usize, bool), String> {
        let front = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        match self {
            Self::Close => Ok((piece.len(), true)),
            Self::End => Ok((piece.len(), false)),
            Self::Length { left, .. } => {
                let used = front(*left);
                *left -= used as u64;
                if *left == 0 {
                    *self = Self::End;
                }
                Ok((used, true))
            }
            Self::Chunk(left) => {
                let used = front(*left);
                *left -= used as u64;
                if *left == 0 {
                    *self = Self::ChunkEnd;
                }
                Ok((used, true))
            }
            Self::ChunkEnd => {
                match piece[0] {
                    b'\r' => {}
                    b'\n' => *self = Self::Size(Vec::new()),
                    _ => return Err(format!("body: {} where a chunk ends", quoted(piece))),
                }
                Ok((1, false))
            }
            Self::Size(line) => {
                if piece[0] != b'\n' {
                    if line.len() < KEPT {
                        line.push(piece[0]);
                    }
                    return Ok((1, false));
                }
                *self = match size(line)? {
                    // Trailer fields say nothing about the body's bytes.
                    0 => Self::End,
                    size => Self::Chunk(size),
                };
                Ok((1, false))
            }
        }
    }
}

/// The size in the line before a chunk. What follows it (extensions, blanks) means nothing here.
fn size(line: &[u8]) -> Result<u64, String> {
    let text = line.trim_ascii();
    let end = text.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(text.len());
    let digits = std::str::from_utf8(&text[..end]).unwrap_or_default();
    u64::from_str_radix(digits, 16).map_err(|_| format!("body: {} is not a chunk size", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a body that comes byte by byte, and of the same one in one piece.
    fn search(wanted: &str, framing: Framing, body: &[u8]) -> Result<bool, String> {
        let mut whole = Search::new(wanted, framing);
        let expected = whole.take(body);
        let mut pieces = Search::new(wanted, framing);
        let mut found = pieces.take(b"");
        for byte in body {
            if !matches!(found, Ok(false)) {
                break;
            }
            found = pieces.take(&[*byte]);
        }
        assert_eq!(found, expected, "byte by byte");
        expected
    }

    fn lacks(words: &str) -> Result<bool, String> {
        Err(words.to_owned())
    }

    #[test]
    fn a_text_is_found_across_chunks_of_every_dialect() {
        for body in [
            &b"5\r\nall i\r\n4\r\ns ok\r\n0\r\n\r\n"[..],
            b"5\nall i\n4\ns ok\n0\n\n",
            b" 05 ; name=value\r\nall i\r\n4;x\r\ns ok\r\n",
            b"00000005\r\nall i\r\n0004  \r\ns ok\r\n",
        ] {
            assert_eq!(search("is ok", Framing::Chunked, body), Ok(true));
        }
    }

    #[test]
    fn sizes_and_line_ends_are_not_searched() {
        assert_eq!(search("5", Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n"), lacks("body lacks \"5\""));
        assert_eq!(search("late", Framing::Length(4), b"fine late"), lacks("body lacks \"late\""));
        assert_eq!(search("x", Framing::Empty, b"x"), lacks("body lacks \"x\""));
    }

    #[test]
    fn broken_chunks_are_quoted() {
        assert_eq!(search("ok", Framing::Chunked, b"ok\r\n"), lacks("body: \"ok\" is not a chunk size"));
        assert_eq!(search("ok", Framing::Chunked, b"\r\n"), lacks("body: \"\" is not a chunk size"));
        let mut search = Search::new("ok", Framing::Chunked);
        assert_eq!(search.take(b"1\r\nabc"), lacks("body: \"bc\" where a chunk ends"));
    }

    #[test]
    fn a_body_that_breaks_off_says_how_much_came() {
        let closed = |framing, body: &[u8]| {
            let mut search = Search::new("ok", framing);
            assert_eq!(search.take(body), Ok(false));
            search.close("connection closed")
        };
        assert_eq!(
            closed(Framing::Length(100), b"fin"),
            "body broke off after 3 of 100 bytes, without \"ok\": connection closed"
        );
        assert_eq!(
            closed(Framing::Chunked, b"9\r\nfin"),
            "body broke off after 3 bytes, without \"ok\": connection closed"
        );
        assert_eq!(closed(Framing::Close, b"fin"), "body lacks \"ok\"", "that is how such a body ends");
    }

    #[test]
    fn a_text_may_end_with_the_last_byte_that_is_searched() {
        let mut body = vec![b'a'; LIMIT - 2];
        body.extend_from_slice(b"ok");
        assert_eq!(search("ok", Framing::Close, &body), Ok(true));
        body.insert(0, b'a');
        assert_eq!(search("ok", Framing::Close, &body), lacks("body lacks \"ok\" in its first 64 KiB"));
    }
}
