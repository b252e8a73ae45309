//! Getting the BPF toolchain onto this machine: rustup's nightly where it can be downloaded, the distribution's compiler
//! otherwise. Each step is said before it is done.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    programs,
    toolchain::{self, Compiler, NAME, VARIABLE},
};
use crate::{run, ui};

/// The nightly that was tried: its LLVM is 22, which `bpf-linker` knows. A later one may bring an LLVM it does not.
const NIGHTLY: &str = "nightly-2026-05-20";
/// As tried with LLVM 22; it knows 21 to 23.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The distribution's compiler with its library source, where rustup cannot download.
const PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "rust-web-clippy"];
/// How long a download may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Makes the toolchain [`NAME`] one that can build the BPF half.
pub(super) fn compiler(why: &str) -> Result<()> {
    if env::var_os(VARIABLE).is_some() {
        bail!("{why}; unset {VARIABLE} to let set-up choose");
    }
    ui::step(&format!(
        "{why}: installing the Rust compiler {NIGHTLY} with its library source (about 150 MB)"
    ));
    let downloaded = nightly();
    let directory = match downloaded {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("{} rustup could not: {error:#}", ui::yellow("note:"));
            distribution().with_context(by_hand)?
        }
    };
    link(&directory)
}

/// Through rustup.
fn nightly() -> Result<PathBuf> {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"]);
    command.args(["--component", "rust-src", "--component", "clippy"]);
    command.env("RUSTUP_MAX_RETRIES", "1").env_remove("RUST_BACKTRACE");
    run::run_within(PATIENCE, &mut command)?;
    toolchain::directory(NIGHTLY).with_context(|| format!("rustup did not install {NIGHTLY}"))
}

/// Through the distribution.
fn distribution() -> Result<PathBuf> {
    let system = Path::new("/usr");
    if !system.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
        || !system.join("bin/rustc").exists()
    {
        programs::install(PACKAGES)?;
    }
    Ok(system.to_owned())
}

/// What to do where neither way worked.
fn by_hand() -> String {
    format!(
        "the BPF half needs a Rust compiler with its library source. By hand, either\n  \
         rustup toolchain install {NIGHTLY} --profile minimal --component rust-src --component clippy\n  \
         rustup toolchain link {NAME} {}/toolchains/{NIGHTLY}-{}-unknown-linux-gnu\nor, as root,\n  {}\n  \
         rustup toolchain link {NAME} /usr\nfollowed by `cargo xtask setup`",
        toolchain::rustup_home().display(),
        env::consts::ARCH,
        programs::install_line(PACKAGES).join(" "),
    )
}

fn link(directory: &Path) -> Result<()> {
    ui::step(&format!("linking {} as rustup toolchain {NAME}", directory.display()));
    run::run(Command::new("rustup").args(["toolchain", "link", NAME]).arg(directory))
}

/// Builds `bpf-linker` for the compiler's LLVM.
pub(super) fn linker(compiler: &Compiler, llvm: u32, why: &str) -> Result<()> {
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "the compiler {} has LLVM {llvm}, but bpf-linker {LINKER_VERSION} knows {} to {}; \
             `rustup toolchain uninstall {NAME}` and `cargo xtask setup` choose another compiler",
            compiler.name,
            LINKER_LLVM.start(),
            LINKER_LLVM.end()
        );
    }
    let prefix = match compiler.llvm_prefix(llvm)? {
        Some(prefix) => prefix,
        None => {
            let package = format!("llvm-{llvm}-dev");
            programs::install(&[&package, "libzstd-dev"])?;
            let prefix = compiler.llvm_prefix(llvm)?;
            prefix.with_context(|| {
                format!("{package} is installed, but there is no libLLVM.so for LLVM {llvm}")
            })?
        }
    };
    ui::step(&format!("{why}: building bpf-linker {LINKER_VERSION} for LLVM {llvm} (about 1 minute)"));
    let mut command = Command::new("cargo");
    command.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    // Not a cargo of this workspace: what cargo said about the package that runs does not concern it.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    run::run(command.env("LLVM_PREFIX", prefix))
}

/// rustfmt and clippy for the toolchain in use.
pub(super) fn components(names: &[&str]) -> Result<()> {
    ui::step(&format!("adding {} with rustup", names.join(", ")));
    run::run_within(PATIENCE, Command::new("rustup").args(["component", "add"]).args(names))
}

/// clippy for the compiler of the BPF half, which must be of the same version.
pub(super) fn bpf_clippy(compiler: &Compiler) -> Result<()> {
    let directory = compiler.directory.canonicalize()?;
    if directory == Path::new("/usr") {
        return programs::install(&["rust-web-clippy"]);
    }
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    ui::step(&format!("adding clippy to {name} with rustup"));
    let mut command = Command::new("rustup");
    run::run_within(PATIENCE, command.args(["component", "add", "clippy", "--toolchain", &name]))
}
