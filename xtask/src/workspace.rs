//! Where things are in this repository: in the workspace that the command is started in, not in the one that the program was
//! compiled in. A checkout may be copied with its target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result};

/// The members by which a workspace is known as ours.
pub(crate) const MEMBERS: [&str; 5] = ["lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"];

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Finds the workspace of the current directory; an error where there is none.
pub fn enter() -> Result<()> {
    let here = std::env::current_dir().context("cannot find the current directory")?;
    let root = find(&here)?;
    ROOT.get_or_init(|| root);
    Ok(())
}

/// The workspace's root: the nearest directory upwards with a Cargo.toml that has our members.
fn find(from: &Path) -> Result<PathBuf> {
    let root = from.ancestors().find(|directory| is_root(directory));
    root.map(Path::to_path_buf).with_context(|| {
        format!(
            "{} is in no workspace of lb: no directory from there upwards has a Cargo.toml with the members {}; start it \
             inside a checkout",
            from.display(),
            MEMBERS.join(", ")
        )
    })
}

fn is_root(directory: &Path) -> bool {
    fs::read_to_string(directory.join("Cargo.toml")).is_ok_and(|manifest| is_ours(&manifest))
}

/// Whether a Cargo.toml is of a workspace with our members, however the list is broken into lines.
fn is_ours(manifest: &str) -> bool {
    let Some((_, list)) = manifest.split_once("\nmembers = [") else { return false };
    let list = list.split(']').next().unwrap_or_default();
    let members: Vec<&str> = list.split(',').map(|member| member.trim().trim_matches('"')).collect();
    MEMBERS.iter().all(|member| members.contains(member))
}

/// The repository's root.
///
/// # Panics
/// [`enter`] was not called, and the current directory is in no workspace.
pub fn root() -> PathBuf {
    // Tests call no `enter`; cargo runs them in their package's directory.
    ROOT.get_or_init(|| {
        let here = std::env::current_dir().unwrap_or_default();
        find(&here).unwrap_or_else(|error| panic!("{error}"))
    })
    .clone()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "[workspace]\nresolver = \"3\"\nmembers = [\n  \"lb-common\", \"lb-ebpf\",\n  \"lb-userspace\", \
                        \"tests\",\n  \"xtask\",\n]\n";

    #[test]
    fn the_workspace_is_the_nearest_one_upwards_with_our_members() {
        let directory = tempfile::tempdir().unwrap();
        let outer = directory.path().canonicalize().unwrap();
        let inner = outer.join("a/copy");
        fs::create_dir_all(inner.join("lb-ebpf/src")).unwrap();
        fs::write(outer.join("Cargo.toml"), OURS).unwrap();
        fs::write(inner.join("lb-ebpf/Cargo.toml"), "[package]\nname = \"lb-ebpf\"\n").unwrap();
        assert_eq!(find(&inner.join("lb-ebpf/src")).unwrap(), outer);
        fs::write(inner.join("Cargo.toml"), OURS).unwrap();
        assert_eq!(find(&inner.join("lb-ebpf/src")).unwrap(), inner);
        assert_eq!(find(&outer.join("a")).unwrap(), outer);
    }

    #[test]
    fn outside_of_a_workspace_of_ours_the_place_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        fs::write(place.join("Cargo.toml"), "[workspace]\nmembers = [\"xtask\", \"tests\"]\n").unwrap();
        let error = find(place).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is in no workspace of lb: ", place.display())), "{error}");
        assert!(error.ends_with("start it inside a checkout"), "{error}");
    }

    #[test]
    fn this_checkout_is_one_of_ours() {
        assert!(root().join("lb-userspace/build/bpf.rs").is_file());
    }
}
