//! The compiler for the BPF half and its linker: what is there, and whether the two fit together.
//!
//! The BPF target has no prebuilt `core`, so the compiler needs its own library source. `bpf-linker` reads the bitcode
//! the compiler writes, so both must be of the same major LLVM.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{run, workspace};

/// The rustup toolchain set-up makes, a link to whatever compiler it found. `lb-userspace/build/bpf.rs` asks for it by
/// this name.
pub const NAME: &str = "bpf-build";
/// Overrides it, here and in the build script.
pub const VARIABLE: &str = "LB_BPF_TOOLCHAIN";

/// A compiler that can build the BPF half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Its name for `rustup run`.
    pub name: String,
    pub directory: PathBuf,
}

/// The linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    /// The major LLVM it is linked with; `None` = linked statically, not known.
    pub llvm: Option<u32>,
}

/// Both, checked against each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub compiler: Compiler,
    pub rustc: String,
    pub llvm: u32,
    pub linker: Linker,
}

/// What of the pair is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No compiler with library source; the text says what was looked at.
    Compiler(String),
    /// The compiler is there, the linker is not, or not for this LLVM.
    Linker { compiler: Compiler, llvm: u32, why: String },
}

/// `RUSTUP_HOME`, by default `~/.rustup`.
pub fn rustup_home() -> PathBuf {
    home("RUSTUP_HOME", ".rustup")
}

/// `CARGO_HOME`, by default `~/.cargo`.
pub fn cargo_home() -> PathBuf {
    home("CARGO_HOME", ".cargo")
}

fn home(variable: &str, default: &str) -> PathBuf {
    let user = env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    env::var_os(variable).map_or_else(|| user.join(default), PathBuf::from)
}

/// The directory of an installed toolchain, by its full name or without the host's triple.
pub fn directory(name: &str) -> Option<PathBuf> {
    let all = rustup_home().join("toolchains");
    let exact = all.join(name);
    if exact.exists() {
        return Some(exact);
    }
    let prefix = format!("{name}-{}-", env::consts::ARCH);
    let entries = fs::read_dir(&all).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix)) && path.exists()
    })
}

/// Whether a toolchain has what `-Z build-std=core` needs.
fn has_source(directory: &Path) -> bool {
    directory.join("bin/rustc").exists()
        && directory.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// The compiler the build script will take, if it can do the work.
pub fn compiler() -> Result<Compiler, String> {
    if let Ok(name) = env::var(VARIABLE) {
        return match directory(&name) {
            Some(directory) if has_source(&directory) => Ok(Compiler { name, directory }),
            Some(_) => {
                Err(format!("{VARIABLE} names {name}, which has no library source (component rust-src)"))
            }
            None => Err(format!("{VARIABLE} names {name}, which is not installed")),
        };
    }
    // As the build script: the link wins wherever it exists, even a broken one.
    let linked = rustup_home().join("toolchains").join(NAME).symlink_metadata().is_ok();
    for name in if linked { [NAME].as_slice() } else { ["nightly"].as_slice() } {
        if let Some(directory) = directory(name).filter(|directory| has_source(directory)) {
            return Ok(Compiler { name: (*name).to_owned(), directory });
        }
    }
    Err(if linked {
        format!("rustup toolchain {NAME} has no library source")
    } else {
        "no rustup toolchain with library source".to_owned()
    })
}

impl Compiler {
    /// Whether `cargo clippy` works with it.
    pub fn has_clippy(&self) -> bool {
        self.directory.join("bin/cargo-clippy").exists()
    }

    /// Its version line and the major LLVM it has inside.
    pub fn version(&self) -> Result<(String, u32)> {
        let text = run::capture(Command::new(self.directory.join("bin/rustc")).arg("-vV"))?;
        let version = text.lines().next().unwrap_or_default().to_owned();
        let llvm = llvm_of_rustc(&text).with_context(|| format!("`{version}` does not name its LLVM"))?;
        Ok((version, llvm))
    }

    /// A directory with `lib/libLLVM.so` of major `llvm` to link `bpf-linker` with: the compiler's own library, else
    /// the distribution's.
    pub fn llvm_prefix(&self, llvm: u32) -> Result<Option<PathBuf>> {
        if let Some(own) = own_library(&self.directory, llvm) {
            return shim(&own).map(Some);
        }
        let system = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
        Ok(system.join("lib/libLLVM.so").exists().then_some(system))
    }
}

/// The `libLLVM` that toolchains made by rustup carry.
fn own_library(directory: &Path, llvm: u32) -> Option<PathBuf> {
    let prefix = format!("libLLVM.so.{llvm}.");
    let entries = fs::read_dir(directory.join("lib")).ok()?.flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix)))
}

/// A directory as `bpf-linker`'s build wants it, with links to a library of another name. It stays: the linker's run
/// path leads through it.
fn shim(library: &Path) -> Result<PathBuf> {
    let name = library.file_name().context("a library has a name")?;
    let prefix = cargo_home().join("bpf-linker-llvm");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("cannot make {}", lib.display()))?;
    for link in [lib.join(name), lib.join("libLLVM.so")] {
        fs::remove_file(&link).ok();
        std::os::unix::fs::symlink(library, &link)
            .with_context(|| format!("cannot make {}", link.display()))?;
    }
    Ok(prefix)
}

fn llvm_of_rustc(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The major LLVM in the name of the library a program was linked with: `libLLVM.so.22.1`, or `libLLVM-14.so.1`.
fn llvm_of_program(bytes: &[u8]) -> Option<u32> {
    let name = b"libLLVM";
    bytes.windows(name.len()).enumerate().filter(|(_, window)| window == name).find_map(|(at, _)| {
        let rest = &bytes[at + name.len()..];
        let rest = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    })
}

/// Where the linker is: in `PATH`, or where cargo installs, which rustup puts there for the build.
fn linker_path() -> Option<PathBuf> {
    run::find("bpf-linker").or_else(|| {
        let own = cargo_home().join("bin/bpf-linker");
        own.exists().then_some(own)
    })
}

/// The linker, if it starts.
pub fn linker() -> Result<Linker, String> {
    let Some(path) = linker_path() else { return Err("bpf-linker is not installed".to_owned()) };
    if !run::succeeds(Command::new(&path).arg("--version")) {
        return Err(format!("{} does not start", path.display()));
    }
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Linker { path, llvm: llvm_of_program(&bytes) })
}

/// Both, as they are now.
pub fn pair() -> Result<Pair, Missing> {
    let compiler = compiler().map_err(Missing::Compiler)?;
    let (rustc, llvm) = compiler.version().map_err(|error| Missing::Compiler(format!("{error:#}")))?;
    match linker() {
        Ok(linker) if linker.llvm.is_none_or(|own| own == llvm) => Ok(Pair { compiler, rustc, llvm, linker }),
        Ok(linker) => {
            let own = linker.llvm.unwrap_or_default();
            let why =
                format!("{} is linked with LLVM {own}, the compiler with {llvm}", linker.path.display());
            Err(Missing::Linker { compiler, llvm, why })
        }
        Err(why) => Err(Missing::Linker { compiler, llvm, why }),
    }
}

/// What was found to fit together, so that the next look costs a few `stat`s.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    compiler: PathBuf,
    compiler_changed: u64,
    linker: PathBuf,
    linker_changed: u64,
}

impl Stamp {
    /// Of what is there now.
    fn now() -> Option<Self> {
        let compiler = compiler().ok()?.directory.join("bin/rustc");
        let linker = linker_path()?;
        Some(Self {
            compiler_changed: changed(&compiler)?,
            linker_changed: changed(&linker)?,
            compiler,
            linker,
        })
    }
}

fn changed(path: &Path) -> Option<u64> {
    Some(path.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn stamp_file() -> PathBuf {
    workspace::target().join("xtask/bpf-toolchain.json")
}

/// Whether the pair is the one that was checked before; costs less than a millisecond.
pub fn is_known_good() -> bool {
    let Ok(text) = fs::read_to_string(stamp_file()) else { return false };
    Stamp::now().is_some_and(|now| serde_json::from_str(&text).is_ok_and(|stamp: Stamp| stamp == now))
}

/// Remembers that the pair of now was checked.
pub fn remember() -> Result<()> {
    let Some(stamp) = Stamp::now() else { bail!("the BPF toolchain went away while it was looked at") };
    let file = stamp_file();
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(&file, serde_json::to_vec_pretty(&stamp)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_version() {
        assert_eq!(llvm_of_rustc("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_of_rustc("rustc 1.96.0"), None);
    }

    #[test]
    fn the_llvm_of_a_program_is_read_from_its_libraries() {
        assert_eq!(llvm_of_program(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of_program(b"\0libLLVM-14.so.1\0"), Some(14));
        assert_eq!(llvm_of_program(b"\0libLLVM.so.22.1-rust-1.97.0-nightly\0"), Some(22));
        assert_eq!(llvm_of_program(b"\0libLLVMFoo\0libLLVM"), None);
    }

    #[test]
    fn a_toolchain_without_library_source_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("rustc"), "").unwrap();
        assert!(!has_source(directory.path()));
        let core = directory.path().join("lib/rustlib/src/rust/library/core/src");
        fs::create_dir_all(&core).unwrap();
        fs::write(core.join("lib.rs"), "").unwrap();
        assert!(has_source(directory.path()));
    }

    #[test]
    fn the_library_of_a_rustup_toolchain_is_found_by_its_major() {
        let directory = tempfile::tempdir().unwrap();
        let lib = directory.path().join("lib");
        fs::create_dir(&lib).unwrap();
        fs::write(lib.join("libLLVM.so.22.1-rust-1.97.0-nightly"), "").unwrap();
        assert!(own_library(directory.path(), 22).is_some());
        assert!(own_library(directory.path(), 2).is_none());
    }
}
