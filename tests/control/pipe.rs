//! Output without a reader: `… | head` is not a failure of any command.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use lb_tests::test_name;

use crate::{
    agent::Said,
    world::{CONFIG, INSTANCE, binary, isolated},
};

/// Runs a command whose output goes to a pipe without a reader; with `both`, its errors do so, too.
fn unread(command: &mut Command, both: bool) -> Result<Said> {
    let closed = || -> Result<Stdio> {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        Ok(writer.into())
    };
    command.stdout(closed()?).stderr(if both { closed()? } else { Stdio::piped() });
    let output = command.stdin(Stdio::null()).spawn()?.wait_with_output()?;
    Ok(Said {
        code: output.status.code().unwrap_or(128),
        out: String::new(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[test]
fn a_command_with_a_closed_pipe_succeeds() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        let file = world.path("lb.toml").display().to_string();
        let lbctl = [
            "--help",
            "--version",
            "status",
            "service list",
            "service show web",
            "backend list",
            "backend show web/web-1",
            "config show",
            "config diff",
            "config check /run/t/lb.toml",
            "config apply",
            "plan /run/t/lb.toml",
            "stats",
            "stats --watch",
            "health",
            "events",
            "metrics",
            "version",
            "generate completions bash",
            "generate man",
            "backend drain web/web-1",
            "-o json status",
        ];
        for line in lbctl {
            let mut command = world.command("lbctl")?;
            command.args(["--instance", INSTANCE]).args(line.split(' '));
            let said = unread(&mut command, false)?;
            ensure!((said.code, said.err.as_str()) == (0, ""), "lbctl {line}: {said:?}");
        }
        world.ip("link add lb1 type veth peer name lb1p\nlink set lb1 up")?;
        let lbd = binary("lbd")?.display().to_string();
        let interface = ["--interface", "lb1"];
        for line in [
            &["--help"][..],
            &["--version"],
            &["--check", "--config", &file],
            &[&["decap", "attach", "--address", "10.0.0.1"], &interface[..]].concat(),
            &[&["decap", "stats"], &interface[..]].concat(),
            &[&["decap", "stats", "-o", "json"], &interface[..]].concat(),
            &[&["decap", "detach"], &interface[..]].concat(),
            &["--detach", "--instance", "other"],
        ] {
            let said = unread(&mut world.booting(&[&lbd], line)?, false)?;
            ensure!((said.code, said.err.as_str()) == (0, ""), "lbd {line:?}: {said:?}");
        }
        // Errors without a reader are still errors, and cause no panic.
        for line in [&["--check", "--config", "/no/such"][..], &["--no-such"]] {
            let said = unread(world.command("lbd")?.args(line), true)?;
            ensure!(said.code == 2, "lbd {line:?}: {said:?}");
        }
        ensure!(unread(world.command("lbctl")?.args(["--instance", "none", "status"]), true)?.code == 4);
        drop(agent);
        Ok(())
    })
}
