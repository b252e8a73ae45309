//! A younger build of the same version of the maps, for the test that upgrades to it while connections are open: a copy of the
//! workspace in the target directory, with one counter and one map more, as CONTRIBUTING's recipes say. It shares the target
//! directory, and with that everything that is not ours. Its `lbd` has a name of its own, and its packages have a version of their
//! own: cargo takes packages of equal names and versions for the same ones, wherever in a workspace's directory they are.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    build::{self, HOST},
    workspace,
};

/// The name of the younger `lbd`.
const LBD: &str = "lbd-younger";

/// The version of its packages.
const VERSION: &str = "999.0.0";

/// What is not copied: nothing that is built needs it.
const LEFT_OUT: [&str; 4] = ["target", ".git", "fixtures", "proptest-regressions"];

/// A text that is in a file once, and the text that replaces it.
struct Edit {
    file: &'static str,
    at: &'static str,
    instead: &'static str,
}

/// One counter and one map more. The map has a number for each backend that follows from its service. A packet counts when it
/// finds the right one, so packets that meet a map that is not filled yet are missing from the counter.
const EDITS: &[Edit] = &[
    Edit { file: "lb-userspace/Cargo.toml", at: "name = \"lbd\"\n", instead: "name = \"lbd-younger\"\n" },
    Edit {
        file: "lb-common/src/counter.rs",
        at: "}\n\n#[cfg(test)]\nmod tests {",
        instead: "    Younger = Event \"younger\" \"Forwarded, and the map of the younger build knows the backend.\",\n}\n\n\
                  #[cfg(test)]\nmod tests {",
    },
    Edit {
        file: "lb-common/src/map.rs",
        at: "    pub const CLOCK: &str = \"CLOCK\";\n",
        instead: "    pub const CLOCK: &str = \"CLOCK\";\n    pub const YOUNGER: &str = \"YOUNGER\";\n",
    },
    Edit {
        file: "lb-ebpf/src/maps.rs",
        at: "#[btf_map]\npub(crate) static CLOCK: ",
        instead: "#[btf_map]\npub(crate) static YOUNGER: Array<u64, { size::BACKENDS as usize }, MMAPABLE> = Array::new();\n\n\
                  #[btf_map]\npub(crate) static CLOCK: ",
    },
    Edit {
        file: "lb-ebpf/src/verdict.rs",
        at: "    if let Some(tally) = BK_TALLY.get_ptr_mut(backend) {\n",
        instead: "    if let (Some(younger), Some(service)) =\n        \
                  (crate::maps::YOUNGER.get(backend), crate::maps::BK_SERVICE.get(backend))\n        \
                  && *younger == *service + 1\n    {\n        count(Counter::Younger);\n    }\n    \
                  if let Some(tally) = BK_TALLY.get_ptr_mut(backend) {\n",
    },
    Edit {
        file: "lb-userspace/src/bpf/map_shapes.rs",
        at: "    name::CLOCK,\n];",
        instead: "    name::CLOCK,\n    name::YOUNGER,\n];",
    },
    Edit {
        file: "lb-userspace/src/bpf/map_shapes.rs",
        at: "        (name::EGRESS, size::EGRESS),\n",
        instead: "        (name::EGRESS, size::EGRESS),\n        (name::YOUNGER, limits.backends.saturating_add(1)),\n",
    },
    Edit {
        file: "lb-userspace/src/kernel/mod.rs",
        at: "    backend_services: Mapped,\n",
        instead: "    backend_services: Mapped,\n    younger: Mapped,\n",
    },
    Edit {
        file: "lb-userspace/src/kernel/mod.rs",
        at: "        let backend_services = mapped(",
        instead: "        let younger = mapped(name::YOUNGER, u64::from(sizes.backends) + 1)?;\n        \
                  let backend_services = mapped(",
    },
    Edit {
        file: "lb-userspace/src/kernel/mod.rs",
        at: "            backend_services,\n",
        instead: "            backend_services,\n            younger,\n",
    },
    Edit {
        file: "lb-userspace/src/kernel/maps.rs",
        at: "        let words = self.backend_services.words();\n",
        instead: "        let size = self.sizes.backends + 1;\n        \
                  written(name::YOUNGER, number, size, self.younger.store(at, service + 1))?;\n        \
                  let words = self.backend_services.words();\n",
    },
];

/// Builds it next to `lbd`. Returns the processor time that it took.
pub(super) fn build() -> Result<Duration> {
    let root = workspace::root();
    let copy = workspace::target().join("younger");
    refresh(&root, &copy).with_context(|| format!("copying the workspace to {}", copy.display()))?;
    let manifest = copy.join("Cargo.toml");
    let (manifest, target) = (manifest.to_string_lossy(), workspace::target());
    let target = target.to_string_lossy();
    let ours = ["--manifest-path", &*manifest, "--target-dir", &*target, "--bin", LBD];
    build::cargo_build_timed(&[HOST.as_slice(), &ours].concat()).map(|(_, processor)| processor)
}

/// Makes the copy what it should be. Files that are so already keep their times, so that cargo builds only what has changed.
fn refresh(root: &Path, copy: &Path) -> Result<()> {
    let mut wanted = BTreeSet::new();
    files(root, Path::new(""), &mut wanted)?;
    let mut edited = 0;
    for file in &wanted {
        let mut content = fs::read(root.join(file))?;
        for edit in EDITS.iter().filter(|edit| Path::new(edit.file) == file) {
            content = edit.apply(&String::from_utf8(content)?)?.into_bytes();
            edited += 1;
        }
        if ["Cargo.toml", "Cargo.lock"].iter().any(|name| Path::new(name) == file) {
            content = renumbered(&String::from_utf8(content)?)?.into_bytes();
        }
        let to = copy.join(file);
        if fs::read(&to).is_ok_and(|is| is == content) {
            continue;
        }
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&to, content)?;
    }
    ensure!(edited == EDITS.len(), "{edited} of {} edits have their file", EDITS.len());
    let mut there = BTreeSet::new();
    files(copy, Path::new(""), &mut there)?;
    there.difference(&wanted).try_for_each(|file| Ok(fs::remove_file(copy.join(file))?))
}

/// The workspace's `Cargo.toml` or `Cargo.lock` with [`VERSION`] for its packages, and for no other.
fn renumbered(text: &str) -> Result<String> {
    let mut text = text.to_owned();
    let ours = workspace::MEMBERS.map(|member| {
        let name = if member == "tests" { "lb-tests" } else { member };
        format!("name = \"{name}\"\n")
    });
    for before in ours.iter().map(String::as_str).chain(["[workspace.package]\n"]) {
        let Some((head, rest)) = text.split_once(before) else { continue };
        let after = rest.strip_prefix("version = \"").and_then(|rest| rest.split_once('"'));
        let (_, after) = after.with_context(|| format!("no version behind {before:?}"))?;
        text = format!("{head}{before}version = \"{VERSION}\"{after}");
    }
    ensure!(text.contains(VERSION), "no version of ours is there");
    Ok(text)
}

/// The files below a directory, but those that are left out.
fn files(root: &Path, directory: &Path, all: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let path = directory.join(&name);
        if kind.is_dir() {
            files(root, &path, all)?;
        } else if kind.is_file() {
            all.insert(path);
        }
    }
    Ok(())
}

impl Edit {
    fn apply(&self, text: &str) -> Result<String> {
        let found = text.matches(self.at).count();
        ensure!(found == 1, "{}: {:?} is there {found} times, wanted once", self.file, self.at);
        let text = text.replacen(self.at, self.instead, 1);
        // The compiler wants the lengths of these lists.
        let longer = |text: &str, before: &str, list: &str| -> Result<String> {
            if !self.at.contains(list) {
                return Ok(text.to_owned());
            }
            let (head, rest) = text.split_once(before).with_context(|| format!("no {before:?}"))?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let length: usize = digits.parse().with_context(|| format!("no number behind {before:?}"))?;
            Ok(format!("{head}{before}{}{}", length + 1, &rest[digits.len()..]))
        };
        let text = longer(&text, "pub const PINNED: [&str; ", "name::CLOCK,\n];")?;
        longer(&text, "-> [(&'static str, u32); ", "(name::EGRESS, size::EGRESS),\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edit_finds_its_place() {
        for file in EDITS.iter().map(|edit| edit.file).collect::<BTreeSet<_>>() {
            let before = fs::read_to_string(workspace::root().join(file)).unwrap();
            let edits = EDITS.iter().filter(|edit| edit.file == file);
            let after = edits.fold(before.clone(), |text, edit| edit.apply(&text).unwrap());
            assert_ne!(after, before, "{file}");
        }
    }

    #[test]
    fn all_packages_of_ours_and_no_others_get_another_version() {
        let read = |file: &str| fs::read_to_string(workspace::root().join(file)).unwrap();
        for (file, times) in [("Cargo.toml", 1), ("Cargo.lock", workspace::MEMBERS.len())] {
            let (before, after) = (read(file), renumbered(&read(file)).unwrap());
            assert_eq!(after.matches(VERSION).count(), times, "{file}");
            let others = before.lines().zip(after.lines()).filter(|(before, after)| before != after);
            assert_eq!(others.count(), times, "{file}");
        }
    }

    #[test]
    fn the_copy_follows_and_what_is_the_same_keeps_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let (root, copy) = (directory.path().join("root"), directory.path().join("copy"));
        let real = workspace::root();
        for file in EDITS.iter().map(|edit| edit.file) {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::copy(real.join(file), root.join(file)).unwrap();
        }
        fs::create_dir_all(root.join("target")).unwrap();
        fs::write(root.join("target/built"), "").unwrap();
        fs::write(root.join("a"), "1").unwrap();
        fs::write(root.join("b"), "1").unwrap();
        refresh(&root, &copy).unwrap();
        assert!(!copy.join("target").exists());
        let time = |file: &str| fs::metadata(copy.join(file)).unwrap().modified().unwrap();
        let counters = "lb-common/src/counter.rs";
        assert!(fs::read_to_string(copy.join(counters)).unwrap().contains("Younger = Event"));
        let before = time(counters);
        fs::write(root.join("a"), "2").unwrap();
        fs::remove_file(root.join("b")).unwrap();
        refresh(&root, &copy).unwrap();
        assert_eq!((fs::read_to_string(copy.join("a")).unwrap().as_str(), time(counters)), ("2", before));
        assert!(!copy.join("b").exists());
        fs::remove_file(root.join(counters)).unwrap();
        let error = refresh(&root, &copy).unwrap_err().to_string();
        assert!(error.contains("edits have their file"), "{error}");
    }
}
