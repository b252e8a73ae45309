//! Which kernels there are to try, and what each is called in Debian's archive. Nothing here is fetched.

use std::cmp::Ordering;

/// A line of kernels. The newest of it that the archive has is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As on the command line: `6.1`.
    pub(crate) name: &'static str,
    /// Debian's suites that have it.
    pub(crate) suites: &'static [&'static str],
    /// What its package names begin with.
    prefix: &'static str,
    /// The Debian release it is the kernel of.
    pub(crate) debian: &'static str,
}

/// All of them, the oldest first. They are Debian's kernels for virtual machines, which boot without an initial disk of
/// drivers.
pub(crate) const ALL: [Wanted; 5] = [
    Wanted { name: "5.10", suites: &["bullseye"], prefix: "linux-image-5.10.", debian: "11" },
    Wanted { name: "6.1", suites: &["bookworm"], prefix: "linux-image-6.1.", debian: "12" },
    Wanted { name: "6.12", suites: &["trixie"], prefix: "linux-image-6.12.", debian: "13" },
    Wanted {
        name: "6.18",
        suites: &["trixie-backports"],
        prefix: "linux-image-6.18.",
        debian: "13, backports",
    },
    Wanted {
        name: "7.x",
        suites: &["trixie-backports", "forky"],
        prefix: "linux-image-7.",
        debian: "13, backports, or 14",
    },
];

const SUFFIX: &str = "-cloud-amd64";

impl Wanted {
    /// The kernels with these names, in their order; the error names those there are.
    pub(crate) fn find(names: &[String]) -> Result<Vec<Self>, String> {
        if let Some(unknown) = names.iter().find(|name| ALL.iter().all(|known| known.name != name.as_str())) {
            let known: Vec<&str> = ALL.iter().map(|known| known.name).collect();
            return Err(format!("kernel {unknown}: not one of {}", known.join(", ")));
        }
        Ok(ALL
            .into_iter()
            .filter(|known| names.is_empty() || names.iter().any(|n| n == known.name))
            .collect())
    }

    /// The oldest and the newest.
    pub(crate) fn ends() -> Vec<Self> {
        vec![ALL[0], ALL[ALL.len() - 1]]
    }

    /// Whether a package of that name is one of this line.
    fn matches(&self, package: &str) -> bool {
        package.starts_with(self.prefix)
            && package.ends_with(SUFFIX)
            && !package.contains("-rc")
            && !package.contains("unsigned")
    }

    /// The newest of this line among package names.
    pub(crate) fn newest<'a>(&self, packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        packages.filter(|package| self.matches(package)).max_by(|a, b| by_version(a, b))
    }
}

/// As their numbers say: 6.12.107 is after 6.12.94.
fn by_version(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        let parts = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
        parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
    };
    numbers(a).cmp(&numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_a_line_is_found_by_its_numbers() {
        let packages = [
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-amd64",
            "linux-image-6.18.5+deb13-cloud-amd64-unsigned",
            "linux-image-cloud-amd64",
        ];
        let newest = |line: usize| ALL[line].newest(packages.into_iter());
        assert_eq!(newest(1), Some(packages[0]));
        assert_eq!(newest(2), Some(packages[2]));
        assert_eq!(newest(3), None);
    }

    #[test]
    fn kernels_are_named_as_on_the_command_line() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            Wanted::find(&wanted).map(|found| found.iter().map(|kernel| kernel.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["7.x", "5.10"]), Ok(vec!["5.10", "7.x"]));
        assert_eq!(names(&[]).map(|all| all.len()), Ok(ALL.len()));
        assert_eq!(names(&["4.9"]), Err("kernel 4.9: not one of 5.10, 6.1, 6.12, 6.18, 7.x".to_owned()));
        assert_eq!(Wanted::ends().iter().map(|kernel| kernel.name).collect::<Vec<_>>(), ["5.10", "7.x"]);
    }
}
