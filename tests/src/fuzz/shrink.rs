//! Makes a sequence with a difference small: fewer steps, then fewer bytes, then a simpler scene, as long as the same kind of
//! difference appears.

use anyhow::Result;

use super::{
    comparison::{Comparison, Difference},
    sequence::{Sequence, Step},
};

/// The smallest sequence found that shows the same kind of difference, and that difference.
pub(super) fn shrink(
    comparison: &mut Comparison,
    sequence: &Sequence,
    difference: Difference,
) -> Result<(Sequence, Difference)> {
    let mut best = (sequence.clone(), difference);
    best.0.steps.truncate(best.1.step + 1);
    loop {
        let before = best.clone();
        steps(comparison, &mut best)?;
        frames(comparison, &mut best)?;
        scene(comparison, &mut best)?;
        if best == before {
            return Ok(best);
        }
    }
}

/// Applies `change` to the sequence and keeps the result if it still shows the difference. Returns whether it did.
fn attempt(
    comparison: &mut Comparison,
    best: &mut (Sequence, Difference),
    change: impl FnOnce(&mut Sequence),
) -> Result<bool> {
    let mut tried = best.0.clone();
    change(&mut tried);
    if tried == best.0 || tried.check().is_err() {
        return Ok(false);
    }
    match comparison.play(&tried, |_| ()) {
        Ok(Some(difference)) if difference.kind == best.1.kind => {
            *best = (tried, difference);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Leaves out runs of steps, long runs first.
fn steps(comparison: &mut Comparison, best: &mut (Sequence, Difference)) -> Result<()> {
    let mut run = best.0.steps.len() / 2;
    while run >= 1 {
        let mut at = 0;
        while at + run <= best.0.steps.len() {
            if !attempt(comparison, best, |sequence| drop(sequence.steps.drain(at..at + run)))? {
                at += run;
            }
        }
        run /= 2;
    }
    Ok(())
}

/// Shortens frames from the end and sets bytes to 0.
fn frames(comparison: &mut Comparison, best: &mut (Sequence, Difference)) -> Result<()> {
    for step in 0..best.0.steps.len() {
        let length = |sequence: &Sequence| match &sequence.steps[step] {
            Step::Packet(packet) => packet.frame.len(),
            Step::Change { .. } => 0,
        };
        let edit = |sequence: &mut Sequence, with: &dyn Fn(&mut Vec<u8>)| {
            if let Step::Packet(packet) = &mut sequence.steps[step] {
                with(&mut packet.frame);
            }
        };
        let mut cut = length(&best.0) / 2;
        while cut >= 1 {
            let kept = length(&best.0).saturating_sub(cut);
            let shorter =
                kept >= 14 && attempt(comparison, best, |s| edit(s, &|frame| frame.truncate(kept)))?;
            if !shorter {
                cut /= 2;
            }
        }
        for at in (0..length(&best.0)).filter(|at| *at != 12 && *at != 13) {
            attempt(comparison, best, |s| edit(s, &|frame| frame[at] = 0))?;
        }
        attempt(comparison, best, |sequence| {
            if let Step::Packet(packet) = &mut sequence.steps[step] {
                packet.metadata = 0;
            }
        })?;
    }
    Ok(())
}

/// Leaves out services from the end, and makes rings as short as possible.
fn scene(comparison: &mut Comparison, best: &mut (Sequence, Difference)) -> Result<()> {
    for service in (0..best.0.scene.services.len()).rev() {
        if attempt(comparison, best, |sequence| drop(sequence.scene.services.remove(service)))? {
            continue;
        }
        attempt(comparison, best, |sequence| sequence.scene.services[service].old_slots.clear())?;
        loop {
            let slots = best.0.scene.services[service].slots.len();
            let half = slots.div_ceil(2);
            let shorter =
                attempt(comparison, best, |sequence| sequence.scene.services[service].slots.truncate(half))?
                    || attempt(comparison, best, |s| {
                        drop(s.scene.services[service].slots.drain(..slots / 2));
                    })?;
            if !shorter {
                break;
            }
        }
    }
    attempt(comparison, best, |sequence| sequence.scene.decap.clear())?;
    while attempt(comparison, best, |sequence| {
        sequence.scene.backends.pop();
    })? {}
    Ok(())
}
