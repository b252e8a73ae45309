//! What a UDP probe sends and expects. The question itself is in `health/probe/udp.rs`.

#[cfg(test)]
use proptest::prelude::*;

use std::time::Duration;

use crate::config::{
    settings::{
        Form,
        values::{Own, quoted},
    },
    value,
    value_tree::{Node, quote},
    words::plural,
};

/// Bytes of a datagram that a probe sends, or looks for.
const MOST: usize = 512;

/// What begins bytes that are not text.
const HEX: &str = "hex:";

/// Between two probes that only wait for an ICMP error. A host reports a closed port to the same asker about once a second
/// (Linux: `net.ipv4.icmp_ratelimit`): probes that come sooner would take its silence in between for life.
pub(in crate::config) const QUIET_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UdpProbe {
    pub payload: Bytes,
    /// What the answer must have in it; `None` = none is waited for.
    pub reply: Option<Bytes>,
}

/// Bytes as a file has them: text, or `hex:` and pairs of digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bytes(String);

impl Bytes {
    /// As the operator wrote them.
    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn bytes(&self) -> Vec<u8> {
        bytes(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix(HEX) else { return Some(text.as_bytes().to_vec()) };
    let pair = |pair: &[u8]| {
        let text =
            std::str::from_utf8(pair).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u8::from_str_radix(text, 16).ok().filter(|_| pair.len() == 2)
    };
    digits.as_bytes().chunks(2).map(pair).collect()
}

/// The values of a key that takes bytes.
pub(super) fn values() -> Own<Bytes> {
    Own {
        takes: "string, at most 512 bytes".to_owned(),
        form: Form::Text("BYTES"),
        parse,
        show: |bytes| Some(quoted(&bytes.0)),
        #[cfg(test)]
        any: || prop_oneof!["[^\\p{Cc}:]{0,20}", "hex:([0-9a-f]{2}){0,8}"].prop_map(Bytes).boxed(),
    }
}

fn parse(node: &Node) -> Result<Bytes, String> {
    let text = value::string(node)?;
    let Some(bytes) = bytes(text) else {
        let text = quote(text);
        return Err(format!("{text} is not hexadecimal: pairs of digits behind hex:, as in \"hex:0a0b\""));
    };
    if bytes.len() > MOST {
        let long = plural(bytes.len() as u64, "byte", "bytes");
        return Err(format!("is {long} long: at most {MOST} are allowed"));
    }
    Ok(Bytes(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_digits() {
        let read = |text: &str| bytes(text);
        assert_eq!(read("ping\n"), Some(b"ping\n".to_vec()));
        assert_eq!(read("hex:00ffA0"), Some(vec![0, 255, 0xa0]));
        assert_eq!((read(""), read("hex:")), (Some(vec![]), Some(vec![])));
        for wrong in ["hex:0", "hex:0g", "hex:+1", "hex:0x", "hex:00 11", "hex:ää"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
