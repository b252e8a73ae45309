//! Golden captures: packets in, packets out, verdicts and counters, a folder for each behaviour under
//! `tests/fixtures/golden`.
//!
//! `capture` is a folder, `pcap` its capture files, `table` the list of all captures. `packet_words` and `bytes`
//! make packets, `step` is what happens between two packets. `planned_tables` makes the tables of a configuration with
//! the product's own code, `kernel_tables` copies them into the kernel, `scene` describes them for the model; `replay`
//! sends the packets through.

mod bytes;
pub mod capture;
mod kernel_tables;
pub mod packet_words;
pub mod pcap;
mod planned_tables;
pub mod replay;
mod scene;
pub mod step;
pub mod table;

use anyhow::{Context as _, Result};

pub use kernel_tables::KernelTables;
use replay::Coming;

/// A packet in words, on its way in.
///
/// # Errors
/// Names the word that is wrong.
pub fn coming(text: &str) -> Result<Coming> {
    let words: packet_words::Words = text.parse().with_context(|| format!("packet `{text}`"))?;
    let metadata = words.number("metadata").unwrap_or(0) as u16;
    Ok(Coming { before: Vec::new(), packet: Some(text.to_owned()), metadata, frame: bytes::frame(&words) })
}
