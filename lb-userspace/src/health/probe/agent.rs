//! The agent of a backend, by HAProxy's protocol: a connection, a line of words, the end. The words are about the backend, and the
//! connection is about its host.
//!
//! An agent that is not there, is silent, or says what is no word changes nothing: what it said before holds, and the verdict stays.
//! A host that is not there fails the check: otherwise no check would ever find that it is dead.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Budget, Failure, Outcome, Progress, connect, tcp,
    words::{quoted, shortened},
};
use crate::{
    config::{spec::Bytes, words::plural},
    health::said::{Leave, Words, percent},
};

/// Bytes of the line.
const LONGEST: usize = 1024;

/// Words that are for HAProxy only.
const PASSED_OVER: &str = "maxconn:";

/// Asks the agent, and lets `progress` know what it says.
pub(super) async fn ask(
    address: SocketAddr,
    payload: &Bytes,
    budget: Budget,
    progress: &Progress,
) -> Outcome {
    let unsaid = |words: String| Outcome::Answer(Err(Failure::Unsaid(format!("agent: {words}"))));
    let mut stream = match connect(address, budget, progress).await {
        Ok(tcp::Connection { stream, .. }) => stream,
        Err(Outcome::Answer(Err(Failure::Backend(words)))) if words == tcp::REFUSED => return unsaid(words),
        Err(outcome) => return outcome,
    };
    let payload = payload.bytes();
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = read.take(LONGEST as u64 + 1);
    let talk = async {
        // What is wrong with sending shows in what is read.
        let _ = write.write_all(&payload).await;
        loop {
            let before = line.len();
            let length = read.read_buf(&mut line).await?;
            if length == 0 || line[before..].iter().any(|byte| is_end(*byte)) {
                return std::io::Result::Ok(());
            }
        }
    };
    let talked = budget.within(talk).await;
    let end = line.iter().position(|byte| is_end(*byte));
    match (talked, end) {
        (_, Some(_)) | (Some(Ok(())), None) if end.unwrap_or(line.len()) <= LONGEST => {
            line.truncate(end.unwrap_or(line.len()));
        }
        (None, _) if line.is_empty() => {
            return unsaid(format!("says nothing within {} ms", budget.milliseconds()));
        }
        (None, _) => {
            let seen = plural(line.len() as u64, "byte", "bytes");
            return unsaid(format!("no whole line within {} ms, after {seen}", budget.milliseconds()));
        }
        (Some(Err(error)), _) => {
            let (Failure::Backend(words) | Failure::LocalError(words) | Failure::Unsaid(words)) =
                tcp::refused(&error);
            return unsaid(words);
        }
        (Some(Ok(())), _) => return unsaid("the line is longer than 1 KiB".to_owned()),
    }
    match words(&line) {
        Ok(words) => {
            progress.says(words);
            Outcome::Answer(Ok(()))
        }
        Err(why) => unsaid(why),
    }
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// The words of a line, in any case, with blanks or commas between them; what is behind `#` is a reason. A line with a word that is
/// not known is not believed at all: it may be of another protocol.
fn words(line: &[u8]) -> Result<Words, String> {
    let (said, reason) = match line.iter().position(|byte| *byte == b'#') {
        Some(at) => (&line[..at], line[at + 1..].trim_ascii()),
        None => (line, &[][..]),
    };
    let text = String::from_utf8_lossy(said).to_ascii_lowercase();
    let mut words = Words::default();
    let mut any = false;
    for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        any = true;
        match word {
            "up" => words.works = Some(Ok(())),
            "down" | "stopped" | "fail" | "failed" => {
                let why = match reason {
                    [] => String::new(),
                    reason => format!(": {}", quoted(reason)),
                };
                words.works = Some(Err(format!("agent: says {word}{why}")));
            }
            "ready" => words.leave = Some(None),
            "drain" => words.leave = Some(Some(Leave::Drain)),
            "maint" => words.leave = Some(Some(Leave::Maint)),
            _ if word.starts_with(PASSED_OVER) => {}
            _ => match percent(word) {
                Some(percent) => words.percent = Some(percent),
                None => {
                    let word = quoted(shortened(word).as_bytes());
                    return Err(format!("says {word}, which is not a word of the agent protocol"));
                }
            },
        }
    }
    if any { Ok(words) } else { Err("says an empty line".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Words {
        words(line.as_bytes()).unwrap()
    }

    #[test]
    fn the_words_of_haproxy_are_understood() {
        assert_eq!(read("75%"), Words { percent: Some(75), ..Words::default() });
        assert_eq!(read("UP"), Words { works: Some(Ok(())), ..Words::default() });
        assert_eq!(read("ready"), Words { leave: Some(None), ..Words::default() });
        assert_eq!(read("maint"), Words { leave: Some(Some(Leave::Maint)), ..Words::default() });
        for (line, word) in [("down", "down"), ("stopped", "stopped"), ("fail", "fail"), ("Failed", "failed")]
        {
            assert_eq!(read(line).works, Some(Err(format!("agent: says {word}"))), "{line}");
        }
    }

    #[test]
    fn a_line_may_have_several_words() {
        let all = Words { works: Some(Ok(())), leave: Some(Some(Leave::Drain)), percent: Some(30) };
        for line in ["up drain 30%", "drain, 30%\tup", "  up,,drain  maxconn:30,30% # fine"] {
            assert_eq!(read(line), all, "{line}");
        }
        assert_eq!(read("maxconn:5"), Words::default(), "for others only");
        assert_eq!(read("10% 20%").percent, Some(20), "the last one counts");
    }

    #[test]
    fn a_reason_is_repeated_on_one_line() {
        let said = read("down 50% # disk\u{1b}[2J full, up ").works.unwrap().unwrap_err();
        assert_eq!(said, "agent: says down: \"disk\\u{1b}[2J full, up\"");
    }

    #[test]
    fn a_line_with_an_unknown_word_is_not_believed() {
        for (line, word) in [
            ("75", "\"75\""),
            ("down now", "\"now\""),
            ("drain 1001%", "\"1001%\""),
            ("HTTP/1.1 400 Bad Request", "\"http/1.1\""),
            ("up\u{0}", "\"up\\0\""),
        ] {
            let why = words(line.as_bytes()).unwrap_err();
            assert_eq!(why, format!("says {word}, which is not a word of the agent protocol"), "{line}");
        }
        assert!(words(&[0xff, 0xfe]).is_err());
        for empty in ["", " ,\t", "# reason"] {
            assert_eq!(words(empty.as_bytes()), Err("says an empty line".to_owned()), "{empty:?}");
        }
    }
}
