//! The unit files of `systemd/`: the programs take what the units type, systemd takes the units, and the documents install
//! files that exist. That the agent reports to systemd is tested with the agent.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser as _;
use lb_userspace::{ctl, tools::cli::Cli};

const LBD: &str = "/usr/local/bin/lbd";
const LBCTL: &str = "/usr/local/bin/lbctl";

/// Every unit file, by name.
fn units() -> Vec<(String, String)> {
    let directory = std::fs::read_dir(package().join("systemd")).unwrap();
    let mut units: Vec<(String, String)> = directory
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    units.sort();
    units
}

/// This package: cargo runs tests in its directory, also in a copy of the checkout.
fn package() -> PathBuf {
    std::env::current_dir().unwrap()
}

/// The value that a unit's own comment gives `$LB_DECAP` as an example.
fn example(unit: &str) -> Vec<String> {
    let line = unit.lines().find_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix("LB_DECAP="));
    let value = line.unwrap_or_default().trim_matches('"');
    value.split(' ').map(str::to_owned).collect()
}

/// The words of a command as systemd hands them to the program, for the interface eth0.
fn words(command: &str, unit: &str) -> Vec<String> {
    let word = |word: &str| match word {
        "$LB_DECAP" => example(unit),
        other => vec![other.replace("%I", "eth0")],
    };
    command.split(' ').flat_map(word).collect()
}

#[test]
fn the_programs_take_every_command_of_the_units() {
    let mut tried = Vec::new();
    for (name, unit) in units() {
        let commands = unit.lines().filter(|line| line.starts_with("Exec"));
        for command in commands.filter_map(|line| Some(line.split_once('=')?.1.trim_start_matches('-'))) {
            let words = words(command, &unit);
            let parsed = match words[0].as_str() {
                LBD => Cli::try_parse_from(&words).map(|_| ()),
                LBCTL => ctl::cli::Cli::try_parse_from(&words).map(|_| ()),
                other => {
                    assert!(Path::new(other).is_absolute(), "{name}: {command}");
                    continue;
                }
            };
            if let Err(error) = parsed {
                panic!("{name}: `{}` is refused: {error}", words.join(" "));
            }
            tried.push(words.join(" "));
        }
    }
    let wanted = [
        "/usr/local/bin/lbd decap attach --interface eth0 --address 10.0.0.11 --address 2001:db8:1::11",
        "/usr/local/bin/lbd decap attach --interface eth0 --address 10.0.0.11 --address 2001:db8:1::11",
        "/usr/local/bin/lbd decap detach --interface eth0",
        "/usr/local/bin/lbd --config /etc/lb/lb.toml",
        "/usr/local/bin/lbctl config apply",
    ];
    assert_eq!(tried, wanted);
}

#[test]
fn systemd_takes_every_unit() {
    let found =
        Command::new("systemd-analyze").arg("--version").output().is_ok_and(|said| said.status.success());
    if !found {
        println!("SKIP systemd_takes_every_unit: there is no systemd-analyze");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // It looks for the programs, too; this one exists.
    let program = std::env::current_exe().unwrap();
    for (name, unit) in units() {
        let name = name.replace('@', "@eth0");
        let file = directory.path().join(&name);
        std::fs::write(
            &file,
            unit.replace(LBCTL, program.to_str().unwrap()).replace(LBD, program.to_str().unwrap()),
        )
        .unwrap();
        let said = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
        // What it says of units of this host, in lines of their own, is not ours.
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|line| line.contains(&name)).collect();
        assert!(ours.is_empty(), "{name}: {}", ours.join("\n"));
    }
}

#[test]
fn documents_install_every_unit_and_only_real_files() {
    let root = package().join("..");
    let documents = ["lb-userspace/doc/install.md", "lb-userspace/doc/backend.md"]
        .map(|name| std::fs::read_to_string(root.join(name)).unwrap())
        .concat();
    let named: Vec<&str> = documents
        .lines()
        .filter(|line| line.contains("install "))
        .flat_map(|line| line.split_whitespace())
        .filter(|word| word.starts_with("lb-userspace/"))
        .collect();
    for path in &named {
        assert!(root.join(path).is_file(), "the documents install {path}, which is not a file");
    }
    for (unit, _) in units() {
        let path = format!("lb-userspace/systemd/{unit}");
        assert!(named.contains(&path.as_str()), "no document installs {path}: {named:?}");
    }
}
