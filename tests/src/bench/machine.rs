//! What the memory of this machine costs, by the size of the working set. These rows are next to rows that read tables: they
//! separate a missed target from a busy neighbour, and show where the caches end.

use std::{collections::BTreeSet, hint::black_box, time::Instant};

use super::{
    Settings,
    row::{Definition, Part, Row, Samples},
};
use crate::fuzz::Random;

/// Working sets, as rows are named, in bytes.
const SIZES: [(&str, usize); 8] = [
    ("32k", 32 << 10),
    ("256k", 256 << 10),
    ("1M", 1 << 20),
    ("2M", 2 << 20),
    ("4M", 4 << 20),
    ("8M", 8 << 20),
    ("16M", 16 << 20),
    ("64M", 64 << 20),
];

/// Accesses in one run of a row.
const ACCESSES: u32 = 200_000;

/// The share of the last-level cache for which the targets of rows with large tables are valid, in bytes.
pub const ENOUGH: usize = 4 << 20;

fn id(size: &str) -> String {
    format!("memory/access/{size}")
}

pub(super) fn definitions() -> Vec<Definition> {
    let row = |(size, _): &(&str, usize)| {
        let what = format!("one access that depends on the one before, anywhere in {size}B of memory");
        Definition::new(Part::Machine, id(size), "ns", what)
    };
    SIZES.iter().map(row).collect()
}

pub(super) fn measure(settings: &Settings, wanted: &BTreeSet<String>, samples: &mut Samples) {
    for (size, bytes) in SIZES.iter().filter(|(size, _)| wanted.contains(&id(size))) {
        let lines = cycle(*bytes / 64);
        let mut at = walk(&lines, 0, (lines.len() as u32).min(ACCESSES * 4));
        for _ in 0..settings.rounds {
            let start = Instant::now();
            at = walk(&lines, at, ACCESSES);
            let ns = start.elapsed().as_nanos() as f64 / f64::from(ACCESSES);
            samples.entry(id(size)).or_default().push(ns);
        }
        black_box(at);
    }
}

/// A cache line that names the next one.
type Line = [u32; 16];

/// Lines in one cycle through all of them, in a random order (Sattolo's algorithm) that no prefetcher predicts.
fn cycle(count: usize) -> Vec<Line> {
    let random = Random::new(1);
    let mut order: Vec<u32> = (0..count as u32).collect();
    for last in (1..count).rev() {
        order.swap(last, random.below(last));
    }
    order.into_iter().map(|next| [next; 16]).collect()
}

fn walk(lines: &[Line], from: u32, accesses: u32) -> u32 {
    (0..accesses).fold(from, |at, _| lines[at as usize][0])
}

/// The largest working set whose accesses cost less than halfway from the second cache to memory, in bytes: the share of the
/// last-level cache that is left to us. `None` = the rows were not measured.
pub fn cache_share(rows: &[Row]) -> Option<usize> {
    let of = |size: &str| rows.iter().find(|row| row.id == id(size)).map(|row| row.median);
    let (near, far) = (of("256k")?, of("64M")?);
    let halfway = f64::midpoint(near, far);
    let within = SIZES.iter().take_while(|(size, _)| of(size).is_some_and(|ns| ns < halfway));
    within.last().map(|(_, bytes)| *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_every_line_before_it_meets_one_twice() {
        let lines = cycle(1000);
        let mut met = vec![false; lines.len()];
        let mut at = 0;
        for _ in 0..lines.len() {
            assert!(!std::mem::replace(&mut met[at as usize], true));
            at = walk(&lines, at, 1);
        }
        assert_eq!(at, 0);
    }

    #[test]
    fn the_share_ends_where_accesses_cost_as_much_as_memory() {
        let rows = |ns: [f64; 8]| -> Vec<Row> {
            let samples: Samples = SIZES.iter().zip(ns).map(|((size, _), ns)| (id(size), vec![ns])).collect();
            super::super::row::rows(&definitions(), &samples)
        };
        assert_eq!(cache_share(&rows([1.0, 4.0, 9.0, 20.0, 30.0, 80.0, 90.0, 100.0])), Some(4 << 20));
        assert_eq!(cache_share(&rows([1.0, 4.0, 60.0, 80.0, 80.0, 80.0, 90.0, 100.0])), Some(256 << 10));
        assert_eq!(cache_share(&[]), None);
    }
}
