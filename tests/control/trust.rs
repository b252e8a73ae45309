//! Files that others may write, and what a member of the socket's group can make the agent do.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Result, ensure};
use lb_tests::test_name;

use crate::world::{CONFIG, INSTANCE, World, isolated};

fn mode(world: &World, name: &str, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode))?)
}

#[test]
fn a_configuration_all_may_change_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let file = world.write("lb.toml", CONFIG)?.display().to_string();
        let parts = ["/run/t/lb.toml: ", "every user may change this file", "chmod o-w /run/t/lb.toml"];
        mode(world, "lb.toml", 0o666)?;
        world.lbd(&["--check", "--config", &file])?.refused(2, &parts);
        world.refused_start()?.refused(2, &parts);
        mode(world, "lb.toml", 0o664)?;
        let mut agent = world.restart()?;
        mode(world, "lb.toml", 0o666)?;
        agent.lbctl(&["config", "apply"])?.refused(2, &parts);
        mode(world, "lb.toml", 0o644)?;
        agent.lbctl(&["config", "apply"])?.done()?;
        agent.assert_alive()
    })
}

#[test]
fn a_configuration_all_may_replace_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        fs::create_dir(world.path("open"))?;
        let file = world.write("open/lb.toml", CONFIG)?.display().to_string();
        mode(world, "open", 0o777)?;
        let check = ["--check", "--instance", INSTANCE, "--config", &file];
        world.lbd(&check)?.refused(2, &["every user may put another file in its place", "chmod o-w"]);
        mode(world, "open", 0o1777)?;
        world.lbd(&check)?.done()?;
        Ok(())
    })
}

#[test]
fn only_the_file_changes_the_state_directory() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let moved = CONFIG.replace("/run/t/state", "/run/t/elsewhere");
        let other = world.write("other.toml", &moved)?.display().to_string();
        for command in [&["plan"][..], &["config", "apply"], &["config", "apply", "--confirm", "60s"]] {
            let said = agent.lbctl(&[command, &[other.as_str()]].concat())?;
            said.refused(2, &["state_directory cannot be changed over the socket", "/run/t/lb.toml"]);
        }
        ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file was changed");
        world.write("lb.toml", &moved)?;
        agent.lbctl(&["config", "apply"])?.done()?;
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        ensure!(fs::read_dir(world.path("elsewhere"))?.next().is_some(), "nothing is kept there");
        Ok(())
    })
}

#[test]
fn no_answer_event_or_log_line_has_the_seed() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let seed = "secret-of-the-site";
        // First a right file, then each kind of mistake whose message could repeat the seed.
        let right = CONFIG.replace("\"control tests\"", &format!("\"{seed}\""));
        let wrong = [
            right.clone(),
            right.replace(&format!("\"{seed}\""), seed),
            right.replace(seed, &seed.repeat(20)),
            right.replace(seed, &format!("{seed}\\n")),
            right.replace(&format!("\"{seed}\""), &format!("[\"{seed}\"]")),
        ];
        let mut said = String::new();
        for text in &wrong {
            let file = world.write("lb.toml", text)?.display().to_string();
            for command in
                [&["config", "apply"][..], &["config", "diff"], &["plan", &file], &["config", "apply", &file]]
            {
                let answer = agent.lbctl(command)?;
                said += &(answer.out + &answer.err);
            }
        }
        for command in [&["status"][..], &["-o", "json", "status"], &["events"], &["-o", "json", "events"]] {
            said += &agent.lbctl(command)?.done()?;
        }
        ensure!(said.contains("seed"), "nothing was said of it: {said}");
        said += &agent.log();
        ensure!(!said.contains(seed), "{said}");
        Ok(())
    })
}

#[test]
fn names_with_control_characters_are_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let wrong = CONFIG.replace("\"lb0\"", "\"lb\\u001b0\"");
        let file = world.write("wrong.toml", wrong)?.display().to_string();
        let mut answers = vec![
            world.lbd(&["--check", "--config", &file])?,
            agent.lbctl(&["config", "apply", &file])?,
            agent.lbctl(&["backend", "drain", "web/a\nforged: line\u{1b}[2J"])?,
            agent.lbctl(&["service", "remove", "x\u{1b}[2J\r\u{202e}y"])?,
        ];
        for answer in &answers {
            ensure!(answer.code != 0, "{answer:?}");
        }
        for command in [&["status"][..], &["events"]] {
            answers.push(agent.lbctl(command)?);
        }
        let all: String =
            answers.iter().map(|said| said.out.clone() + &said.err).collect::<String>() + &agent.log();
        let bad = all.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        ensure!(bad.is_none(), "{bad:?} in {all:?}");
        ensure!(!all.lines().any(|line| line.starts_with("forged")), "{all}");
        Ok(())
    })
}
