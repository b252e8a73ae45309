//! A host on which the test kills an agent in the middle of a change and starts it again.

use std::{fs, os::unix::process::ExitStatusExt as _, process::Stdio, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    change::{Act, CONFIG, Change},
    fault::Fault,
    traffic::{Rules, Traffic},
};
use crate::{
    agent::Agent,
    world::{World, wait_for},
};

/// A change is over after this time without a write.
const QUIET: Duration = Duration::from_millis(120);

/// What is wanted, and what is in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    services: Value,
    rules: Rules,
    file: String,
    /// Run-time changes, which come on top of the file.
    overlay: Value,
}

/// A change that was carried out once without a fault: the states before and after it, and the number of its writes.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) from: State,
    pub(super) to: State,
    pub(super) writes: u64,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Killed before a write of this kind; afterwards the state is the old one (`changed` = false) or the new one.
    Killed { before: &'static str, changed: bool },
    /// The change was done in this many writes, fewer than before: some slots were tracked already.
    Survived { writes: u64 },
}

pub(super) struct Host<'a> {
    world: &'a World,
    change: &'a Change,
    fault: Fault,
    agent: Option<Agent<'a>>,
    /// The state at the last look; kept because a look takes a while.
    now: Option<State>,
    pub(super) traffic: Traffic<'a>,
}

impl<'a> Host<'a> {
    /// A host on which the actions before the change have been done.
    pub(super) fn new(world: &'a World, change: &'a Change) -> Result<Self> {
        world.write("lb.toml", CONFIG)?;
        let fault = Fault::new(world)?;
        let mut host = Self { world, change, fault, agent: None, now: None, traffic: Traffic::new(world) };
        if !matches!(change.act, Act::Start) {
            host.start()?;
            host.take(&change.before)?;
        }
        Ok(host)
    }

    fn spawn(&self) -> Result<Agent<'a>> {
        let mut command = self.world.command("lbd-fault")?;
        Agent::run(self.world, command.env("LB_FAULT", &self.fault.path))
    }

    fn start(&mut self) -> Result<()> {
        let mut agent = self.spawn()?;
        if let Some(status) = agent.serves()? {
            bail!("the agent ended, {status}:\n{}", agent.log());
        }
        self.agent = Some(agent);
        self.quiet()
    }

    fn agent(&mut self) -> Result<&mut Agent<'a>> {
        self.agent.as_mut().context("no agent")
    }

    /// Waits until the agent has written nothing for a while.
    fn quiet(&self) -> Result<()> {
        wait_for("the writes end", || {
            let before = self.fault.passed()?;
            sleep(QUIET);
            Ok((self.fault.passed()? == before).then_some(()))
        })
    }

    /// What is wanted and in force now.
    fn state(&mut self) -> Result<State> {
        let file = fs::read_to_string(self.world.path("lb.toml"))?;
        let Some(agent) = &self.agent else { return Ok(State { file, ..State::default() }) };
        let listed = agent.json(&["service", "list"])?;
        let rules = Rules::read(&listed)?;
        let service = |service: &Value| {
            let backend = |backend: &Value| {
                json!({ "name": backend["name"], "address": backend["address"], "weight": backend["weight"],
                    "state": backend["state"], "slots": backend["slots"] })
            };
            let backends: Vec<Value> =
                service["backends"].as_array().into_iter().flatten().map(backend).collect();
            json!({ "name": service["name"], "listen": service["listen"], "track": service["track"],
                "balance": service["balance"], "slots": service["slots"], "max_backends": service["max_backends"],
                "backends": backends })
        };
        let services = listed.as_array().into_iter().flatten().map(service).collect();
        let overlay = agent.json(&["config", "diff"])?["overlay"].clone();
        Ok(State { services, rules, file, overlay })
    }

    /// Carries out actions to their end.
    fn take(&mut self, acts: &[Act]) -> Result<()> {
        for act in acts {
            self.begin(act)?.map_or(Ok(()), |mut child| {
                let status = child.wait()?;
                ensure!(status.success(), "{act:?} ended with {status}");
                Ok(())
            })?;
            self.quiet()?;
        }
        Ok(())
    }

    /// Begins an action; returns the program that does it, where the action is a program.
    fn begin(&mut self, act: &Act) -> Result<Option<std::process::Child>> {
        let words: Vec<String> = match act {
            Act::Start => {
                self.agent = Some(self.spawn()?);
                return Ok(None);
            }
            Act::Reload(text) => {
                self.world.write("lb.toml", text)?;
                self.agent()?.signal(Signal::SIGHUP)?;
                return Ok(None);
            }
            Act::Apply(text) => {
                let file = self.world.write("new.toml", text)?.display().to_string();
                vec!["config".to_owned(), "apply".to_owned(), file]
            }
            Act::Ctl(words) => words.split_whitespace().map(str::to_owned).collect(),
        };
        let mut lbctl = self.world.command("lbctl")?;
        lbctl.args(["--instance", crate::world::INSTANCE]).args(words);
        Ok(Some(lbctl.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    /// Carries the change out once, without a fault, and does not undo it.
    pub(super) fn learn(&mut self) -> Result<Known> {
        let from = self.state()?;
        let passed = self.fault.passed()?;
        let act = self.change.act.clone();
        self.take(std::slice::from_ref(&act))?;
        if matches!(act, Act::Start) {
            let ended = self.agent()?.serves()?;
            ensure!(ended.is_none(), "the agent ended: {ended:?}");
            self.quiet()?;
        }
        let writes = self.fault.passed()? - passed;
        let to = self.state()?;
        ensure!(writes > 0 && from != to, "{}: nothing is written, or nothing differs", self.change.name);
        Ok(Known { from, to, writes })
    }

    /// Undoes the change, however far it came.
    pub(super) fn undo(&mut self, known: &Known) -> Result<()> {
        if self.now.as_ref() == Some(&known.from) {
            return Ok(());
        }
        self.take(self.change.undo.as_deref().context("a change that nothing takes back")?)?;
        let state = self.state()?;
        ensure!(
            state == known.from,
            "taken back, it is not as it was: {state:?} instead of {:?}",
            known.from
        );
        self.traffic.keep_to(&known.from.rules);
        self.now = Some(state);
        Ok(())
    }

    /// Carries the change out once more, with an agent that is killed after this many of its writes. Packets run before,
    /// meanwhile, and after each step.
    pub(super) fn kill_after(&mut self, writes: u64, known: &Known) -> Result<End> {
        let Known { from, to, writes: _ } = known;
        self.traffic.all(&from.rules, &from.rules, "before the change")?;
        self.now = None;
        let passed = self.fault.passed()?;
        self.fault.kill_after(writes)?;
        let act = self.change.act.clone();
        let mut child = self.begin(&act)?;
        let mut quiet_since = self.fault.passed()?;
        let status = loop {
            self.traffic.all(&from.rules, &to.rules, "during the change")?;
            if let Some(status) = self.agent()?.has_ended()? {
                break Some(status);
            }
            let over = match &mut child {
                Some(child) => child.try_wait()?.is_some(),
                None => false,
            };
            if child.is_none() || over {
                sleep(QUIET);
                let passed = self.fault.passed()?;
                let serves = self.agent()?.log().contains("serves; control socket");
                if passed == quiet_since
                    && serves
                    && (over || passed > 0 && self.state().is_ok_and(|now| now == *to))
                {
                    break self.agent()?.has_ended()?;
                }
                quiet_since = passed;
            }
        };
        if let Some(mut child) = child {
            child.wait()?;
        }
        let Some(status) = status else {
            self.fault.spare()?;
            return Ok(End::Survived { writes: self.fault.passed()? - passed });
        };
        let log = self.agent()?.log();
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "the agent ended, {status}:\n{log}");
        let before = self.fault.kind()?;
        self.agent = None;
        self.fault.spare()?;
        self.traffic.all(&from.rules, &to.rules, "while there is no agent")?;
        self.start()?;
        let now = wait_for("one of the two states", || {
            let now = self.state()?;
            Ok((now.services == from.services || now.services == to.services).then_some(now))
        });
        let now =
            now.with_context(|| format!("it is neither as it was nor as it was to be: {:?}", self.state()))?;
        ensure!(now.file == from.file || now.file == to.file, "the file is half written:\n{}", now.file);
        self.traffic.all(&now.rules, &now.rules, "with the next agent")?;
        let changed = now.services == to.services && now.file == to.file;
        self.now = Some(now);
        Ok(End::Killed { before, changed })
    }

    /// The last lines of the agent's log, for the message of a failure.
    pub(super) fn log(&self) -> String {
        self.agent.as_ref().map(Agent::log).unwrap_or_default()
    }
}

/// Whether the program that can kill itself was built.
pub(super) fn is_built() -> bool {
    crate::world::binary("lbd-fault").is_ok()
}
