//! The length of our programs: the instructions that the verifier walked through, and the code that the processor gets.

use anyhow::Result;
use lb_common::hash::Seed;

use super::row::{Definition, Part, Samples};
use crate::world::{Sizes, World};

const PROGRAMS: [&str; 4] = ["lb_xdp", "lb_decap", "lb_clock", "lb_pass"];

pub(super) fn definitions() -> Vec<Definition> {
    let mut rows = Vec::new();
    for program in PROGRAMS {
        let row = |kind: &str, unit, what: String| {
            Definition::new(Part::Program, format!("size/{program}/{kind}"), unit, what)
        };
        let what = format!("instructions the verifier walked through before it took {program}");
        rows.push(row("verified", "instructions", what));
        rows.push(row("translated", "instructions", format!("instructions {program} has in the kernel")));
        rows.push(row("jited", "bytes", format!("machine code made of {program}")));
    }
    rows
}

pub(super) fn measure(samples: &mut Samples) -> Result<()> {
    let mut world = World::new(Sizes::default(), Seed([1, 2]))?;
    for program in PROGRAMS {
        let info = world.program(program)?.info()?;
        let translated = info.size_translated().map(|bytes| f64::from(bytes) / 8.0);
        let values = [
            ("verified", info.verified_instruction_count().map(f64::from)),
            ("translated", translated),
            ("jited", Some(f64::from(info.size_jitted()))),
        ];
        for (kind, value) in values {
            if let Some(value) = value {
                samples.insert(format!("size/{program}/{kind}"), vec![value]);
            }
        }
    }
    Ok(())
}
