//! The inner cargo call that builds `lb-ebpf` for the BPF target. Shared with the build script of `tests/`, which
//! builds the benchmarks' object.
//!
//! That target has no prebuilt `core`, so a toolchain with its own library source is needed, and `bpf-linker`
//! made for the same LLVM. `cargo xtask setup` provides both.

use std::{env, fs, path::PathBuf, process::Command};

/// Flags of the BPF build: debug information and BTF (maps are declared in it), and 32-bit arithmetic.
const RUSTFLAGS: &str = "-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Ctarget-cpu=v3";
const TARGET: &str = "bpfel-unknown-none";

/// Builds binary `bin` with `features` and copies it to `OUT_DIR/<bin>`.
pub(crate) fn build(bin: &str, features: &[&str]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // Asked at run time: a checkout that was moved with its target directory may run a build script compiled elsewhere.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("the crate lies in the workspace");
    // Relative to the package: in a copy of the checkout, absolute paths would still name the files of the other one.
    for file in
        ["lb-ebpf/src", "lb-ebpf/Cargo.toml", "lb-ebpf/build.rs", "lb-common/src", "lb-common/Cargo.toml"]
    {
        println!("cargo:rerun-if-changed=../{file}");
    }
    println!("cargo:rerun-if-changed=../lb-userspace/build/bpf.rs");
    println!("cargo:rerun-if-env-changed=LB_BPF_TOOLCHAIN");

    // One target directory for both profiles of the host half: OUT_DIR is <target>/<profile>/build/<crate>/out.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("bpf");
    let toolchain = toolchain();
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", &toolchain, "cargo", "build", "--release", "--locked", "--target", TARGET])
        .args(["-Z", "build-std=core", "--package", "lb-ebpf", "--bin", bin])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(root);
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    // What the outer cargo sets is meant for the host's compiler.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO") && name != "CARGO_HOME"
            || name.starts_with("RUST") && name != "RUSTUP_HOME"
        {
            cargo.env_remove(name);
        }
    }
    // A released compiler takes `-Z` only when asked to; for this one call alone.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS);
    if let Some(home) = env::var_os("CARGO_HOME") {
        cargo.env("CARGO_HOME", home);
    }

    let output = cargo.output().unwrap_or_else(|error| panic!("cannot start rustup: {error}"));
    assert!(
        output.status.success(),
        "the XDP programs did not build with toolchain {toolchain}; `cargo xtask setup` installs what is missing\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let object = target_dir.join(TARGET).join("release").join(bin);
    fs::copy(&object, out.join(bin)).unwrap_or_else(|error| panic!("{}: {error}", object.display()));
}

/// The toolchain to use: what `LB_BPF_TOOLCHAIN` says, else the one that set-up linked, else nightly.
fn toolchain() -> String {
    if let Ok(name) = env::var("LB_BPF_TOOLCHAIN") {
        return name;
    }
    let list = Command::new("rustup").args(["toolchain", "list"]).output().map(|output| output.stdout);
    let linked =
        list.is_ok_and(|list| String::from_utf8_lossy(&list).lines().any(|l| l.starts_with("bpf-build")));
    if linked { "bpf-build".to_owned() } else { "nightly".to_owned() }
}
