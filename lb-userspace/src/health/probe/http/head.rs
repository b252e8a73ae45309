//! The head of an HTTP answer: its status line, and the fields that say where the body ends. Pure: bytes in, a verdict
//! out; reading the connection is the caller's business.
//!
//! A check wants the status, so this reader is as liberal as a client can be. A line ends with LF, with or without CR. Of
//! the fields only those that delimit the body are looked at; every other line is skipped, whatever is in it. What is
//! bounded is the number of bytes, and nothing else.

use crate::health::probe::words::quoted;

/// Bytes of status lines and fields that are read, interim answers included, before the probe gives up. curl takes as
/// many.
pub(super) const LIMIT: usize = 300 * 1024;
/// Bytes of a line that are kept. The rest of a longer line is skipped.
const KEPT: usize = 1024;
/// Bytes of something else than HTTP that are waited for, to be quoted.
const ENOUGH: usize = 81;
const PROTOCOL: &[u8] = b"HTTP/";

/// Where the body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    Empty,
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub status: u16,
    pub framing: Framing,
}

/// What a piece of the answer led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The head goes on behind the piece.
    More,
    /// The head is complete; it took so many bytes of the piece.
    Complete(Head, usize),
}

/// Reads a head in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Bytes of all lines so far.
    seen: usize,
    /// The beginning of the line that is being read, without its LF.
    line: Vec<u8>,
    /// Of the answer whose fields are being read; `None` = its status line has not ended.
    status: Option<u16>,
    interim: Option<u16>,
    length_field: Option<u64>,
    chunked: bool,
    /// The framing field that the line before this one belongs to, for a folded line behind it.
    last: Option<Field>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    ContentLength,
    TransferEncoding,
}

impl Reader {
    /// Bytes of the head so far.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// The final status, as soon as its line is there.
    pub(super) fn status(&self) -> Option<u16> {
        self.status.filter(|status| !is_interim(*status))
    }

    /// Takes the next piece of the answer.
    ///
    /// # Errors
    ///
    /// In words: it is not an answer of HTTP/1, or its head is too long.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Step, String> {
        for (at, &byte) in piece.iter().enumerate() {
            if self.seen == LIMIT {
                return Err(format!("head of the answer is longer than {} KiB", LIMIT / 1024));
            }
            self.seen += 1;
            if byte != b'\n' {
                if self.line.len() < KEPT {
                    self.line.push(byte);
                }
                if self.status.is_none()
                    && self.line.len() <= ENOUGH
                    && let Some(reason) = self.foreign().filter(|_| self.is_enough())
                {
                    return Err(reason);
                }
                continue;
            }
            if let Some(reason) = self.foreign() {
                return Err(reason);
            }
            let mut line = std::mem::take(&mut self.line);
            while line.last() == Some(&b'\r') {
                line.pop();
            }
            if let Some(head) = self.end_line(&line)? {
                return Ok(Step::Complete(head, at + 1));
            }
        }
        Ok(Step::More)
    }

    /// The connection has been closed. A status line that is complete counts without the end of its head, as curl has
    /// it.
    ///
    /// # Errors
    ///
    /// In words: there is no final status.
    pub(super) fn close(&self) -> Result<Head, String> {
        match (self.status, self.interim) {
            (Some(status), _) if !is_interim(status) => Ok(self.head(status)),
            (Some(interim), _) | (None, Some(interim)) => {
                Err(format!("connection closed after the interim answer {interim}"))
            }
            (None, None) if self.foreign().is_some() => Err(self.foreign().unwrap_or_default()),
            (None, None) if self.line.is_empty() => Err("connection closed without an answer".into()),
            (None, None) => Err(format!("connection closed within the status line {}", quoted(&self.line))),
        }
    }

    /// What the first line is that cannot become one of HTTP; `None` = it can, or is over.
    pub(super) fn foreign(&self) -> Option<String> {
        let begins = self.line.len().min(PROTOCOL.len());
        if self.status.is_some()
            || self.line[..begins].eq_ignore_ascii_case(&PROTOCOL[..begins])
            || self.line.iter().all(|byte| *byte == b'\r')
        {
            return None;
        }
        Some(match self.line.as_slice() {
            [0x15 | 0x16, 3, ..] => "not an HTTP answer: the server speaks TLS, give kind = \"https\"".into(),
            [0, _, _, 4, ..] => "not an HTTP/1 answer: the server speaks HTTP/2 only".into(),
            line => format!("not an HTTP answer: begins with {}", quoted(line.trim_ascii_end())),
        })
    }

    /// Whether a foreign line need not be waited for any longer. Its end may never come.
    fn is_enough(&self) -> bool {
        self.line.len() >= ENOUGH || matches!(self.line.as_slice(), [0x15 | 0x16, 3, ..] | [0, _, _, 4, ..])
    }

    fn end_line(&mut self, line: &[u8]) -> Result<Option<Head>, String> {
        let Some(status) = self.status else {
            // Some servers end the answer before with an empty line too many.
            if !line.is_empty() {
                self.status = Some(status_of(line)?);
            }
            return Ok(None);
        };
        if line.is_empty() {
            if !is_interim(status) {
                return Ok(Some(self.head(status)));
            }
            *self = Self { seen: self.seen, interim: Some(status), ..Self::default() };
            return Ok(None);
        }
        self.field(line);
        Ok(None)
    }

    fn field(&mut self, line: &[u8]) {
        let value = if line[0].is_ascii_whitespace() {
            line
        } else {
            let mut parts = line.splitn(2, |&byte| byte == b':');
            let name = parts.next().unwrap_or_default().trim_ascii();
            self.last = if name.eq_ignore_ascii_case(b"content-length") {
                Some(Field::ContentLength)
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                Some(Field::TransferEncoding)
            } else {
                None
            };
            parts.next().unwrap_or_default()
        };
        match self.last {
            Some(Field::ContentLength) => self.length_field = number(value).or(self.length_field),
            Some(Field::TransferEncoding) => {
                let mut codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
                self.chunked |= codings.any(|coding| coding.eq_ignore_ascii_case(b"chunked"));
            }
            None => {}
        }
    }

    fn head(&self, status: u16) -> Head {
        let framing = match (status, self.chunked, self.length_field) {
            (100..=199 | 204 | 304, _, _) => Framing::Empty,
            (_, true, _) => Framing::Chunked,
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => Framing::Close,
        };
        Head { status, framing }
    }
}

/// Behind 101 no further answer of HTTP/1 comes (RFC 9110, 15.2.2): it is a final one.
fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}

/// `HTTP/`, a version, blanks, three digits; whatever comes behind them is for people. Which version it is does not
/// matter: no version has another meaning of the status.
fn status_of(line: &[u8]) -> Result<u16, String> {
    let status = || {
        let behind = line.get(PROTOCOL.len()..)?.trim_ascii_start();
        let blank = behind.iter().position(u8::is_ascii_whitespace)?;
        let digits = behind[blank..].trim_ascii_start();
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        let status: u16 = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
        (end == 3 && status >= 100).then_some(status)
    };
    status().ok_or_else(|| format!("status line {} has no status", quoted(line)))
}

/// The digits that a value begins with: servers behind proxies say `5, 5`.
fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Result<Step, String> {
        Reader::default().take(text)
    }

    fn framing(fields: &str) -> Framing {
        match whole(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()) {
            Ok(Step::Complete(head, _)) => head.framing,
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &[u8]) -> String {
        whole(text).unwrap_err()
    }

    #[test]
    fn framing_fields_are_found_in_every_dialect() {
        assert_eq!(framing(""), Framing::Close);
        assert_eq!(framing("content-length:7\r\n"), Framing::Length(7));
        assert_eq!(framing("CONTENT-LENGTH :  7  \n"), Framing::Length(7));
        assert_eq!(framing("Content-Length:\r\n 7\r\n"), Framing::Length(7));
        assert_eq!(framing("Content-Length: 7, 7\r\n"), Framing::Length(7));
        assert_eq!(framing("Content-Length: -7\r\n"), Framing::Close);
        assert_eq!(framing("Content-Length: 99999999999999999999\r\n"), Framing::Close);
        assert_eq!(framing("X-Content-Length: 7\r\n"), Framing::Close);
        assert_eq!(framing("Transfer-encoding: Chunked\r\nContent-Length: 7\r\n"), Framing::Chunked);
        assert_eq!(framing("Transfer-Encoding: identity,\r\n\tCHUNKED\r\n"), Framing::Chunked);
        assert_eq!(framing("Transfer-Encoding: identity\r\n"), Framing::Close);
        assert_eq!(framing("X: y\r\n Content-Length: 7\r\n"), Framing::Close, "that is the value of X");
    }

    #[test]
    fn what_is_not_http_is_named_by_what_it_begins_with() {
        assert_eq!(
            refused(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
            "not an HTTP answer: begins with \"SSH-2.0-OpenSSH_9.2p1\""
        );
        assert_eq!(refused(b"ICY 200 OK\r\n"), "not an HTTP answer: begins with \"ICY 200 OK\"");
        assert_eq!(refused(b"H\x1b[2J\n"), "not an HTTP answer: begins with \"H\\u{1b}[2J\"");
        assert_eq!(refused(&[b'x'; 500]), format!("not an HTTP answer: begins with \"{}…\"", "x".repeat(79)));
        assert_eq!(
            refused(b"\x15\x03\x01\x00\x02\x02\x46"),
            "not an HTTP answer: the server speaks TLS, give kind = \"https\""
        );
        assert_eq!(
            refused(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
            "not an HTTP/1 answer: the server speaks HTTP/2 only"
        );
    }

    #[test]
    fn a_status_line_without_a_status_is_quoted() {
        for bad in
            ["HTTP/1.1", "HTTP/1.1 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 099", "HTTP/1.1 -200"]
        {
            assert_eq!(
                refused(format!("{bad}\r\n").as_bytes()),
                format!("status line \"{bad}\" has no status")
            );
        }
    }

    #[test]
    fn a_head_has_the_limit_that_its_message_names() {
        let mut text = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        text.resize(LIMIT - 4, b'x');
        text.extend_from_slice(b"\r\n\r\n");
        assert!(matches!(whole(&text), Ok(Step::Complete(Head { status: 200, .. }, LIMIT))));
        text.insert(20, b'x');
        assert_eq!(refused(&text), "head of the answer is longer than 300 KiB");
    }

    #[test]
    fn interim_answers_count_against_the_limit() {
        assert_eq!(
            refused(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000)),
            "head of the answer is longer than 300 KiB"
        );
    }

    #[test]
    fn an_answer_that_breaks_off_is_named_by_where() {
        let closed = |text: &[u8]| {
            let mut reader = Reader::default();
            assert_eq!(reader.take(text), Ok(Step::More));
            reader.close().map(|head| head.status)
        };
        assert_eq!(closed(b""), Err("connection closed without an answer".into()));
        assert_eq!(closed(b"SSH"), Err("not an HTTP answer: begins with \"SSH\"".into()));
        assert_eq!(
            closed(b"HTTP/1.1 2"),
            Err("connection closed within the status line \"HTTP/1.1 2\"".into())
        );
        assert_eq!(
            closed(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Err("connection closed after the interim answer 100".into())
        );
        assert_eq!(
            closed(b"HTTP/1.1 103 Early Hints\r\nLink"),
            Err("connection closed after the interim answer 103".into())
        );
        assert_eq!(closed(b"HTTP/1.1 200 OK\r\nServer: x"), Ok(200));
    }

    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            "HTTP/1.1 200 OK",
            "HTTP/1.1 100 Continue",
            "http/1.0 404",
            "\r\n",
            "\n",
            "\r",
            " ",
            "\t",
            ":",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "X: y",
            "\0",
            "é",
        ]);
        prop::collection::vec(word, 0..20).prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        /// Where the network cuts an answer changes neither the head nor its end, nor the words of a refusal.
        #[test]
        fn pieces_make_no_difference(answer in answers(), cuts in prop::collection::vec(0_usize..200, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(answer.len())).collect();
            cuts.extend([0, answer.len()]);
            cuts.sort_unstable();
            let (mut reader, mut result) = (Reader::default(), Ok(Step::More));
            for pair in cuts.windows(2) {
                result = match reader.take(&answer[pair[0]..pair[1]]) {
                    Ok(Step::More) => continue,
                    Ok(Step::Complete(head, used)) => Ok(Step::Complete(head, pair[0] + used)),
                    Err(words) => Err(words),
                };
                break;
            }
            prop_assert_eq!(result, whole(&answer));
        }
    }
}
