//! The agent of a scene: its start, signals, `lbctl`, and its log.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use xtask::{
    lab::{BALANCER, Lab},
    run,
    stack::Binaries,
    wait,
};

use crate::scene::until;

pub(crate) struct Agent {
    pub(crate) binaries: Binaries,
    pub(crate) file: PathBuf,
    instance: String,
    child: Option<Child>,
}

impl Agent {
    /// An agent that does not run yet.
    pub(crate) fn new(binaries: Binaries, file: PathBuf, instance: String) -> Self {
        Self { binaries, file, instance, child: None }
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn start(&mut self, lab: &mut Lab, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.binaries.lbd);
        command.arg("--config").arg(&self.file).args(["--instance", &self.instance]).args(arguments);
        let mut child = lab.start(BALANCER, "lbd", command)?;
        wait::until("lbd answers", wait::limit(), || {
            if let Some(status) = child.try_wait()? {
                bail!("lbd ended with {}: {}", run::ending(status), self.log(lab));
            }
            wait::attempt(self.ctl(&["status"]))
        })
        .with_context(|| self.log(lab))?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("lbd is not running")?;
        Ok(kill(Pid::from_raw(child.id().cast_signed()), signal)?)
    }

    /// Ends the agent with a signal and waits for its end.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let mut child = self.child.take().context("lbd is not running")?;
        until("lbd ends", || Ok(child.try_wait()?.map(drop).ok_or_else(|| "it runs".to_owned())))
    }

    /// Runs `lbd` with other arguments on the balancer, to its end.
    pub(crate) fn lbd(&self, lab: &Lab, arguments: &[&str]) -> Result<String> {
        let mut command = lab.node(BALANCER)?.command(&self.binaries.lbd);
        run::capture(command.args(["--instance", &self.instance]).args(arguments))
    }

    /// The answer of `lbctl`, as JSON.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.lbctl();
        let text = run::capture(command.args(["-o", "json"]).args(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("`{}` printed no JSON", run::shown(&command)))
    }

    /// The agent's events, oldest first.
    pub(crate) fn events(&self) -> Result<Vec<Value>> {
        let mut command = self.lbctl();
        let text = run::capture(command.args(["-o", "json", "events"]))?;
        let event = |line| serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON"));
        text.lines().map(event).collect()
    }

    /// The output of `lbctl`, and its exit code.
    pub(crate) fn ctl_output(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.lbctl().args(arguments).stdin(Stdio::null()).output()?)
    }

    fn lbctl(&self) -> Command {
        let mut command = Command::new(&self.binaries.lbctl);
        command.args(["--instance", &self.instance]);
        command
    }

    /// The value of a counter.
    pub(crate) fn counter(&self, name: &str) -> Result<u64> {
        let stats = self.ctl(&["stats", "--all"])?;
        let counters = stats["counters"].as_array().context("no counters")?;
        let found = counters.iter().find(|counter| counter["name"] == name);
        found.and_then(|counter| counter["value"].as_u64()).with_context(|| format!("no counter {name}"))
    }

    /// State and slots of a backend.
    pub(crate) fn backend(&self, name: &str) -> Result<(String, u64)> {
        let backend = self.ctl(&["backend", "show", name])?;
        let state = backend["state"].as_str().context("no state")?.to_owned();
        Ok((state, backend["slots"].as_u64().context("no slots")?))
    }

    pub(crate) fn wait_for_state(&self, name: &str, state: &str) -> Result<()> {
        until(&format!("{name} is {state}"), || {
            let found = self.backend(name)?.0;
            Ok(if found == state { Ok(()) } else { Err(found) })
        })
    }

    /// Waits until every backend of every service takes new flows.
    pub(crate) fn wait_until_all_up(&self) -> Result<()> {
        until("every backend is up", || {
            let all = self.ctl(&["backend", "list"])?;
            let waiting: Vec<String> = all
                .as_array()
                .context("no list")?
                .iter()
                .filter(|backend| backend["state"] != "up")
                .map(ToString::to_string)
                .collect();
            Ok(if waiting.is_empty() { Ok(()) } else { Err(format!("not up: {}", waiting[0])) })
        })
    }

    /// Waits for the first event of that kind about that object at or after `since`; its time in milliseconds since 1970.
    pub(crate) fn wait_for_event(&self, kind: &str, object: &str, since: u64) -> Result<u64> {
        until(&format!("event {kind} of {object}"), || {
            let events = self.events()?;
            let found = events.iter().find_map(|event| {
                let named = event["object"].as_str()?.ends_with(object);
                let at = event["at_ms"].as_u64()?;
                (event["kind"] == kind && named && at >= since).then_some(at)
            });
            Ok(found.ok_or_else(|| format!("{} events, the last {:?}", events.len(), events.last())))
        })
    }

    /// The whole log, over all restarts of the agent.
    pub(crate) fn log(&self, lab: &Lab) -> String {
        fs::read_to_string(lab.log(BALANCER, "lbd")).unwrap_or_default()
    }

    /// The kernel's numbers of the link and of its program.
    pub(crate) fn attached(&self, lab: &Lab) -> Result<(u64, u64)> {
        let pin = format!("/sys/fs/bpf/lb/{}/link-eth0", self.instance);
        let mut command = lab.node(BALANCER)?.command("bpftool");
        let text = run::capture(command.args(["-j", "link", "show", "pinned", &pin]))?;
        let link: Value = serde_json::from_str(&text).context("bpftool printed no JSON")?;
        let link = link.get(0).unwrap_or(&link);
        let number = |key: &str| link[key].as_u64().with_context(|| format!("no {key} in {link}"));
        Ok((number("id")?, number("prog_id")?))
    }
}
