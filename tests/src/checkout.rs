//! The path of the files of the checkout: the checkout in which a program is started, not the one in which it was compiled. A
//! checkout may be copied with its target directory.

use std::path::{Path, PathBuf};

/// The directory `name` of `tests/fixtures`.
///
/// # Panics
/// The current directory is not in a checkout.
pub fn fixtures(name: &str) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    find(&here, name).unwrap_or_else(|| {
        panic!(
            "{} is in no checkout of lb: nothing from there upwards has tests/fixtures/{name}",
            here.display()
        )
    })
}

fn find(from: &Path, name: &str) -> Option<PathBuf> {
    from.ancestors().map(|directory| directory.join("tests/fixtures").join(name)).find(|path| path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixtures_are_those_of_the_nearest_checkout() {
        let directory = tempfile::tempdir().unwrap();
        let (outer, inner) = (directory.path(), directory.path().join("a/copy"));
        let golden = |root: &Path| root.join("tests/fixtures/golden");
        std::fs::create_dir_all(golden(outer)).unwrap();
        std::fs::create_dir_all(golden(&inner)).unwrap();
        assert_eq!(find(&inner.join("tests"), "golden"), Some(golden(&inner)));
        assert_eq!(find(&outer.join("a"), "golden"), Some(golden(outer)));
        assert_eq!(find(outer, "regress"), None);
    }
}
