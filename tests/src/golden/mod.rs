//! Golden captures: packets in, packets out, verdicts and counters, a folder for each behaviour under
//! `tests/fixtures/golden`.
//!
//! `capture` is a folder, `pcap` its capture files, `table` the list of all captures. `words` and `bytes` make packets, `step`
//! is what happens between two packets. `site` makes the tables of a configuration with the product's own code, `ground` copies
//! them into the kernel, `scene` describes them for the model; `play` sends the packets through.

mod bytes;
pub mod capture;
mod ground;
pub mod pcap;
pub mod play;
mod scene;
mod site;
pub mod step;
pub mod table;
pub mod words;

use anyhow::{Context as _, Result};

pub use ground::Ground;
use play::Coming;

/// A packet in words, on its way in.
///
/// # Errors
/// Names the word that is wrong.
pub fn coming(text: &str) -> Result<Coming> {
    let words: words::Words = text.parse().with_context(|| format!("packet `{text}`"))?;
    let metadata = words.number("metadata").unwrap_or(0) as u16;
    Ok(Coming { before: Vec::new(), packet: Some(text.to_owned()), metadata, frame: bytes::frame(&words) })
}
