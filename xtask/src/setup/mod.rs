//! `cargo xtask setup`: what building, testing and the lab need, found or installed. The other commands call [`ensure`],
//! which costs milliseconds when all is there.

mod install;
pub mod programs;
pub mod toolchain;

use std::{env, fs, path::PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use self::{programs::Program, toolchain::Missing};
use crate::{run, ui, workspace};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask setup           install what is missing\n  \
    cargo xtask setup --check   only say what is missing")]
pub struct SetupArgs {
    /// Install nothing; exit code 1 when something is missing
    #[arg(long)]
    check: bool,
}

/// What a command is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Build the BPF half and everything around it.
    Build,
    /// rustfmt and clippy.
    Lint,
    /// The programs of the lab.
    Lab,
    /// What runs other kernels.
    Kernels,
    /// What judges captures.
    Captures,
}

/// rustup's components for linting, and the programs they bring.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")];

/// The state of a part of the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub state: State,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    /// Missing, but only some things need it.
    Optional,
    Missing,
}

/// Runs `setup`.
pub fn main(arguments: &SetupArgs) -> Result<()> {
    if !arguments.check {
        settle(&[Need::Build, Need::Lint, Need::Lab, Need::Kernels, Need::Captures], Zeal::Everything)?;
    }
    let parts = inspect();
    print!("{}", render(&parts));
    let missing = parts.iter().filter(|part| part.state == State::Missing).count();
    if missing > 0 {
        bail!("{} missing; `cargo xtask setup` installs what it can", ui::count(missing, "part"));
    }
    println!("everything that is needed is here");
    Ok(())
}

/// Makes sure that what is needed is there, installing it where it is not.
pub fn ensure(needs: &[Need]) -> Result<()> {
    settle(needs, Zeal::OnceOnly)
}

/// How hard to try for what is optional.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeal {
    /// Whatever is missing.
    Everything,
    /// Not what was tried in vain before.
    OnceOnly,
}

fn settle(needs: &[Need], zeal: Zeal) -> Result<()> {
    if needs.contains(&Need::Build) && !toolchain::is_known_good() {
        bpf_toolchain()?;
    }
    if needs.contains(&Need::Lint) {
        lint_components(zeal);
    }
    if needs.contains(&Need::Lab) {
        lab_programs(zeal)?;
    }
    if needs.contains(&Need::Kernels) {
        optional_programs(zeal, "kernels", programs::KERNELS);
    }
    if needs.contains(&Need::Captures) {
        optional_programs(zeal, "captures", programs::JUDGES);
    }
    Ok(())
}

fn bpf_toolchain() -> Result<()> {
    if run::find("rustup").is_none() {
        bail!(
            "rustup is not installed; it keeps the compilers apart that the two halves need (https://rustup.rs)"
        );
    }
    // At most the compiler, then the linker; each step changes what is missing.
    for _ in 0..2 {
        match toolchain::pair() {
            Ok(_) => break,
            Err(Missing::Compiler(why)) => install::compiler(&why)?,
            Err(Missing::Linker { compiler, llvm, why }) => install::linker(&compiler, llvm, &why)?,
        }
    }
    match toolchain::pair() {
        Ok(_) => toolchain::remember(),
        Err(Missing::Compiler(why)) => bail!("{why}, although it was installed just now"),
        Err(Missing::Linker { why, .. }) => {
            let own = toolchain::cargo_home().join("bin");
            bail!("{why}, although one was installed in {}; is that first in PATH?", own.display())
        }
    }
}

/// Missing ones are no error: what needs them says that it was skipped.
fn lint_components(zeal: Zeal) {
    let mut missing: Vec<&str> =
        COMPONENTS.into_iter().filter(|(_, file)| !component(file)).map(|(name, _)| name).collect();
    let compiler = toolchain::compiler().ok().filter(|compiler| !compiler.has_clippy());
    if missing.is_empty() && compiler.is_none() || zeal == Zeal::OnceOnly && tried("components") {
        return;
    }
    let mut outcomes = Vec::new();
    if !missing.is_empty() {
        outcomes.push(install::components(&missing));
    }
    if let Some(compiler) = compiler {
        missing.push("clippy for the BPF half");
        outcomes.push(install::bpf_clippy(&compiler));
    }
    for error in outcomes.into_iter().filter_map(Result::err) {
        eprintln!("{} going on without {}: {error:#}", ui::yellow("note:"), missing.join(" or "));
    }
    note_tried("components");
}

/// Whether the toolchain that runs us has a program of this name.
fn component(file: &str) -> bool {
    match active_toolchain() {
        Some(directory) => directory.join("bin").join(file).exists(),
        None => run::find(file).is_some(),
    }
}

/// The directory of the toolchain that runs us; rustup's proxies say its name to what they start.
fn active_toolchain() -> Option<PathBuf> {
    let name = env::var("RUSTUP_TOOLCHAIN").ok()?;
    let path = PathBuf::from(&name);
    if path.is_absolute() { Some(path) } else { toolchain::directory(&name) }
}

fn lab_programs(zeal: Zeal) -> Result<()> {
    let missing = programs::missing(programs::ALL);
    let needed = missing.iter().any(|program| program.essential);
    if missing.is_empty() || (!needed && zeal == Zeal::OnceOnly && tried("programs")) {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    let outcome = programs::install(&packages);
    note_tried("programs");
    match outcome {
        Err(error) if programs::missing(programs::ALL).iter().any(|program| program.essential) => Err(error),
        Err(error) => {
            eprintln!("{} going on without: {error:#}", ui::yellow("note:"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Missing ones are no error: what needs them is not tried then, which it says.
fn optional_programs(zeal: Zeal, what: &str, list: &[Program]) {
    let missing = programs::missing(list);
    if missing.is_empty() || zeal == Zeal::OnceOnly && tried(what) {
        return;
    }
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    if let Err(error) = programs::install(&packages) {
        eprintln!("{} going on without: {error:#}", ui::yellow("note:"));
    }
    note_tried(what);
}

/// What was tried in vain is not tried again by each command, only by `setup` itself.
fn tried(what: &str) -> bool {
    workspace::target().join("xtask").join(format!("tried-{what}")).exists()
}

fn note_tried(what: &str) {
    let directory = workspace::target().join("xtask");
    fs::create_dir_all(&directory).and_then(|()| fs::write(directory.join(format!("tried-{what}")), "")).ok();
}

/// The state of everything; changes nothing.
pub fn inspect() -> Vec<Part> {
    let part = |name: &str, state, detail: String| Part { name: name.to_owned(), state, detail };
    let mut parts = Vec::new();
    for (name, file) in COMPONENTS {
        parts.push(if component(file) {
            part(name, State::Ok, String::new())
        } else {
            part(
                name,
                State::Optional,
                format!("`rustup component add {name}`; without it its check is skipped"),
            )
        });
    }
    match toolchain::pair() {
        Ok(pair) => {
            let detail = format!("{}, toolchain {}, LLVM {}", pair.rustc, pair.compiler.name, pair.llvm);
            parts.push(part("BPF compiler", State::Ok, detail));
            parts.push(part("bpf-linker", State::Ok, pair.linker.path.display().to_string()));
        }
        Err(Missing::Compiler(why)) => parts.push(part("BPF compiler", State::Missing, why)),
        Err(Missing::Linker { compiler, llvm, why }) => {
            parts.push(part("BPF compiler", State::Ok, format!("toolchain {}, LLVM {llvm}", compiler.name)));
            parts.push(part("bpf-linker", State::Missing, why));
        }
    }
    for program in programs::ALL.iter().chain(programs::KERNELS).chain(programs::JUDGES) {
        parts.push(match run::find(program.name) {
            Some(path) => part(program.name, State::Ok, path.display().to_string()),
            None => {
                let state = if program.essential { State::Missing } else { State::Optional };
                let way = format!("package {}; `cargo xtask setup` installs it", program.package);
                part(program.name, state, format!("{} ({way})", program.purpose))
            }
        });
    }
    parts
}

fn render(parts: &[Part]) -> String {
    let rows: Vec<Vec<String>> = parts
        .iter()
        .map(|part| {
            let state = match part.state {
                State::Ok => ui::green("ok"),
                State::Optional => ui::yellow("optional"),
                State::Missing => ui::red("missing"),
            };
            vec![format!("  {}", part.name), state, part.detail.clone()]
        })
        .collect();
    ui::table(&rows)
}
