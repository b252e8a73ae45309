//! Which folder of `lb-userspace` may import which. The order is [`ORDER`], and nothing imports upward. Within a folder,
//! more than two files must not need one another in a circle: then each of them can be read, and tested, without the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    File, Finding,
    source::{self, Import, Source},
};

/// The library whose order it is.
const ROOT: &str = "lb-userspace/src/";

/// Its folders, and the files next to them, lowest first: each imports only from those before it. Tests may import all.
const ORDER: [&str; 21] = [
    "fault",
    "printable",
    "histogram",
    "instance",
    "ring",
    "config",
    "net",
    "health",
    "host",
    "state",
    "tables",
    "reconcile",
    "bpf",
    "kernel",
    "upgrade",
    "api",
    "metrics",
    "control",
    "tools",
    "ctl",
    "agent",
];

/// Where a circle may be: two files that need each other are read together.
const LARGEST_CIRCLE: usize = 2;

/// The library's files without those that only tests have, and what each imports from it.
struct Library<'a> {
    files: BTreeMap<Vec<String>, (&'a File, Source)>,
}

impl<'a> Library<'a> {
    fn new(files: &'a [File]) -> Self {
        let mut all = BTreeMap::new();
        for file in files {
            let Some(path) = file.path.strip_prefix(ROOT) else { continue };
            // Programs are above the library, and import it by its name.
            if path.ends_with(".rs") && !path.starts_with("bin/") {
                let source = source::read(path, &file.text);
                all.insert(source.module.clone(), (file, source));
            }
        }
        let tests: Vec<_> = all.values().flat_map(|(_, source)| source.tests.clone()).collect();
        all.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self { files: all }
    }

    /// The path from the crate on; `None` = it leads out of the crate.
    fn absolute(&self, import: &Import) -> Option<Vec<String>> {
        let mut base = import.scope.clone();
        let mut path = import.path.as_slice();
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                path = &path[1..];
            }
            "self" => path = &path[1..],
            "super" => {}
            name if import.used => {
                base.push(name.to_owned());
                if !self.files.contains_key(&base) {
                    return None;
                }
                path = &path[1..];
            }
            _ => return None,
        }
        while path.first().is_some_and(|first| first == "super") {
            base.pop()?;
            path = &path[1..];
        }
        base.extend(path.iter().filter(|name| *name != "self").cloned());
        Some(base)
    }

    /// The module where what a path names is defined, through `pub use` lines.
    fn target(&self, import: &Import) -> Option<Vec<String>> {
        let mut path = self.absolute(import)?;
        // More steps than this would be a circle of `pub use` lines.
        for _ in 0..8 {
            let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
            let (module, rest) = (path[..length].to_vec(), path.get(length));
            let exported = rest.and_then(|name| {
                let (_, source) = &self.files[&module];
                let mut exports = source.imports.iter().filter(|import| import.exported);
                self.absolute(exports.find(|import| import.path.last() == Some(name))?)
            });
            match exported {
                Some(next) if next != path => path = next,
                _ => return Some(module),
            }
        }
        None
    }

    /// What each file imports from others of the library, with the lines.
    fn edges(&self) -> impl Iterator<Item = (&'a File, &[String], usize, Vec<String>)> {
        self.files.iter().flat_map(move |(module, (file, source))| {
            let targets = source.imports.iter().map(|import| (import.line, self.target(import)));
            targets.filter_map(move |(line, target)| Some((*file, module.as_slice(), line, target?)))
        })
    }
}

/// The folder of a module; `None` for the crate itself.
fn place(module: &[String]) -> Option<Result<usize, &str>> {
    let folder = module.first()?;
    Some(ORDER.iter().position(|known| known == folder).ok_or(folder))
}

/// Every import that leads upward, and every folder that the order does not have.
pub(super) fn upward(files: &[File]) -> Vec<Finding> {
    let library = Library::new(files);
    let mut findings = Vec::new();
    for (module, (file, _)) in &library.files {
        if let Some(Err(folder)) = place(module) {
            let message = format!("the order of folders in xtask/src/tidy/imports.rs does not have {folder}");
            findings.push(Finding { path: file.path.clone(), line: 0, message });
        }
    }
    for (file, module, line, target) in library.edges() {
        if let (Some(Ok(from)), Some(Ok(to))) = (place(module), place(&target))
            && to > from
        {
            let message = format!("{} imports {}, which is above it", ORDER[from], target.join("::"));
            findings.push(Finding { path: file.path.clone(), line, message });
        }
    }
    findings.dedup();
    findings
}

/// Circles of more than two files. A file and those of the folder that it opens are one thing, which may need one another.
pub(super) fn circles(files: &[File]) -> Vec<Finding> {
    let library = Library::new(files);
    let mut needs: Needs = BTreeMap::new();
    for (_, module, _, target) in library.edges() {
        if !module.starts_with(&target) && !target.starts_with(module) {
            needs.entry(module.to_vec()).or_default().insert(target);
        }
    }
    let reached: Needs = needs.keys().map(|module| (module.clone(), reach(&needs, module))).collect();
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (module, all) in &reached {
        let back = |other: &&Vec<String>| reached.get(*other).is_some_and(|back| back.contains(module));
        let circle: Vec<&Vec<String>> = all.iter().filter(back).collect();
        if circle.len() > LARGEST_CIRCLE && seen.insert(circle.clone()) {
            let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            let message = format!("{} files need one another: {}", circle.len(), names.join(", "));
            findings.push(Finding { path: library.files[module].0.path.clone(), line: 0, message });
        }
    }
    findings
}

/// What each module needs.
type Needs = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// Everything that a module needs, and what that needs.
fn reach(needs: &Needs, from: &[String]) -> BTreeSet<Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in needs.get(module).into_iter().flatten() {
            if reached.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(files: &[(&str, &str)]) -> Vec<File> {
        let file = |(path, text): &(&str, &str)| File {
            path: format!("{ROOT}{path}"),
            text: (*text).to_owned(),
            size: text.len(),
        };
        files.iter().map(file).collect()
    }

    fn said(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|finding| finding.to_string().replace(ROOT, "")).collect()
    }

    #[test]
    fn an_import_upward_is_found_by_its_line_and_one_downward_is_none() {
        let files = library(&[
            (
                "agent/mod.rs",
                "use crate::config::spec::Spec;
",
            ),
            (
                "config/mod.rs",
                "pub mod spec;
",
            ),
            (
                "config/spec.rs",
                "//! x
use crate::{
    agent::Agent,
    ring,
};
fn f() { super::super::net::g() }
",
            ),
            ("net.rs", ""),
            ("ring/mod.rs", ""),
        ]);
        assert_eq!(
            said(&upward(&files)),
            [
                "config/spec.rs:3: config imports agent, which is above it",
                "config/spec.rs:6: config imports net, which is above it"
            ]
        );
    }

    #[test]
    fn tests_may_import_everything_and_programs_are_not_asked() {
        let files = library(&[
            (
                "lib.rs",
                "#[cfg(test)]
mod words;
pub mod config;
",
            ),
            (
                "words.rs",
                "use crate::agent;
",
            ),
            (
                "config.rs",
                "#[cfg(test)]
mod tests {
    use crate::agent;
}
#[cfg(test)]
mod more;
",
            ),
            (
                "config/more.rs",
                "use crate::agent;
",
            ),
            ("agent.rs", ""),
            (
                "bin/lbd.rs",
                "use lb_userspace::agent;
",
            ),
        ]);
        assert_eq!(said(&upward(&files)), [""; 0]);
    }

    #[test]
    fn a_folder_that_the_order_does_not_have_is_named() {
        let found = said(&upward(&library(&[("attic/mod.rs", "")])));
        assert_eq!(
            found,
            ["attic/mod.rs: the order of folders in xtask/src/tidy/imports.rs does not have attic"]
        );
    }

    #[test]
    fn three_files_in_a_circle_are_found_once_also_through_what_a_folder_gives_on() {
        let files = library(&[
            (
                "net/mod.rs",
                "mod a;
mod b;
mod c;
pub use self::a::A;
pub use c::C;
",
            ),
            (
                "net/a.rs",
                "use super::b::B;
",
            ),
            (
                "net/b.rs",
                "use super::C;
",
            ),
            (
                "net/c.rs",
                "use crate::net::A;
",
            ),
        ]);
        assert_eq!(said(&circles(&files)), ["net/a.rs: 3 files need one another: net::a, net::b, net::c"]);
    }

    #[test]
    fn two_files_may_need_each_other_and_a_folder_is_one_thing_with_its_files() {
        let files = library(&[
            (
                "net/mod.rs",
                "mod a;
mod b;
mod c;
use self::{a::A, b::B, c::C};
pub struct D;
",
            ),
            (
                "net/a.rs",
                "use super::{D, b::B};
",
            ),
            (
                "net/b.rs",
                "use super::{D, a::A};
",
            ),
            (
                "net/c.rs",
                "use super::D;
",
            ),
        ]);
        assert_eq!(said(&circles(&files)), [""; 0]);
    }
}
