//! Random bytes: seeds and fixtures with random changes. Without guidance it finds less than libFuzzer; it needs no other tool.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Target, quietly, shrink};
use crate::fuzz::Random;

/// The limits of a run, and its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub time: Duration,
    /// The directory to which findings are written.
    pub directory: PathBuf,
    /// Ends after this many different findings.
    pub findings: usize,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub inputs: u64,
    /// Findings by message, and the file to which each was written.
    pub findings: BTreeMap<String, PathBuf>,
}

/// Runs a target.
pub fn run(target: Target, plan: &Plan) -> Result<Report> {
    let mut seeds = target.seeds();
    seeds.extend(target.fixtures()?.into_iter().map(|(_, bytes)| bytes));
    let words = target.words();
    let mut report = Report::default();
    let started = Instant::now();
    quietly(|| {
        while started.elapsed() < plan.time && report.findings.len() < plan.findings {
            let random = Random::new(plan.seed.wrapping_add(report.inputs));
            let bytes = spoil(&random, &seeds, &words);
            report.inputs += 1;
            if let Some(message) = target.verdict(&bytes)
                && let Entry::Vacant(new) = report.findings.entry(shrink::kind(&message))
            {
                new.insert(shrink::keep_in(&plan.directory, target, &bytes, &message)?);
            }
        }
        Ok(report)
    })
}

/// A seed with random changes.
fn spoil(random: &Random, seeds: &[Vec<u8>], words: &[String]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..random.between(1, 8) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.between(1, 24)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 => bytes.insert(at, random.byte()),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                // Replaces bytes by a piece of another seed.
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + random.between(1, 200)).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
            6 if !words.is_empty() => {
                let word = words[random.below(words.len())].bytes();
                bytes.splice(at..if random.percent(50) { at } else { end }, word);
            }
            _ => {
                // Writes another digit over a digit, if there is one.
                let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
                if let Some(at) = digits.get(random.below(digits.len().max(1))) {
                    bytes[*at] = b'0' + random.below(10) as u8;
                }
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_random_bytes_breaks_no_promise() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for target in Target::ALL {
            let plan = Plan {
                seed: 1,
                time: Duration::from_secs(1),
                directory: directory.path().to_owned(),
                findings: 1,
            };
            let report = run(target, &plan)?;
            assert!(report.findings.is_empty(), "{:?}", report.findings.keys());
            assert!(report.inputs > 10, "{}: {} inputs", target.name(), report.inputs);
        }
        Ok(())
    }
}
