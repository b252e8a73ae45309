//! What a DNS probe asks and expects. The question itself is in `health/probe/dns.rs`.

use crate::config::{
    value,
    value_tree::{Node, quote},
    words::Word,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsProbe {
    /// The name to ask for, in labels of at most 63 bytes; `.` = the root.
    pub name: String,
    pub record: RecordType,
    /// The code that the answer must have.
    pub code: Code,
    /// What a record of the answer must say; `None` = its records do not matter.
    pub answer: Option<String>,
    pub transport: Transport,
}

/// The type of a record (RFC 1035, RFC 2782, RFC 3596).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

impl RecordType {
    /// The number in messages.
    pub const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Cname => 5,
            Self::Soa => 6,
            Self::Ptr => 12,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

impl Word for RecordType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("A", Self::A),
        ("AAAA", Self::Aaaa),
        ("CNAME", Self::Cname),
        ("MX", Self::Mx),
        ("NS", Self::Ns),
        ("PTR", Self::Ptr),
        ("SOA", Self::Soa),
        ("SRV", Self::Srv),
        ("TXT", Self::Txt),
    ];
}

/// The code of an answer (RFC 1035, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    NoError,
    NxDomain,
    Refused,
    /// Whatever it is: the server answers.
    Any,
}

impl Code {
    /// The number in messages; `None` = any.
    pub const fn number(self) -> Option<u8> {
        match self {
            Self::NoError => Some(0),
            Self::NxDomain => Some(3),
            Self::Refused => Some(5),
            Self::Any => None,
        }
    }

    /// Whether an answer with this code may have records.
    pub const fn has_records(self) -> bool {
        matches!(self, Self::NoError | Self::Any)
    }
}

impl Word for Code {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("noerror", Self::NoError),
        ("nxdomain", Self::NxDomain),
        ("refused", Self::Refused),
        ("any", Self::Any),
    ];
}

/// How a DNS query is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// And by TCP where the answer is cut off.
    Udp,
    Tcp,
    Both,
}

impl Word for Transport {
    const WORDS: &'static [(&'static str, Self)] =
        &[("udp", Self::Udp), ("tcp", Self::Tcp), ("both", Self::Both)];
}

/// A name as messages can carry it (RFC 1035, 2.3.4), without the escapes of zone files.
pub(super) fn name(node: &Node) -> Result<String, String> {
    let name = value::text(node, 254)?;
    let labels = name.strip_suffix('.').unwrap_or(&name);
    let valid = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    match name == "." || (labels.len() <= 253 && labels.split('.').all(valid)) {
        true => Ok(name),
        false => Err(format!(
            "{} is not a valid name: labels of 1 to 63 visible ASCII characters with dots between them, as in \"www.example\"",
            quote(&name)
        )),
    }
}
