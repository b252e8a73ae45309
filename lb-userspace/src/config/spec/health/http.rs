//! What an HTTP probe asks and expects, with TLS or without. The question itself is in `health/probe/http`.

use std::{ops::RangeInclusive, path::PathBuf};

use crate::config::{
    reader::Reader,
    value,
    value_tree::{Data, Node, quote},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpProbe {
    /// `Some` = HTTPS.
    pub tls: Option<TlsProbe>,
    pub path: String,
    /// Host header and TLS server name; `None` = the backend's address.
    pub host: Option<String>,
    /// Accepted status codes.
    pub expect: Vec<RangeInclusive<u16>>,
    /// A text that must occur in the first 64 KiB of the body; `None` = the body is not read.
    pub body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsProbe {
    /// Check the certificate's chain and name. Off by default: a probe asks whether the backend works.
    pub verify: bool,
    /// PEM file with the roots for `verify`; `None` = the public web's roots.
    pub ca: Option<PathBuf>,
}

/// Path and query as they go into a request line: they begin with `/` and are visible ASCII.
pub(super) fn path(node: &Node) -> Result<String, String> {
    let text = value::text(node, 1024)?;
    if !text.starts_with('/') {
        return Err(format!("{} must begin with /", quote(&text)));
    }
    visible(text)
}

pub(super) fn host(node: &Node) -> Result<String, String> {
    value::text(node, 255).and_then(visible)
}

fn visible(text: String) -> Result<String, String> {
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => Err(format!("{} has {bad:?} in it, which a request cannot carry", quote(&text))),
        None => Ok(text),
    }
}

/// Status codes, merged into ranges that neither overlap nor touch; each wrong code has an error of its own.
pub(super) fn expect(reader: &Reader<'_, '_>) -> Option<Vec<RangeInclusive<u16>>> {
    let node = reader.get("expect")?;
    let elements = node.one_or_many();
    if elements.is_empty() {
        reader.wrong(&node.at, "health.expect is empty: nothing would ever succeed".to_owned());
    }
    let mut ranges = Vec::with_capacity(elements.len());
    for element in elements {
        match codes(element) {
            Ok(range) => ranges.push(range),
            Err(why) => reader.wrong(&element.at, format!("health.expect {why}")),
        }
    }
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end() + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    Some(merged)
}

/// `200`, `"200"` or `"200-399"`.
pub(super) fn codes(node: &Node) -> Result<RangeInclusive<u16>, String> {
    const CODES: RangeInclusive<u16> = 100..=599;
    let Data::Str(text) = &node.data else {
        let code = value::number(node, CODES)?;
        return Ok(code..=code);
    };
    let code = |text: &str| value::whole(text.trim()).filter(|code| CODES.contains(code));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (code(from), code(to)) {
        (Some(from), Some(to)) if from <= to => Ok(from..=to),
        _ => Err(format!(
            "{} is not a valid status code or range: 100 to 599, for example \"200-399\"",
            quote(text)
        )),
    }
}

pub(super) fn show_codes(range: &RangeInclusive<u16>) -> String {
    let (from, to) = (range.start(), range.end());
    if from == to { from.to_string() } else { format!("\"{from}-{to}\"") }
}
