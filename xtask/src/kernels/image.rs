//! What a virtual machine boots into: the guest program, the agent, the tools the lab needs, with the libraries they are
//! linked to, and the few kernel modules that carry the lab's network. All of it is in memory; there is no disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{archive::Kernel, cpio::Cpio};
use crate::run;

/// Where our own binaries are in the guest.
pub const BINARIES: &str = "/opt/lb";

/// Where below it the tests of agent and command line are: like cargo's they find what they start one directory up.
pub const CONTROL: &str = "deps/control";

/// Programs of this host that the guest cannot do without.
const TOOLS: &[&str] = &["sh", "ip", "ethtool", "curl", "modprobe", "sysctl", "nsenter", "unshare"];
/// Those that it uses where they are.
const MORE_TOOLS: &[&str] = &["nginx", "nft", "tcpdump"];

/// Modules the guest may load, with those they need.
const MODULES: &[&str] = &[
    "veth",
    "bridge",
    "tun",
    "8021q",
    "bonding",
    "ipip",
    "sit",
    "ip6_tunnel",
    "fou",
    "fou6",
    "nf_tables",
    "nft_compat",
    "xt_TCPMSS",
];

/// Files that programs expect.
const FILES: &[(&str, &str)] = &[
    ("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
];

/// Programs that cargo built, by the name they have in the guest. `guest` becomes the first process.
#[derive(Clone, Debug)]
pub(crate) struct Payload(pub(crate) Vec<(&'static str, PathBuf)>);

/// Tools of this host that are missing for it.
pub(crate) fn missing_tools() -> Vec<&'static str> {
    TOOLS.iter().copied().filter(|tool| run::find(tool).is_none()).collect()
}

/// The programs without debug information. To be made once for all kernels: images are written side by side.
pub(crate) fn strip(payload: &Payload, directory: &Path) -> Result<Payload> {
    let strip = |(name, source): &(&'static str, PathBuf)| Ok((*name, stripped(source, directory)?));
    Ok(Payload(payload.0.iter().map(strip).collect::<Result<_>>()?))
}

/// Writes the initial file system for one kernel; its path.
pub(crate) fn write(kernel: &Kernel, payload: &Payload, directory: &Path) -> Result<PathBuf> {
    let path = directory.join(format!("{}.cpio", kernel.wanted.name));
    let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    // Programs may be linked to either place.
    for name in ["bin", "sbin", "lib", "lib64"] {
        cpio.symlink(&Path::new("/").join(name), &format!("usr/{name}"))?;
    }
    for name in ["dev", "proc", "sys", "run", "tmp", "var/log/nginx", "var/lib/nginx", "usr/bin", "usr/sbin"]
    {
        cpio.directory(&Path::new("/").join(name))?;
    }
    cpio.device(Path::new("/dev/console"), (5, 1))?;
    for (name, text) in FILES {
        cpio.text(Path::new(name), text)?;
    }
    let mut libraries = BTreeSet::new();
    for (name, source) in &payload.0 {
        cpio.file(&Path::new(BINARIES).join(name), source)?;
        libraries.extend(linked(source)?);
    }
    cpio.symlink(Path::new("/init"), &format!("{BINARIES}/guest"))?;
    for name in TOOLS.iter().chain(MORE_TOOLS) {
        let Some(found) = run::find(name) else {
            if TOOLS.contains(name) {
                bail!("`{name}` is not installed; `cargo xtask setup` installs what the guests need");
            }
            continue;
        };
        cpio.file(&Path::new("/usr/bin").join(name), &found.canonicalize()?)?;
        libraries.extend(linked(&found)?);
    }
    // The kernel starts it by this name.
    cpio.symlink(Path::new("/usr/sbin/modprobe"), "../bin/modprobe")?;
    for library in libraries {
        // `lib` leads to `usr/lib` there.
        let below =
            library.strip_prefix("/usr").unwrap_or_else(|_| library.strip_prefix("/").unwrap_or(&library));
        cpio.file(&Path::new("/usr").join(below), &library)?;
    }
    modules(&mut cpio, kernel)?;
    cpio.finish()?;
    Ok(path)
}

/// The libraries a program is linked to, and its loader; none when it is linked statically.
fn linked(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start `ldd`")?;
    // It fails for what is not linked dynamically.
    Ok(libraries(&String::from_utf8_lossy(&output.stdout)))
}

/// `libc.so.6 => /lib/libc.so.6 (0x…)`, and `/lib64/ld-linux.so.2 (0x…)`.
fn libraries(listing: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path);
        let path = line.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listing.lines().filter_map(path).collect()
}

/// A copy without debug information, which is most of a program built for development; the program itself where it
/// cannot be stripped.
fn stripped(program: &Path, directory: &Path) -> Result<PathBuf> {
    let copy = directory.join(program.file_name().context("a program without a name")?);
    let stripped = run::succeeds(Command::new("strip").arg("-o").arg(&copy).arg(program));
    Ok(if stripped { copy } else { program.to_owned() })
}

/// The modules and what modprobe finds them by.
fn modules<W: std::io::Write>(cpio: &mut Cpio<W>, kernel: &Kernel) -> Result<()> {
    let there = Path::new("/usr/lib/modules").join(&kernel.release);
    for entry in fs::read_dir(&kernel.modules)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("modules.") {
            cpio.file(&there.join(name), &file)?;
        }
    }
    let dependencies = fs::read_to_string(kernel.modules.join("modules.dep")).context("no modules.dep")?;
    for module in closure(&dependencies, MODULES) {
        cpio.file(&there.join(&module), &kernel.modules.join(&module))?;
    }
    Ok(())
}

/// The files of these modules and of all they need. A module that is built in or unknown has no file.
fn closure(dependencies: &str, wanted: &[&str]) -> BTreeSet<String> {
    let lines: BTreeMap<&str, &str> = dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let stem = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next().unwrap_or(file).replace('-', "_")
    };
    let mut found = BTreeSet::new();
    for (module, needs) in &lines {
        if wanted.contains(&stem(module).as_str()) {
            found.insert((*module).to_owned());
            // depmod writes all of them out, also those that others need.
            found.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        let listing = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                       \tlibx.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<_> = libraries(listing).into_iter().collect();
        let wanted = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(found, wanted);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_module_comes_with_what_it_needs() {
        let dependencies = "kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/tunnel4.ko.xz\n\
                            kernel/net/ipv4/tunnel4.ko.xz:\nkernel/net/ipv6/ip6-tunnel.ko:\nkernel/x/y.ko:\n";
        let found: Vec<_> = closure(dependencies, &["ipip", "ip6_tunnel"]).into_iter().collect();
        assert_eq!(
            found,
            ["kernel/net/ipv4/ipip.ko.xz", "kernel/net/ipv4/tunnel4.ko.xz", "kernel/net/ipv6/ip6-tunnel.ko"]
        );
    }
}
