//! The target `packet`: random sequences in random scenes, through the programs and through the model.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_common::counter::Counter;

use super::{
    Random,
    comparison::{self, Comparison, Difference},
    distribution::Distribution,
    frames, mutate, scenes,
    sequence::{Packet, Sequence, Step},
    shrink,
};
use crate::model::{Program, scene::Balance};

/// The limits of a run, and its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Ends after this time …
    pub time: Duration,
    /// … or after this many packets.
    pub packets: u64,
    /// The directory to which differences are written.
    pub directory: PathBuf,
    /// Ends after this many different differences.
    pub differences: usize,
    /// Another build of the object, in place of the product's.
    pub object: Option<PathBuf>,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub packets: u64,
    pub sequences: u64,
    /// How often each counter went up, by number.
    pub counters: Vec<u64>,
    /// Differences by kind: the smallest one found, and the file to which it was written.
    pub differences: BTreeMap<String, (Difference, PathBuf)>,
    /// The random choices, by the kind of balancing that made them.
    pub distributions: BTreeMap<Balance, Distribution>,
}

impl Report {
    /// Counters that no packet reached, although packets can: a fuzzer that does not reach a counter proves nothing about it.
    pub fn unreached(&self) -> Vec<Counter> {
        // Few flows in a large table: no record loses its place, and none is refused.
        let never = [Counter::FlowInsertFailed, Counter::FlowEvicted, Counter::FlowEvictedUnproven];
        let zero = |counter: &&Counter| self.counters.get(**counter as usize).is_none_or(|count| *count == 0);
        Counter::ALL.iter().filter(zero).filter(|counter| !never.contains(counter)).copied().collect()
    }
}

/// The sequence of a seed.
pub fn sequence(seed: u64) -> Sequence {
    let random = &Random::new(seed);
    let scene = scenes::scene(random);
    let mut steps = Vec::new();
    for _ in 0..random.between(16, 160) {
        if random.percent(4) {
            steps.push(Step::Change { change: scenes::change(random, &scene) });
            continue;
        }
        let program = if random.percent(20) { Program::LbDecap } else { Program::LbXdp };
        let piece = match program {
            Program::LbXdp => frames::for_services(random, &scene),
            Program::LbDecap => frames::for_decap(random),
        };
        let frame = mutate::mutate(random, piece);
        let metadata = if random.percent(2) { random.one(&[4, 32, 172, 176, 192, 196, 200, 208]) } else { 0 };
        steps.push(Step::Packet(Packet { program, metadata, frame }));
    }
    Sequence { scene, steps }
}

/// Runs the target. Must be called on a thread of its own, which this moves into a network namespace of its own.
pub fn run(plan: &Plan, mut progress: impl FnMut(&Report)) -> Result<Report> {
    comparison::enter_namespace()?;
    let mut comparison = match &plan.object {
        None => Comparison::new()?,
        Some(file) => {
            let object = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Comparison::of_object(&object).with_context(|| format!("{}", file.display()))?
        }
    };
    comparison.warm()?;
    let mut report = Report { counters: vec![0; Counter::COUNT as usize], ..Report::default() };
    let started = Instant::now();
    let mut said = started;
    while started.elapsed() < plan.time && report.packets < plan.packets {
        let seed = Random::new(plan.seed.wrapping_add(report.sequences)).next();
        let sequence = sequence(seed);
        let difference = comparison
            .play(&sequence, |shown| {
                report.packets += 1;
                for (counter, count) in shown.counters {
                    report.counters[*counter as usize] += count;
                }
                if let Some(chance) = shown.chance {
                    report.distributions.entry(chance.balance).or_default().add(chance);
                }
            })
            .with_context(|| format!("sequence {seed:#x}"))?;
        report.sequences += 1;
        if let Some(difference) = difference
            && !report.differences.contains_key(&difference.kind)
        {
            let kind = difference.kind.clone();
            let (mut small, difference) = shrink::shrink(&mut comparison, &sequence, difference)?;
            small.scene.about = format!("found by fuzzing, sequence {seed:#x}: {kind}");
            let name = format!("{}-{:08x}", slug(&kind), seed as u32);
            let file = small.save(&plan.directory, &name)?;
            report.differences.insert(kind, (difference, file));
            if report.differences.len() >= plan.differences {
                break;
            }
        }
        if said.elapsed() >= Duration::from_secs(10) {
            said = Instant::now();
            progress(&report);
        }
    }
    Ok(report)
}

/// A file name made from words.
fn slug(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    words.join("-").to_lowercase().chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_sequence() {
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(sequence(7), sequence(8));
    }

    #[test]
    fn every_sequence_is_one_that_can_be_played() -> Result<()> {
        for seed in 0..500 {
            let Sequence { mut scene, steps } = sequence(seed);
            scene.check()?;
            for step in steps {
                match step {
                    Step::Change { change } => {
                        scene.change(&change);
                        scene.check()?;
                    }
                    Step::Packet(packet) => {
                        assert!((14..=3400).contains(&packet.frame.len()), "{}", packet.frame.len());
                    }
                }
            }
        }
        Ok(())
    }
}
