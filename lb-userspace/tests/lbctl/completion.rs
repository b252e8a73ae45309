//! Completions in the shells themselves, with the names of the agent that runs.

use std::{fs, io::Write as _};

use super::*;

/// The directory of `lbctl` first in the path, as the shells look for it.
fn path() -> String {
    let program = lbctl(&[]).get_program().to_owned();
    let directory = PathBuf::from(program).parent().unwrap().to_owned();
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

fn named() -> Agent {
    agent(|request| match request {
        Request::Names => Ok(json!({ "services": { "web": ["web-1", "web-2"], "dns": ["fd00::1"] } })),
        other => panic!("{other:?} was asked"),
    })
}

fn is_there(shell: &str) -> bool {
    let there = Command::new(shell).arg("-c").arg("true").output().is_ok();
    if !there {
        eprintln!("skipped: {shell} is not installed");
    }
    there
}

#[test]
fn the_program_answers_a_shell_and_is_silent_without_an_agent() {
    let agent = named();
    let ask = |words: &[&str], socket: &std::path::Path| {
        let output = lbctl(words)
            .env("LBCTL_COMPLETE", (words.len() - 1).to_string())
            .env("LB_SOCKET", socket)
            .output();
        let output = output.unwrap();
        assert_eq!((code(&output), err(&output)), (0, ""));
        out(&output).to_owned()
    };
    assert_eq!(ask(&["backend", "show", "web/"], &agent.socket), "web/web-1\tbackend\nweb/web-2\tbackend\n");
    let begun = Instant::now();
    assert_eq!(ask(&["backend", "show", "web/"], std::path::Path::new("/nonexistent")), "");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(ask(&["backend", "sh"], std::path::Path::new("/nonexistent")).starts_with("show\tOne backend"));
}

#[test]
fn bash_completes_names_options_and_words_that_it_parts() {
    if !is_there("bash") {
        return;
    }
    let agent = named();
    let script = agent.run(&["generate", "completions", "bash"]);
    // As bash calls it at a key: the line in words, parted at each = and :.
    let complete = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let line = format!(
            "{}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_lbctl\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            out(&script),
            quoted.join(" "),
            words.len() - 1
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &line])
            .env("PATH", path())
            .env("LB_SOCKET", &agent.socket)
            .output()
            .unwrap();
        assert_eq!(err(&output), "", "{words:?}");
        out(&output).trim_end().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["lbctl", "backend", "drain", "web/"]), ["web/web-1", "web/web-2"]);
    assert_eq!(complete(&["lbctl", "be", "ls", "--sort", "=", "pa"]), ["packets"]);
    assert_eq!(
        complete(&["lbctl", "backend", "list", "--sort", "="]).first().map(String::as_str),
        Some("name")
    );
    assert_eq!(complete(&["lbctl", "backend", "show", "dns/fd00", "::", "1"]), ["1"]);
    assert_eq!(complete(&["lbctl", "service", "show", "x"]), [""; 0]);
}

#[test]
fn zsh_and_fish_read_their_scripts() {
    let agent = named();
    for shell in ["zsh", "fish"] {
        if !is_there(shell) {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lbctl");
        let mut script = fs::File::create(&file).unwrap();
        script.write_all(&agent.run(&["generate", "completions", shell]).stdout).unwrap();
        let output = Command::new(shell).arg("-n").arg(&file).output().unwrap();
        assert_eq!((code(&output), err(&output)), (0, ""), "{shell}");
    }
    if is_there("fish") {
        let script = agent.run(&["generate", "completions", "fish"]);
        let line = format!("{}\ncomplete -C 'lbctl backend show web/'", out(&script));
        let output = Command::new("fish")
            .args(["--no-config", "-c", &line])
            .env("PATH", path())
            .env("LB_SOCKET", &agent.socket)
            .output()
            .unwrap();
        assert_eq!(out(&output), "web/web-1\tbackend\nweb/web-2\tbackend\n", "{}", err(&output));
    }
}
