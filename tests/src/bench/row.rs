//! The model of a row: its definition, its samples, and the values computed from them. Nothing is measured here.

use std::collections::BTreeMap;

/// The part that measures a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Packets by BPF_PROG_TEST_RUN.
    Packet,
    /// A foreign pinned program.
    Pinned,
    /// What the machine's memory costs.
    Machine,
    /// What the kernel reports of the loaded programs.
    Program,
    /// Rings, plans and maps, in this process.
    Control,
    /// Cables, clients and agents in network namespaces.
    Lab,
}

/// How a row is computed from other rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Formula {
    /// The first row divided by the second.
    Ratio(String, String),
    /// The difference of the first and the second row, divided by the difference of the third and the fourth.
    NetRatio([String; 4]),
}

impl Formula {
    /// The rows that the row is computed from.
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Self::Ratio(a, b) => vec![a, b],
            Self::NetRatio(rows) => rows.iter().map(String::as_str).collect(),
        }
    }

    /// One sample, computed from one sample of each source.
    fn of(&self, values: &[f64]) -> f64 {
        match (self, values) {
            (Self::Ratio(..), [a, b]) => a / b,
            (Self::NetRatio(_), [a, b, c, d]) => (a - b) / (c - d),
            _ => f64::NAN,
        }
    }
}

/// The limit that a row must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// A limit for the part above the floor.
    NetAtMost(f64),
}

impl Target {
    fn words(self, unit: &str) -> String {
        let unit = if unit == "ratio" { String::new() } else { format!(" {unit}") };
        match self {
            Self::AtMost(bound) => format!("≤ {bound}{unit}"),
            Self::AtLeast(bound) => format!("≥ {bound}{unit}"),
            Self::NetAtMost(bound) => format!("net ≤ {bound}{unit}"),
        }
    }

    /// `None` where there is nothing to compare.
    fn is_met(self, median: f64, net: Option<f64>) -> Option<bool> {
        let met = match self {
            Self::AtMost(bound) => median <= bound,
            Self::AtLeast(bound) => median >= bound,
            Self::NetAtMost(bound) => net? <= bound,
        };
        (!median.is_nan()).then_some(met)
    }
}

/// A row that can be measured.
#[derive(Clone, Debug)]
pub struct Definition {
    /// As in `--rows` and in JSON; an id never changes, so that runs can be compared.
    pub id: String,
    /// A description for people.
    pub what: String,
    pub unit: &'static str,
    pub part: Part,
    /// Whether `--quick` measures it.
    pub quick: bool,
    /// The row that is subtracted from this one.
    pub floor: Option<&'static str>,
    pub formula: Option<Formula>,
    pub target: Option<Target>,
    /// The target is only for machines whose last-level cache leaves us [`super::machine::ENOUGH`].
    pub wants_cache: bool,
}

impl Definition {
    pub fn new(part: Part, id: impl Into<String>, unit: &'static str, what: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            what: what.into(),
            unit,
            part,
            quick: true,
            floor: None,
            formula: None,
            target: None,
            wants_cache: false,
        }
    }

    #[must_use]
    pub fn above(mut self, floor: &'static str) -> Self {
        self.floor = Some(floor);
        self
    }

    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    #[must_use]
    pub fn wants_cache(mut self) -> Self {
        self.wants_cache = true;
        self
    }

    #[must_use]
    pub fn quick(mut self, quick: bool) -> Self {
        self.quick = quick;
        self
    }

    #[must_use]
    pub fn made_of(mut self, formula: Formula) -> Self {
        self.formula = Some(formula);
        self
    }

    /// Rows that must be measured so that this row can be computed.
    pub fn needs(&self) -> Vec<&str> {
        let sources = self.formula.iter().flat_map(Formula::sources);
        sources.chain(self.floor).collect()
    }
}

/// Samples by row id. The samples of one part are taken in rounds, so samples at the same place belong to the same round.
pub type Samples = BTreeMap<String, Vec<f64>>;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub what: String,
    pub unit: String,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Half of the distance between the quartiles, as a share of the median: how much the machine disturbed the row.
    pub noise: f64,
    /// The median of the floor.
    pub floor: Option<f64>,
    /// The median of the part above the floor, computed round by round.
    pub net: Option<f64>,
    pub target: Option<String>,
    pub met: Option<bool>,
    /// As in [`Definition`].
    pub wants_cache: bool,
}

/// The rows whose definitions have samples, in the order of the definitions.
pub fn rows(definitions: &[Definition], samples: &Samples) -> Vec<Row> {
    definitions.iter().filter_map(|definition| row(definition, samples)).collect()
}

fn row(definition: &Definition, samples: &Samples) -> Option<Row> {
    let Definition { id, what, unit, part: _, quick: _, floor, formula, target, wants_cache } = definition;
    let own = match formula {
        Some(formula) => {
            let sources: Option<Vec<&Vec<f64>>> =
                formula.sources().into_iter().map(|id| samples.get(id)).collect();
            round_by_round(&sources?, |values| formula.of(values))
        }
        None => samples.get(id)?.clone(),
    };
    let below = floor.and_then(|floor| samples.get(floor));
    let net =
        below.map(|below| {
            median(round_by_round(&[&own, below], |values| {
                if let [row, floor] = values { row - floor } else { f64::NAN }
            }))
        });
    let sorted = sorted(own);
    let at = |share: f64| quantile(&sorted, share);
    let median = at(0.5);
    Some(Row {
        id: id.clone(),
        what: what.clone(),
        unit: (*unit).to_owned(),
        median,
        min: at(0.0),
        max: at(1.0),
        noise: if median == 0.0 { 0.0 } else { ((at(0.75) - at(0.25)) / 2.0 / median).abs() },
        floor: below.map(|below| self::median(below.clone())),
        net,
        target: target.map(|target| target.words(unit)),
        met: target.and_then(|target| target.is_met(median, net)),
        wants_cache: *wants_cache,
    })
}

/// What `make` computes from the first samples of all rows, then from the second ones, and so on.
fn round_by_round(samples: &[&Vec<f64>], make: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let rounds = samples.iter().map(|samples| samples.len()).min().unwrap_or(0);
    (0..rounds)
        .map(|round| {
            let values: Vec<f64> = samples.iter().map(|samples| samples[round]).collect();
            make(&values)
        })
        .collect()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

pub(super) fn median(values: Vec<f64>) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// The value below which this share of the sorted values lies, interpolated between neighbours.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(&str, &[f64])]) -> Samples {
        rows.iter().map(|(id, values)| ((*id).to_owned(), values.to_vec())).collect()
    }

    #[test]
    fn a_median_is_between_the_two_in_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn net_is_computed_round_by_round() {
        // Another load slows both rows in the second round: the difference stays.
        let samples = samples(&[("a", &[50.0, 90.0, 51.0]), ("floor/grow", &[40.0, 80.0, 41.0])]);
        let row = row(&Definition::new(Part::Packet, "a", "ns", "").above("floor/grow"), &samples).unwrap();
        assert_eq!((row.net, row.floor), (Some(10.0), Some(41.0)));
    }

    #[test]
    fn a_ratio_is_made_of_the_rows_it_names() {
        let samples = samples(&[("a", &[3.0, 6.0]), ("b", &[2.0, 3.0])]);
        let formula = Formula::Ratio("a".to_owned(), "b".to_owned());
        let definition = Definition::new(Part::Packet, "a-b", "ratio", "").made_of(formula);
        let row = row(&definition.target(Target::AtMost(1.75)), &samples).unwrap();
        assert_eq!((row.median, row.min, row.max, row.met), (1.75, 1.5, 2.0, Some(true)));
    }

    #[test]
    fn a_target_that_is_missed_is_said_to_be() {
        let samples = samples(&[("a", &[6.0]), ("floor/pass", &[0.0])]);
        let of = |target| {
            let definition = Definition::new(Part::Packet, "a", "ns", "").above("floor/pass");
            row(&definition.target(target), &samples).unwrap().met
        };
        assert_eq!(of(Target::NetAtMost(5.0)), Some(false));
        assert_eq!(of(Target::AtLeast(6.0)), Some(true));
        assert_eq!(of(Target::AtMost(5.9)), Some(false));
    }

    #[test]
    fn a_row_without_samples_is_left_out() {
        let formula = Formula::Ratio("a".to_owned(), "b".to_owned());
        let definition = Definition::new(Part::Packet, "a-b", "ratio", "").made_of(formula);
        assert!(row(&definition, &samples(&[("a", &[1.0])])).is_none());
    }
}
