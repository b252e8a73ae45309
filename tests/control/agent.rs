//! A running agent, and the output and exit code of a command that has ended.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::world::{INSTANCE, World, wait_for};

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// The exit code; for a command that a signal killed: 128 plus the signal's number, as in shells.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        let text = |bytes| String::from_utf8(bytes).context("the output is not UTF-8");
        let killed = || 128 + output.status.signal().unwrap_or_default();
        Ok(Self {
            code: output.status.code().unwrap_or_else(killed),
            out: text(output.stdout)?,
            err: text(output.stderr)?,
        })
    }

    /// Fails unless the command ended with this code and wrote all of these fragments to standard error.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, fragments: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for fragment in fragments {
            assert!(self.err.contains(fragment), "`{fragment}` is missing in:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }

    /// Standard output of a command that succeeded.
    pub(crate) fn done(self) -> Result<String> {
        ensure!(self.code == 0, "ended with {}: {}{}", self.code, self.out, self.err);
        Ok(self.out)
    }
}

/// A running `lbd`; dropping this kills it.
pub(crate) struct Agent<'a> {
    pub(crate) world: &'a World,
    child: Child,
    log: PathBuf,
}

impl<'a> Agent<'a> {
    /// Starts an agent with these further arguments and waits until it serves.
    pub(crate) fn start(world: &'a World, arguments: &[&str]) -> Result<Self> {
        let mut agent = Self::run(world, world.command("lbd")?.args(arguments))?;
        match agent.serves()? {
            None => Ok(agent),
            Some(status) => bail!("the agent ended, {status}:\n{}", agent.log()),
        }
    }

    /// Runs a command as the agent, and waits for nothing.
    pub(crate) fn run(world: &'a World, command: &mut Command) -> Result<Self> {
        let log = world.path("lbd.log");
        let config = world.path("lb.toml");
        command.args(["--instance", INSTANCE, "--config"]).arg(&config);
        let child = command.stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        Ok(Self { world, child, log })
    }

    /// Waits until the agent serves; returns how the agent ended if it ends before that.
    pub(crate) fn serves(&mut self) -> Result<Option<ExitStatus>> {
        wait_for("the agent serves", || {
            let ended = self.child.try_wait()?;
            Ok((ended.is_some() || self.log().contains("serves; control socket")).then_some(ended))
        })
    }

    /// How the agent ended, if it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the agent has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn lbctl(&self, arguments: &[&str]) -> Result<Said> {
        self.world.lbctl(arguments)
    }

    /// The answer of `lbctl -o json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let out = self.lbctl(&[&["-o", "json"], arguments].concat())?.done()?;
        serde_json::from_str(&out).with_context(|| format!("lbctl {arguments:?} answered {out}"))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    /// Ends the agent by a signal, and waits for the end.
    pub(crate) fn end(self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        self.ended()
    }

    /// Waits for the end of an agent that was asked to end.
    pub(crate) fn ended(mut self) -> Result<()> {
        wait_for("the agent ends", || Ok(self.child.try_wait()?))?;
        Ok(())
    }

    /// What must not change when the agent refuses something: services and backends as they are configured and in force.
    pub(crate) fn services(&self) -> Result<Value> {
        let mut services = self.json(&["service", "list"])?;
        // Time alone changes these: slots end their learning by themselves.
        for service in services.as_array_mut().into_iter().flatten() {
            for changing in ["learning_ends_in", "slot_states", "totals", "tracking"] {
                service[changing] = Value::Null;
            }
            for backend in service["backends"].as_array_mut().into_iter().flatten() {
                for changing in
                    ["flows", "flows_age_ms", "flows_idle", "flows_tracked", "learning_slots", "totals"]
                {
                    backend[changing] = Value::Null;
                }
            }
        }
        Ok(services)
    }

    /// Fails if [`Self::services`] now differs from `before`, and names the fields that differ.
    pub(crate) fn unchanged(&self, before: &Value) -> Result<()> {
        let mut differences = Vec::new();
        differ("services", before, &self.services()?, &mut differences);
        ensure!(differences.is_empty(), "something changed:\n{}", differences.join("\n"));
        Ok(())
    }

    /// Fails unless the agent lives and works.
    pub(crate) fn assert_alive(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the agent has ended:\n{}", self.log());
        ensure!(self.json(&["status"])?["pid"] == self.pid(), "another agent answers");
        ensure!(!self.log().contains("panicked"), "{}", self.log());
        Ok(())
    }
}

/// Records each place at which two answers differ.
fn differ(place: &str, before: &Value, after: &Value, differences: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let place = format!("{place}.{key}");
                differ(
                    &place,
                    old.get(key).unwrap_or(&Value::Null),
                    new.get(key).unwrap_or(&Value::Null),
                    differences,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differ(&format!("{place}[{index}]"), old, new, differences);
            }
        }
        _ if before == after => {}
        _ => differences.push(format!("{place}: {before} became {after}")),
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
