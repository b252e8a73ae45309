//! Messages of DNS (RFC 1035): the query, and what there is of an answer. What is expected of an answer is next door.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    config::{
        spec::RecordType,
        words::{Word as _, plural},
    },
    health::probe::words::shortened,
};

/// Bytes of a name in a message, the lengths of its labels and the root included (RFC 1035, 3.1).
const LONGEST_NAME: usize = 255;

/// Labels and pointers of one name that are read.
const TURNS: usize = 256;

/// A query with recursion desired. The name was checked with the configuration.
pub(super) fn query(name: &str, record: RecordType, id: u16) -> Vec<u8> {
    let mut query = Vec::from(id.to_be_bytes());
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(record.number().to_be_bytes());
    // The class of the Internet.
    query.extend([0, 1]);
    query
}

/// What there is of an answer.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) code: u8,
    pub(super) cut_off: bool,
    /// Type and text of each record of the answer.
    pub(super) records: Vec<(u16, String)>,
}

/// Why bytes are not an answer to a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// They do not begin with its identifier: whatever they are, the server may not have sent them.
    OtherId,
    Message(String),
}

impl Message {
    pub(super) fn read(bytes: &[u8], query: &[u8]) -> Result<Self, Bad> {
        if bytes.get(..2) != query.get(..2) {
            return Err(Bad::OtherId);
        }
        let bad = |words: &str| Bad::Message(words.to_owned());
        let [_, _, flags, more, q, qq, a, aa, ..] = *bytes else {
            return Err(Bad::Message(format!(
                "{} not a DNS answer",
                plural(bytes.len() as u64, "byte is", "bytes are")
            )));
        };
        if flags & 0x80 == 0 {
            return Err(bad("the query came back instead of an answer: not a DNS server?"));
        }
        let (code, cut_off) = (more & 0xf, flags & 2 != 0);
        let mut reader = Reader { bytes, at: 12 };
        match u16::from_be_bytes([q, qq]) {
            // Some servers leave the question out of what is an error.
            0 if code != 0 => {}
            1 => {
                let mut asked = Reader { bytes: query, at: 12 };
                let question = |reader: &mut Reader<'_>| Some((reader.name()?, reader.u16()?, reader.u16()?));
                let theirs = question(&mut reader).ok_or_else(|| bad("the answer ends in its question"))?;
                let ours = question(&mut asked);
                if ours.is_none_or(|ours| {
                    !ours.0.eq_ignore_ascii_case(&theirs.0) || ours.1 != theirs.1 || ours.2 != theirs.2
                }) {
                    let asked = shortened(&theirs.0);
                    return Err(Bad::Message(format!(
                        "the answer is to another question: {asked} type {}",
                        theirs.1
                    )));
                }
            }
            number => return Err(Bad::Message(format!("the answer has {number} questions"))),
        }
        let mut records = Vec::new();
        let count = if cut_off { 0 } else { u16::from_be_bytes([a, aa]) };
        for number in 1..=count {
            let record = reader.record();
            let record = record
                .ok_or_else(|| Bad::Message(format!("record {number} of {count} in the answer is broken")))?;
            records.push(record);
        }
        Ok(Self { code, cut_off, records })
    }
}

/// A place in a message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// A name with its last dot. A name has at most [`LONGEST_NAME`] bytes, its pointers followed. Pointers (RFC 1035, 4.1.4) go
    /// backwards only, and a name of that length has fewer labels and pointers than the loop has turns.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut left = LONGEST_NAME;
        let mut behind = None;
        let mut before = self.at;
        for _ in 0..TURNS {
            match self.u8()? {
                0 => {
                    left.checked_sub(1)?;
                    self.at = behind.unwrap_or(self.at);
                    if name.is_empty() {
                        name.push('.');
                    }
                    return Some(name);
                }
                length @ 1..=63 => {
                    left = left.checked_sub(1 + usize::from(length))?;
                    for _ in 0..length {
                        match self.u8()? {
                            byte @ b'!'..=b'~' if byte != b'.' && byte != b'\\' => name.push(byte.into()),
                            other => {
                                let _ = write!(name, "\\{other:03}");
                            }
                        }
                    }
                    name.push('.');
                }
                high @ 192.. => {
                    let to = usize::from(high & 63) << 8 | usize::from(self.u8()?);
                    behind.get_or_insert(self.at);
                    if to >= before {
                        return None;
                    }
                    (self.at, before) = (to, to);
                }
                _ => return None,
            }
        }
        None
    }

    /// Type and text of a record; what it has is written as in a zone file.
    fn record(&mut self) -> Option<(u16, String)> {
        self.name()?;
        let (kind, _class, _ttl, length) = (self.u16()?, self.u16()?, self.u32()?, self.u16()?);
        let end = self.at + usize::from(length);
        let data = self.bytes.get(self.at..end)?;
        let record = RecordType::WORDS.iter().find(|(_, record)| record.number() == kind);
        let text = match record.map(|(_, record)| record) {
            Some(RecordType::A) => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
            Some(RecordType::Aaaa) => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
            // Of a SOA its first name, the primary server.
            Some(RecordType::Cname | RecordType::Ns | RecordType::Ptr | RecordType::Soa) => self.name()?,
            Some(RecordType::Mx) => format!("{} {}", self.u16()?, self.name()?),
            Some(RecordType::Srv) => {
                format!("{} {} {} {}", self.u16()?, self.u16()?, self.u16()?, self.name()?)
            }
            Some(RecordType::Txt) => {
                let (mut text, mut rest) = (Vec::new(), data);
                while let [length, tail @ ..] = rest {
                    let (string, tail) = tail.split_at_checked(usize::from(*length))?;
                    text.extend(string);
                    rest = tail;
                }
                String::from_utf8_lossy(&text).into_owned()
            }
            None => String::new(),
        };
        if self.at > end {
            return None;
        }
        self.at = end;
        Some((kind, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_points_forwards_or_to_itself_is_broken() {
        for pointer in [[0xc0, 12], [0xc0, 14]] {
            assert_eq!(Reader { bytes: &[&[0; 12], &pointer[..], &[0; 4]].concat(), at: 12 }.name(), None);
        }
        let chain: Vec<u8> = (0..2_000_u16).flat_map(|n| (0xc000 | (n * 2)).to_be_bytes()).collect();
        assert_eq!(Reader { bytes: &[&[0, 0][..], &chain].concat(), at: 4_000 }.name(), None);
    }

    /// A message whose name, at 12, has that many labels of 63 bytes and one of `last` bytes.
    fn with_name(labels: usize, last: usize) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        for length in std::iter::repeat_n(63, labels).chain([last]) {
            bytes.push(length as u8);
            bytes.extend(vec![b'x'; length]);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_name_has_at_most_255_bytes() {
        let longest = with_name(3, 61);
        assert_eq!(longest.len(), 12 + LONGEST_NAME);
        assert_eq!(Reader { bytes: &longest, at: 12 }.name().map(|name| name.len()), Some(254));
        assert_eq!(Reader { bytes: &with_name(3, 62), at: 12 }.name(), None);
        assert_eq!(Reader { bytes: &with_name(63, 63), at: 12 }.name(), None);
        // A label before a pointer to it.
        let mut pointed = longest;
        let at = pointed.len();
        pointed.extend([1, b'y', 0xc0, 12]);
        assert_eq!(Reader { bytes: &pointed, at }.name(), None);
        let mut reader = Reader { bytes: &pointed, at: at + 2 };
        assert!(reader.name().is_some() && reader.at == pointed.len());
    }

    #[test]
    fn a_name_that_leaves_its_record_is_broken() {
        let mut record = vec![0, 0, 2, 0, 1, 0, 0, 0, 60, 0, 3];
        record.extend(b"\x03www\x00");
        assert_eq!(Reader { bytes: &record, at: 0 }.record(), None);
        record[10] = 5;
        assert_eq!(Reader { bytes: &record, at: 0 }.record(), Some((2, "www.".to_owned())));
    }

    proptest::proptest! {
        /// Whatever a server sends is read to an end, and nothing of it is longer than what it sent allows.
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200),
        ) {
            let query = query("www.example", RecordType::A, 0x1234);
            let answer = [&[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0], &query[12..], &bytes].concat();
            for bytes in [&bytes, &answer] {
                if let Ok(message) = Message::read(bytes, &query) {
                    let longest = bytes.len().max(4 * LONGEST_NAME) + 24;
                    proptest::prop_assert!(message.records.iter().all(|(_, text)| text.len() <= longest));
                }
            }
        }
    }
}
