//! The rig: a lab with servers on the backends, the agent on the balancer and traffic from the client, and how the acts of
//! a script are carried out on it.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    load::{Load, Volume},
    message::Identity,
    script::{Act, Edit},
    server,
    world::{BACKENDS, LONE, LONE_BACKEND, SERVICES, World, address_of},
};
use crate::{
    lab::{self, BALANCER, CLIENT, Lab, backend_name},
    run,
    stack::{
        self, Binaries,
        agent::{Agent, now_ms},
    },
    wait,
};

/// So long after the service of one backend has it again, what was sent before may still fail.
const BACK: Duration = Duration::from_secs(3);
/// The same after the agent has given up the flows of a killed backend.
const OUT: Duration = Duration::from_secs(1);
/// So many milliseconds after a backend came back a verdict may still say that it is down.
const OUT_MS: u64 = 3000;

/// What the agent says of a backend that is down and keeps its established flows for the `hold`.
const HELD: &str = "flows are held";

/// How often, and when in a row, health is asked. Bounds are wide, so that a busy machine is not taken for a dead
/// backend: a server that was killed refuses, which is noticed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    Usual,
    /// Every verdict from a single probe, ten a second.
    Nervous,
    /// As the agent's defaults have it.
    Default,
}

/// What the rig is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) lab: lab::Config,
    pub(super) volume: Volume,
    /// `None` = the agent's default.
    pub(super) track: Option<&'static str>,
    pub(super) probing: Probing,
}

/// A backend that was dead for a while, in milliseconds since 1970.
struct Death {
    backend: u8,
    from: u64,
    until: Option<u64>,
}

/// Everything that runs. The traffic goes first, the lab last.
pub(super) struct Rig {
    pub(super) load: Load,
    servers: Vec<Option<(Child, Identity)>>,
    pub(super) agent: Agent,
    pub(super) world: World,
    pub(super) lab: Lab,
    head: String,
    track: Option<&'static str>,
    lives: u32,
    deaths: Vec<Death>,
    /// Number of the program on the interface.
    program: u64,
    /// How often the agent was started again, and how often the program was another one then.
    pub(super) starts: usize,
    pub(super) replaced: usize,
    /// The last event of the present agent that was looked at.
    event: u64,
    /// Verdicts that a backend is down: those that were right, and those that were not.
    pub(super) downs: usize,
    pub(super) false_downs: Vec<String>,
    /// What was asked of the agent and not done.
    pub(super) refused: Vec<String>,
    /// Resizes that were refused because the one before was not over, as they are to be.
    pub(super) early_resizes: usize,
}

impl Rig {
    /// Makes the lab and starts everything, until every backend is up and every connection established.
    pub(super) fn up(wanted: &Wanted, binaries: &Binaries) -> Result<Self> {
        let Wanted { lab: config, volume, track, probing } = wanted;
        let mut lab = Lab::up(config)?;
        let mut servers: Vec<Option<(Child, Identity)>> = Vec::new();
        let mut lives = 0;
        for backend in 0..BACKENDS {
            servers.push(Some(start_server(&mut lab, backend, &mut lives)?));
            stack::decap(&lab, binaries, backend)?;
        }
        let (interval, fast, rise, fall) = match probing {
            Probing::Usual => ("500ms", "100ms", 2, 3),
            Probing::Nervous => ("100ms", "50ms", 1, 1),
            Probing::Default => ("500ms", "100ms", 2, 2),
        };
        let timeout = if *probing == Probing::Default { "500ms" } else { "2s" };
        let head = format!(
            "[node]\ninterface = \"eth0\"\nseed = \"churn\"\nstate_directory = \"{}\"\n\n\
             [health]\nkind = \"tcp\"\nport = {}\ninterval = \"{interval}\"\nfast_interval = \"{fast}\"\n\
             timeout = \"{timeout}\"\nrise = {rise}\nfall = {fall}\n",
            lab.subdirectory("state")?.display(),
            super::world::PORT,
        );
        let world = World::first();
        let mut agent = Agent::with(&lab, binaries, &world.configuration(config, &head, *track))?;
        agent.start(&mut lab)?;
        wait_until_up(&agent, &world)?;
        let program = program(&lab)?;
        let load = Load::start(lab.node(CLIENT)?, *volume)?;
        load.wait_until_established()?;
        Ok(Self {
            load,
            servers,
            agent,
            world,
            lab,
            head,
            track: *track,
            lives,
            deaths: Vec::new(),
            program,
            starts: 0,
            replaced: 0,
            event: 0,
            downs: 0,
            false_downs: Vec::new(),
            refused: Vec::new(),
            early_resizes: 0,
        })
    }

    /// Carries out an act. What the agent refuses is noted; an error is what the rig itself could not do.
    pub(super) fn carry_out(&mut self, act: &Act) -> Result<()> {
        if let Some(label) = act.label() {
            self.load.book().begin(label);
        }
        let mut after = self.world.clone();
        after.apply(act);
        let served =
            |world: &World| world.place(LONE, LONE_BACKEND).is_some() && !world.is_dead(LONE_BACKEND);
        if served(&self.world) && !served(&after) {
            self.load.book().begin_trouble(Some(LONE));
        }
        match self.attempt(act, &after) {
            Ok(()) => {
                if !served(&self.world) && served(&after) {
                    if after.agent {
                        self.wait_for_lone()?;
                    }
                    self.load.book().end_trouble(Some(LONE), Instant::now() + BACK);
                }
                self.world = after;
                Ok(())
            }
            Err(Refusal::Refused(why)) => {
                match act {
                    Act::Resize { .. } if why.contains("max_backends") => self.early_resizes += 1,
                    _ => self.refused.push(format!("{act:?}: {why}")),
                }
                Ok(())
            }
            Err(Refusal::Rig(error)) => Err(error.context(format!("{act:?}"))),
        }
    }

    fn attempt(&mut self, act: &Act, after: &World) -> Result<(), Refusal> {
        let name = |service: usize| SERVICES.get(service).map_or("", |kind| kind.name);
        let object = |service: usize, backend: u8| format!("{}/{}", name(service), backend_name(backend));
        match act {
            Act::Add { service, backend, weight } => {
                let address = address_of(self.lab.config(), *service, *backend);
                let weight = weight.to_string();
                let object = object(*service, *backend);
                self.ctl(&["backend", "add", &object, "--address", &address, "--weight", &weight])?;
                self.load.book().leaving.remove(&(*service, *backend));
                Ok(())
            }
            Act::Drain { service, backend } => {
                self.ctl(&["backend", "drain", &object(*service, *backend), "--force"])
            }
            Act::Undrain { service, backend } => {
                self.ctl(&["backend", "undrain", &object(*service, *backend)])
            }
            Act::Finish { service, backend } => {
                self.load.book().leaving.insert((*service, *backend));
                Ok(())
            }
            Act::Remove { service, backend } => {
                self.wait_until_left(*service, *backend)?;
                self.ctl(&["backend", "remove", &object(*service, *backend), "--force"])?;
                self.load.book().leaving.remove(&(*service, *backend));
                Ok(())
            }
            Act::Weight { service, backend, weight } => {
                let weight = weight.to_string();
                self.ctl(&["backend", "set", &object(*service, *backend), "--weight", &weight])
            }
            Act::Kill { backend } => Ok(self.kill(*backend)?),
            Act::Revive { backend } => Ok(self.revive(*backend)?),
            Act::Reload(edits) => Ok(self.reload(edits, after)?),
            Act::AgentKill | Act::AgentStop => {
                self.look_at_events()?;
                match act {
                    Act::AgentKill => self.agent.kill().map(drop)?,
                    _ => self.agent.stop()?,
                }
                Ok(())
            }
            Act::AgentStart => Ok(self.start_agent()?),
            Act::Resize { service, max_backends } => {
                self.ctl(&["service", "set", name(*service), "--max-backends", &max_backends.to_string()])
            }
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Result<(), Refusal> {
        self.agent.ctl(arguments).map(drop).map_err(|error| Refusal::Refused(format!("{error:#}")))
    }

    /// Waits until the client has no connection to a backend any more.
    fn wait_until_left(&self, service: usize, backend: u8) -> Result<()> {
        if service == LONE {
            return Ok(());
        }
        wait::until(&format!("connections leave {}", backend_name(backend)), wait::limit(), || {
            let left = self.load.book().alive[service][usize::from(backend)];
            Ok(if left == 0 { Ok(()) } else { Err(format!("{left} connections")) })
        })
    }

    fn kill(&mut self, backend: u8) -> Result<()> {
        let server = self.servers.get_mut(usize::from(backend)).and_then(Option::take);
        let (mut child, identity) = server.with_context(|| format!("{} is dead", backend_name(backend)))?;
        {
            let mut book = self.load.book();
            book.kill(identity);
            book.begin_trouble(None);
        }
        self.deaths.push(Death { backend, from: now_ms(), until: None });
        child.kill()?;
        child.wait()?;
        if self.world.agent {
            self.wait_until_out(backend)?;
            self.load.book().held.insert(backend);
        }
        Ok(())
    }

    /// Waits until the agent has taken a dead backend out of every ring.
    fn wait_until_out(&self, backend: u8) -> Result<()> {
        wait::until(&format!("{} is out", backend_name(backend)), wait::limit(), || {
            let shown = self.shown(backend)?;
            let takes_flows = shown.iter().find(|shown| shown["state"] == "up" || shown["slots"] != 0);
            Ok(takes_flows.map_or(Ok(()), |shown| Err(shown.to_string())))
        })
    }

    /// Waits until the service of one backend has it again.
    fn wait_for_lone(&self) -> Result<()> {
        let object = format!("{}/{}", SERVICES[LONE].name, backend_name(LONE_BACKEND));
        wait::until(&format!("{object} is up"), wait::limit(), || {
            let shown = self.agent.ctl(&["backend", "show", &object])?;
            Ok(if shown["state"] == "up" { Ok(()) } else { Err(shown.to_string()) })
        })
    }

    fn revive(&mut self, backend: u8) -> Result<()> {
        let server = start_server(&mut self.lab, backend, &mut self.lives)?;
        self.load.book().returning.insert(server.1);
        if let Some(place) = self.servers.get_mut(usize::from(backend)) {
            *place = Some(server);
        }
        for death in self.deaths.iter_mut().filter(|death| death.backend == backend) {
            death.until.get_or_insert(now_ms());
        }
        Ok(())
    }

    /// Asks the agent about backends that were started again, and about those that are dead: those whose checks pass are back,
    /// and where flows are held no more, a new one on the ports of an old one goes elsewhere, too.
    pub(super) fn look_at_verdicts(&self) -> Result<()> {
        if !self.world.agent {
            return Ok(());
        }
        let (returning, held) = {
            let book = self.load.book();
            (book.returning.clone(), book.held.clone())
        };
        for identity in returning {
            if self.shown(identity.backend)?.iter().all(|shown| shown["health"] == "up") {
                self.load.book().returning.remove(&identity);
            }
        }
        for &backend in &held {
            let is_held =
                |shown: &Value| shown["reason"].as_str().is_some_and(|reason| reason.contains(HELD));
            if !self.shown(backend)?.iter().any(is_held) {
                let mut book = self.load.book();
                book.held.remove(&backend);
                if book.held.is_empty() {
                    book.end_trouble(None, Instant::now() + OUT);
                }
            }
        }
        Ok(())
    }

    /// What the agent says of a backend, for each service that has it.
    fn shown(&self, backend: u8) -> Result<Vec<Value>> {
        let of =
            SERVICES.iter().enumerate().filter(|(service, _)| self.world.place(*service, backend).is_some());
        of.map(|(_, kind)| {
            self.agent.ctl(&["backend", "show", &format!("{}/{}", kind.name, backend_name(backend))])
        })
        .collect()
    }

    /// Writes what is in force and the edits into the file, and sends SIGHUP.
    fn reload(&mut self, edits: &[Edit], after: &World) -> Result<()> {
        // Run-time changes go into the file first; what is written then says the same and more.
        self.agent.ctl(&["config", "save"])?;
        self.agent.write(&after.configuration(self.lab.config(), &self.head, self.track))?;
        self.agent.reload()?;
        let Some(Edit { service, backend, weight, draining }) = edits.last() else { return Ok(()) };
        let object = format!("{}/{}", SERVICES[*service].name, backend_name(*backend));
        wait::until("the file is taken over", wait::limit(), || {
            let shown = self.agent.ctl(&["backend", "show", &object])?;
            if shown["weight"] == *weight && (!draining || shown["state"] != "up") {
                return Ok(Ok(()));
            }
            let error = self.agent.ctl(&["status"])?["last_error"].clone();
            Ok(Err(format!("{object} is {shown}; the last error is {error}")))
        })
    }

    /// The agent's file as the script has made it.
    pub(super) fn text(&self) -> String {
        self.world.configuration(self.lab.config(), &self.head, self.track)
    }

    fn start_agent(&mut self) -> Result<()> {
        self.event = 0;
        self.agent.start(&mut self.lab)?;
        for backend in (0..BACKENDS).filter(|backend| self.world.is_dead(*backend)) {
            self.wait_until_out(backend)?;
            self.load.book().held.insert(backend);
        }
        if self.load.book().held.is_empty() {
            self.load.book().end_trouble(None, Instant::now() + OUT);
        }
        let status = self.agent.ctl(&["status"])?;
        ensure!(status["adopted"] == true, "the agent did not take over what runs: {status}");
        let program = program(&self.lab)?;
        self.starts += 1;
        self.replaced += usize::from(program != self.program);
        self.program = program;
        Ok(())
    }

    /// Reads the agent's events since the last look: verdicts that a backend is down.
    pub(super) fn look_at_events(&mut self) -> Result<()> {
        let events = self.agent.events(&["--since", &self.event.to_string(), "--kind", "backend_down"])?;
        for event in events {
            self.event = self.event.max(event["number"].as_u64().unwrap_or(0));
            let (at, object) = (event["at_ms"].as_u64(), event["object"].as_str());
            let (Some(at), Some(object)) = (at, object) else {
                bail!("an event without time or object: {event}")
            };
            let is_of = |death: &&Death| object.ends_with(&format!("/{}", backend_name(death.backend)));
            let was_dead = self
                .deaths
                .iter()
                .filter(is_of)
                .any(|death| death.from <= at && death.until.is_none_or(|until| at <= until + OUT_MS));
            if was_dead {
                self.downs += 1;
            } else {
                self.false_downs.push(format!("{object}: {}", event["message"].as_str().unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Whether the agent says of every backend what the script has made of it; what differs, in words.
    pub(super) fn differences(&self) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        for (index, kind) in SERVICES.iter().enumerate() {
            let list = self.agent.ctl(&["backend", "list", kind.name])?;
            let empty = Vec::new();
            let list = list.as_array().unwrap_or(&empty);
            for backend in 0..BACKENDS {
                let name = backend_name(backend);
                let shown = list.iter().find(|shown| shown["name"] == name.as_str());
                let wanted = self.world.place(index, backend).map(|place| u64::from(place.weight));
                let found = shown.and_then(|shown| shown["weight"].as_u64());
                if wanted != found {
                    differences.push(format!("{}/{name}: weight {found:?}, not {wanted:?}", kind.name));
                }
            }
        }
        Ok(differences)
    }
}

/// Why an act did not happen.
enum Refusal {
    /// The agent said no.
    Refused(String),
    Rig(anyhow::Error),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Rig(error)
    }
}

/// Starts the server of a backend in a life of its own, and waits until it accepts.
fn start_server(lab: &mut Lab, backend: u8, lives: &mut u32) -> Result<(Child, Identity)> {
    *lives += 1;
    let identity = Identity { backend, life: *lives };
    let mut command = Command::new(run::this_program()?);
    let numbers = [backend.to_string(), lives.to_string()];
    command.args(["churn-server", "--backend", &numbers[0], "--life", &numbers[1]]);
    let name = backend_name(backend);
    let child = lab.start(&name, "server", command)?;
    let (address, _, _) = lab.config().backend_address(backend);
    lab.node(&name)?.enter(|| server::wait(address.into()))?.with_context(|| {
        let log = std::fs::read_to_string(lab.log(&name, "server")).unwrap_or_default();
        format!("node {name}: {}", log.trim())
    })?;
    Ok((child, identity))
}

fn wait_until_up(agent: &Agent, world: &World) -> Result<()> {
    let up = wait::until("every backend is up", wait::limit(), || {
        let (mut up, mut seen) = (0, String::new());
        for (index, kind) in SERVICES.iter().enumerate() {
            let list = agent.ctl(&["backend", "list", kind.name])?;
            let states = list.as_array().into_iter().flatten().filter(|shown| shown["state"] == "up");
            let (states, usable) = (states.count(), world.usable(index));
            up += usize::from(states == usable);
            seen += &format!("{}: {states} of {usable} are up; ", kind.name);
        }
        Ok(if up == SERVICES.len() { Ok(()) } else { Err(seen) })
    });
    up.with_context(|| format!("the agent's last words:\n{}\nwhat failed", agent.last_words()))
}

/// The number of the XDP program on the balancer's interface.
fn program(lab: &Lab) -> Result<u64> {
    let mut command = lab.node(BALANCER)?.command("ip");
    let text = run::capture(command.args(["-json", "link", "show", "dev", "eth0"]))?;
    let shown: Value = serde_json::from_str(&text).context("`ip -json` printed no JSON")?;
    shown[0]["xdp"]["prog"]["id"].as_u64().context("no program is on the balancer's interface")
}
