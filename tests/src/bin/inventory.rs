//! What of the load balancer is on this host now, a line each: programs in the kernel, pins, named namespaces, mounts,
//! directories, processes. `cargo xtask test` looks before its first tier and after its last; what is new then was left behind.

use std::{env, fs, io, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;

/// How our names begin: programs `lb_…`; namespaces, and directories under `/run`, `lb-…`.
const PROGRAM: &str = "lb_";
const NAME: &str = "lb-";
/// Where bpffs is mounted. The kernel itself puts [`KERNELS_OWN`] there with each mount (Linux 5.10, `bpf_preload`).
const BPFFS: &str = "/sys/fs/bpf";
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

fn main() -> Result<()> {
    for program in loaded_programs() {
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or_default();
        if name.starts_with(PROGRAM) {
            println!("program {name} {}", program.id());
        }
    }
    pins(Path::new(BPFFS))?;
    for place in ["/run/netns", "/run"] {
        for name in names(Path::new(place))?.into_iter().filter(|name| name.starts_with(NAME)) {
            println!("{} {place}/{name}", if place == "/run" { "directory" } else { "namespace" });
        }
    }
    for line in fs::read_to_string("/proc/self/mounts")?.lines() {
        let place = line.split(' ').nth(1).unwrap_or_default();
        if place.starts_with("/run/lb-") {
            println!("mount {place}");
        }
    }
    processes()
}

/// Prints every pin of the bpf file system that the kernel did not make itself.
fn pins(directory: &Path) -> Result<()> {
    for name in names(directory)? {
        if directory == Path::new(BPFFS) && KERNELS_OWN.contains(&name.as_str()) {
            continue;
        }
        let path = directory.join(name);
        if path.is_dir() {
            pins(&path)?;
        } else {
            println!("pin {}", path.display());
        }
    }
    Ok(())
}

/// Names in a directory; none where there is no such directory, or no longer.
fn names(directory: &Path) -> Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", directory.display())),
    }
}

/// Agents whose binary is in the directory of this program.
fn processes() -> Result<()> {
    let this = env::current_exe()?;
    let ours = this.parent().context("no directory of programs")?;
    for name in names(Path::new("/proc"))? {
        // A process that has ended meanwhile does not count.
        let Ok(program) = fs::read_link(format!("/proc/{name}/exe")) else { continue };
        if program.file_name().is_some_and(|file| file == "lbd") && program.parent() == Some(ours) {
            println!("process {name} {}", program.display());
        }
    }
    Ok(())
}
