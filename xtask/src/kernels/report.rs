//! What the guest says over its serial console: lines of JSON among the kernel's own, and what they add up to. The guest
//! writes them with the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a line of ours begins with.
const MARK: &str = "lb-guest: ";

/// Something the guest found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// It runs, on this kernel.
    Kernel(String),
    /// What the verifier walked through to accept a program.
    Instructions { program: String, count: u64 },
    /// Something was tried.
    Check { group: Group, name: String, outcome: Outcome },
    /// It has said everything.
    End,
}

/// What a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The verifier takes it.
    Load,
    /// Packets go where they should, in the driver and in generic mode.
    Forward,
    /// A new agent takes over.
    Upgrade,
    /// The kernel's tunnel devices take off what we put on, and we what they do.
    Tunnels,
    /// Packets go out over VLAN devices and bonds, or these are refused by name.
    Devices,
}

impl Group {
    pub const ALL: [Self; 5] = [Self::Load, Self::Forward, Self::Upgrade, Self::Tunnels, Self::Devices];

    /// Those that are columns of the table of kernels. What is sent over which device is in lb-userspace/doc/egress.md.
    pub const COLUMNS: [Self; 4] = [Self::Load, Self::Forward, Self::Upgrade, Self::Tunnels];

    /// The heading of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "loads",
            Self::Forward => "attaches and forwards",
            Self::Upgrade => "upgraded in place",
            Self::Tunnels => "tunnel devices",
            Self::Devices => "over VLAN and bond",
        }
    }
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With what was seen, if there is anything to say.
    Passed(String),
    Failed(String),
    /// This kernel cannot, by design; the reason.
    Left(String),
}

impl Fact {
    /// As it goes over the console.
    pub fn line(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    fn read(line: &str) -> Option<Self> {
        let (_, text) = line.split_once(MARK)?;
        serde_json::from_str(text.trim()).ok()
    }
}

/// The name of a check in which `judge` takes off `encapsulation`.
pub fn judged(judge: &str, encapsulation: &str) -> String {
    format!("{judge} takes off {encapsulation}")
}

/// Judge and encapsulation of such a check.
pub(super) fn judge(check: &str) -> Option<(&str, &str)> {
    check.split_once(" takes off ")
}

/// A check by its name, and how it ended.
pub type Check = (Group, String, Outcome);

/// All of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub release: Option<String>,
    pub instructions: BTreeMap<String, u64>,
    pub checks: Vec<Check>,
    ended: bool,
}

impl Report {
    /// Takes a line of the console in; whether it was one of ours.
    pub fn take(&mut self, line: &str) -> bool {
        let Some(fact) = Fact::read(line) else { return false };
        match fact {
            Fact::Kernel(release) => self.release = Some(release),
            Fact::Instructions { program, count } => drop(self.instructions.insert(program, count)),
            Fact::Check { group, name, outcome } => self.checks.push((group, name, outcome)),
            Fact::End => self.ended = true,
        }
        true
    }

    /// Whether the guest came to its end and nothing failed.
    pub fn is_good(&self) -> bool {
        self.ended && !self.checks.is_empty() && self.failures().is_empty()
    }

    /// Whether it said everything.
    pub fn is_whole(&self) -> bool {
        self.ended
    }

    /// What failed, and how.
    pub fn failures(&self) -> Vec<(&str, &str)> {
        let mut all = Vec::new();
        for (_, name, outcome) in &self.checks {
            if let Outcome::Failed(why) = outcome {
                all.push((name.as_str(), why.as_str()));
            }
        }
        all
    }

    /// Of one group: how many passed, failed, were left out.
    pub fn count(&self, group: Group) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for (_, _, outcome) in self.checks.iter().filter(|(of, _, _)| *of == group) {
            match outcome {
                Outcome::Passed(_) => counts.0 += 1,
                Outcome::Failed(_) => counts.1 += 1,
                Outcome::Left(_) => counts.2 += 1,
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, outcome: Outcome) -> Fact {
        Fact::Check { group: Group::Load, name: name.to_owned(), outcome }
    }

    fn report(facts: &[Fact]) -> Report {
        let mut report = Report::default();
        for fact in facts {
            assert!(report.take(&fact.line()));
        }
        report
    }

    #[test]
    fn what_the_guest_says_is_read_among_what_the_kernel_says() {
        let mut report = Report::default();
        assert!(!report.take("[    0.5] Freeing unused kernel memory"));
        let line = Fact::Instructions { program: "lb_xdp".into(), count: 1234 }.line();
        assert!(report.take(&format!("\r{line}\r")));
        assert_eq!(report.instructions["lb_xdp"], 1234);
    }

    #[test]
    fn a_guest_that_did_not_come_to_its_end_is_not_good() {
        let passed = check("a", Outcome::Passed(String::new()));
        assert!(report(&[passed.clone(), Fact::End]).is_good());
        assert!(!report(&[passed]).is_good());
        assert!(!report(&[Fact::End]).is_good());
    }

    #[test]
    fn a_failed_check_is_named_and_one_left_out_is_none() {
        let failed = check("a", Outcome::Failed("why".into()));
        let left = check("b", Outcome::Left("old".into()));
        let report = report(&[failed, left, Fact::End]);
        assert!(!report.is_good());
        assert_eq!(report.failures(), [("a", "why")]);
        assert_eq!(report.count(Group::Load), (0, 1, 1));
    }
}
