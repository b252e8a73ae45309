//! Taking a lab away, whichever command made it and however that ended: its processes, namespaces, bpffs and files.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use super::{
    node::DIRECTORY,
    process::{self, Process},
    record::{self, Record},
    topology::Config,
};
use crate::{run, ui};

/// What was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub processes: usize,
    pub namespaces: usize,
}

impl Swept {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Swept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processes, namespaces } = self;
        write!(f, "{}", ui::count(*namespaces, "namespace"))?;
        match processes {
            0 => Ok(()),
            1 => write!(f, ", 1 process"),
            many => write!(f, ", {many} processes"),
        }
    }
}

/// How often the namespaces are looked through for processes.
const ROUNDS: usize = 5;

/// Takes away everything of a lab; the caller has its lock. A record that cannot be read is no obstacle.
pub(super) fn sweep(config: &Config) -> Result<Swept> {
    let directory = record::directory(&config.prefix);
    let record = Record::read(&directory).ok().flatten();
    let mut swept = Swept::default();

    let namespaces = namespaces(&config.prefix)?;
    let mut processes = record.map(|record| record.processes).unwrap_or_default();
    // Again, as long as there are some: one may have started another while it was being ended.
    for _ in 0..ROUNDS {
        processes.extend(process::in_namespaces(&namespaces));
        let ended = end_all(&processes);
        swept.processes += ended;
        processes.clear();
        if ended == 0 {
            break;
        }
    }

    for (_, name) in &namespaces {
        let mut command = Command::new("ip");
        command.args(["netns", "del", name]);
        if let Err(error) = run::capture(&mut command) {
            // A file that is no mount point is what is left when the maker was killed between two steps.
            let path = Path::new(DIRECTORY).join(name);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot remove namespace {name}: {error}"))?;
            }
        }
        swept.namespaces += 1;
    }

    // With the last mount of a bpffs its pins are gone.
    for entry in fs::read_dir(directory.join("bpf")).into_iter().flatten().flatten() {
        nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH).ok();
    }
    for file in [format!("{}.sock", config.instance), format!("{}.lock", config.instance)] {
        fs::remove_file(Path::new("/run/lb").join(file)).ok();
    }
    clear(&directory)?;
    Ok(swept)
}

/// All namespaces of a lab with their numbers; 0 for a file that is not mounted.
pub fn namespaces(prefix: &str) -> Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).with_context(|| format!("cannot list {DIRECTORY}")),
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(prefix).is_some_and(is_node_part) {
            found.push((entry.metadata().map_or(0, |data| data.ino()), name));
        }
    }
    Ok(found)
}

/// Whether what follows the prefix is the name of one of our nodes: another lab's prefix may begin like ours.
fn is_node_part(rest: &str) -> bool {
    let Some(node) = rest.strip_prefix('-') else { return false };
    matches!(node, super::CLIENT | super::ROUTER | super::BALANCER)
        || node.strip_prefix("backend-").is_some_and(|number| number.parse::<u8>().is_ok())
}

/// SIGTERM to all, then patience for each; how many were still there.
fn end_all(processes: &[Process]) -> usize {
    let mut there: Vec<&Process> = Vec::new();
    for process in processes {
        let known = there.iter().any(|other| (other.pid, other.started) == (process.pid, process.started));
        if !known && process.signal(libc::SIGTERM).unwrap_or(false) {
            there.push(process);
        }
    }
    for process in &there {
        if let Err(error) = process.end(Duration::from_millis(1500)) {
            eprintln!("cannot end process {} ({}): {error}", process.pid, process.name);
        }
    }
    there.len()
}

/// Empties the lab's directory but for the lock, which is held.
fn clear(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == "lock" {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_nodes_are_swept() {
        for ours in ["-client", "-router", "-balancer", "-backend-1", "-backend-12"] {
            assert!(is_node_part(ours), "{ours}");
        }
        for other in ["", "-", "-other-client", "client", "-backend-", "-backend-x", "2-client"] {
            assert!(!is_node_part(other), "{other}");
        }
    }
}
