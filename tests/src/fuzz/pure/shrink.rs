//! Makes a finding small, and writes it to a file with a name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::Target;

/// The most tries for one finding.
const TRIES: usize = 20_000;

/// The kind of a finding; findings of one kind count as one. It is the message without numbers and without what follows the
/// first colon; for a failed comparison, the text that its author gave.
pub(super) fn kind(message: &str) -> String {
    let comparison = message.strip_prefix("assertion `").and_then(|rest| rest.split_once("` failed: "));
    let message = comparison.map_or(message, |(_, said)| said);
    let head = message.split([':', '\n']).next().unwrap_or_default();
    head.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
}

/// Pieces of at most this length are tried in every length and at every place, for a few bytes may belong together.
const RECORD: usize = 12;

/// The smallest bytes found that break the same promise: pieces are left out, and get smaller.
pub(super) fn shrink(bytes: &[u8], mut breaks: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut tries = 0;
    let mut piece = bytes.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut smaller = false;
        while at < bytes.len() && tries < TRIES {
            let mut less = bytes.clone();
            less.drain(at..(at + piece).min(bytes.len()));
            tries += 1;
            if breaks(&less) {
                bytes = less;
                smaller = true;
            } else {
                at += if piece <= RECORD { 1 } else { piece };
            }
        }
        if tries >= TRIES || piece == 1 && !smaller {
            return bytes;
        }
        if !smaller {
            piece = if piece <= RECORD { piece - 1 } else { piece.div_ceil(2) };
        }
    }
}

/// Makes a finding small and keeps it among the target's fixtures.
///
/// # Errors
/// The file cannot be written. `None` = nothing is wrong with these bytes.
pub fn keep(target: Target, bytes: &[u8]) -> Result<Option<(String, PathBuf)>> {
    let Some(message) = target.verdict(bytes) else { return Ok(None) };
    let file = keep_in(&target.directory(), target, bytes, &message)?;
    Ok(Some((message, file)))
}

pub(super) fn keep_in(directory: &Path, target: Target, bytes: &[u8], message: &str) -> Result<PathBuf> {
    let kind = kind(message);
    let small =
        shrink(bytes, |less| target.verdict(less).is_some_and(|message| self::kind(&message) == kind));
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let words: Vec<&str> =
        kind.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let name: String = words.join("-").to_lowercase().chars().take(60).collect();
    let file = directory.join(name);
    fs::write(&file, small).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let bytes: Vec<u8> = (0..200).collect();
        let breaks = |bytes: &[u8]| bytes.contains(&7) && bytes.contains(&150);
        assert_eq!(shrink(&bytes, breaks), [7, 150]);
        assert!(shrink(&[1], |_| true).is_empty());
    }

    #[test]
    fn records_between_others_are_left_out_whole() {
        // Records of six bytes: the promise is broken by the third record that begins with 7.
        let mut bytes: Vec<u8> = (0..40).flat_map(|number| [number % 8, 0, 0, 255, 0, 9]).collect();
        bytes.splice(0..0, [1]);
        let breaks = |bytes: &[u8]| {
            let records = bytes.get(1..).unwrap_or_default();
            records.len() % 6 == 0 && records.chunks(6).filter(|record| record[0] == 7).count() >= 3
        };
        let small = shrink(&bytes, breaks);
        assert_eq!(small.len(), 1 + 3 * 6, "{small:?}");
    }

    #[test]
    fn findings_that_differ_in_numbers_are_one() {
        assert_eq!(kind("line 3 of 7: x"), kind("line 9 of 9: y"));
        assert_ne!(kind("line 3"), kind("column 3"));
        let comparison = |said| format!("assertion `left == right` failed{said}\n  left: 1\n right: 2");
        assert_eq!(kind(&comparison(": the same change twice")), "the same change twice");
        assert_eq!(kind(&comparison("")), "assertion `left == right` failed");
    }
}
