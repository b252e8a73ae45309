//! The program as one starts it: in which directory, and with an output that is closed early.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::{children, wait};

/// The program next to the directory of the test, where cargo puts it; the path that cargo gives at compile time is that of
/// another checkout in a copy with its target directory.
fn xtask() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("xtask")
}

#[test]
fn outside_of_a_checkout_it_says_so_and_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // What cargo tells a program about its package must not lead back to the one it was compiled in.
    let mut command = Command::new(xtask());
    command.arg("tidy").current_dir(&directory).env("CARGO_MANIFEST_DIR", std::env::current_dir().unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("is in no workspace of lb") && said.contains("start it inside a checkout"),
        "{said}"
    );
}

#[test]
fn it_works_on_the_checkout_it_is_started_in() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("xtask")).unwrap();
    let manifest = std::fs::read_to_string("../Cargo.toml").unwrap();
    std::fs::write(root.join("Cargo.toml"), manifest).unwrap();
    assert!(Command::new("git").args(["init", "--quiet"]).current_dir(&root).status().unwrap().success());
    let mut command = Command::new(xtask());
    command.arg("tidy").current_dir(root.join("xtask"));
    let output = command.env("CARGO_MANIFEST_DIR", std::env::current_dir().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // This one has no crates, which cargo says with their paths.
    let missing = root.join("lb-common").display().to_string();
    assert!(!output.status.success() && said.contains(&missing), "it has looked elsewhere: {said}");
}

/// Names the process that is to be ended, to the test that starts this program again.
const ENDED: &str = "LB_TEST_ENDED";

/// Not a test of its own: the process that [`signal_ends_what_runs_before_the_process`] ends.
#[test]
fn process_that_is_ended() {
    if std::env::var_os(ENDED).is_none() {
        return;
    }
    children::end_with_us(|_| println!("\nlast")).unwrap();
    // It takes a while to end, as one that takes a lab away.
    let script = "trap 'sleep 0.2; exit' TERM; echo \"pid $$\"; while :; do sleep 0.02; done";
    let mut command = Command::new("sh");
    let child = children::Child::spawn(command.args(["-c", script])).unwrap();
    child.wait().unwrap();
    children::stay_if_ending();
}

#[test]
fn signal_ends_what_runs_before_the_process() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["process_that_is_ended", "--exact", "--nocapture"]).env(ENDED, "1");
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let child = lines.find_map(|line| Some(line.split_once("pid ")?.1.to_owned())).unwrap();
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(process.wait().unwrap().code(), Some(128 + libc::SIGTERM));
    assert!(rest.contains(&"last".to_owned()), "{rest:?}");
    let gone =
        || Ok(if Path::new("/proc").join(&child).exists() { Err("it is there".to_owned()) } else { Ok(()) });
    wait::until("its program is gone", wait::limit(), gone).unwrap();
}

#[test]
fn a_reader_that_goes_away_ends_it_without_a_word() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(xtask());
    command.arg("doctor").stdout(writer).stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}
