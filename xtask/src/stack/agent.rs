//! The agent on the balancer: its configuration, its life and death, and what it says through `lbctl`.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Binaries, web::PORT};
use crate::{
    lab::{self, BALANCER, Lab, Process, VIP_V4, VIP_V6, backend_name},
    run, wait,
};

/// The services, by family.
pub const SERVICES: [&str; 2] = ["web", "web6"];

/// The agent, running or not.
#[derive(Debug)]
pub struct Agent {
    binaries: Binaries,
    instance: String,
    file: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Writes its configuration; it does not run yet.
    pub fn new(lab: &Lab, binaries: &Binaries) -> Result<Self> {
        let state = lab.subdirectory("state")?;
        Self::with(lab, binaries, &configuration(lab.config(), &state.display().to_string()))
    }

    /// The same with a configuration of its own.
    pub fn with(lab: &Lab, binaries: &Binaries, configuration: &str) -> Result<Self> {
        let agent = Self {
            binaries: binaries.clone(),
            instance: lab.config().instance.clone(),
            file: lab.directory().join("lb.toml"),
            log: lab.log(BALANCER, "lbd"),
            child: None,
        };
        agent.write(configuration)?;
        Ok(agent)
    }

    /// Writes its file again; the agent does not read it by itself.
    pub fn write(&self, configuration: &str) -> Result<()> {
        fs::write(&self.file, configuration).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// Sends SIGHUP: it reads its file again.
    pub fn reload(&self) -> Result<()> {
        self.signal(libc::SIGHUP)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let child = self.child.as_ref().context("lbd is not running")?;
        let process = Process::of(child.id().cast_signed(), BALANCER, "lbd").context("lbd is gone")?;
        anyhow::ensure!(process.signal(signal)?, "lbd is gone");
        Ok(())
    }

    /// Sends SIGTERM and waits for its end, which leaves packets flowing.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("lbd is not running")?;
        let process = Process::of(child.id().cast_signed(), BALANCER, "lbd").context("lbd is gone")?;
        process.end(wait::limit())?;
        let status = child.wait()?;
        if !status.success() {
            bail!("lbd ended with {} after SIGTERM: {}", run::ending(status), self.last_words());
        }
        Ok(())
    }

    /// Starts it and waits until it answers; how long that took.
    pub fn start(&mut self, lab: &mut Lab) -> Result<Duration> {
        let started = Instant::now();
        let mut command = Command::new(&self.binaries.lbd);
        command.arg("--config").arg(&self.file).args(["--instance", &self.instance]);
        let mut child = lab.start(BALANCER, "lbd", command)?;
        wait::until("lbd answers on its socket", wait::limit(), || {
            if let Some(status) = child.try_wait()? {
                bail!("lbd ended with {}: {}", run::ending(status), self.last_words());
            }
            wait::attempt(self.ctl(&["status"]))
        })
        .with_context(|| format!("the agent's last words:\n{}\nwhat failed", self.last_words()))?;
        self.child = Some(child);
        Ok(started.elapsed())
    }

    /// Kills it with SIGKILL; its number.
    pub fn kill(&mut self) -> Result<u32> {
        let mut child = self.child.take().context("lbd is not running")?;
        child.kill()?;
        child.wait()?;
        if Process::of(child.id().cast_signed(), BALANCER, "lbd").is_some() {
            bail!("process {} is still there after SIGKILL", child.id());
        }
        Ok(child.id())
    }

    /// What `lbctl` answers, as JSON.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.binaries.lbctl);
        command.args(["--instance", &self.instance, "-o", "json"]).args(arguments);
        let text = run::capture(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("`{}` printed no JSON", run::shown(&command)))
    }

    /// The agent's events, oldest first; `arguments` say which.
    pub fn events(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.binaries.lbctl);
        command.args(["--instance", &self.instance, "-o", "json", "events"]).args(arguments);
        let text = run::capture(&mut command)?;
        let event = |line| serde_json::from_str(line).with_context(|| format!("{line:?} is not JSON"));
        text.lines().map(event).collect()
    }

    /// Waits until every backend of every service takes new flows.
    pub fn wait_until_all_up(&self, backends: u8) -> Result<()> {
        let all = usize::from(backends) * SERVICES.len();
        wait::until("every backend is up", wait::limit(), || {
            let states = self.states()?;
            if states.iter().filter(|(_, state)| state == "up").count() == all {
                return Ok(Ok(()));
            }
            let not_up: Vec<String> = states
                .iter()
                .filter(|(_, state)| state != "up")
                .map(|(name, state)| format!("{name} is {state}"))
                .collect();
            Ok(Err(format!("{}\n{}", not_up.join(", "), self.last_words())))
        })
    }

    /// `service/backend` and its state, for all.
    fn states(&self) -> Result<Vec<(String, String)>> {
        let mut states = Vec::new();
        for service in SERVICES {
            let backends = self.ctl(&["backend", "list", service])?;
            for backend in backends.as_array().into_iter().flatten() {
                let text = |key: &str| backend[key].as_str().unwrap_or_default().to_owned();
                let reason =
                    backend["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
                let state = if text("state") == "up" { text("state") } else { text("state") + &reason };
                states.push((format!("{service}/{}", text("name")), state));
            }
        }
        Ok(states)
    }

    /// When, in milliseconds since 1970, the last service saw that event of a backend at or after `since`; waits for it.
    pub fn wait_for_event(&self, kind: &str, backend: &str, since: u64) -> Result<u64> {
        wait::until(&format!("{kind} of {backend}"), wait::limit(), || {
            let events = self.events(&["--kind", kind])?;
            let of_service = |service: &str| {
                let object = format!("{service}/{backend}");
                events.iter().find_map(|event| {
                    let at = event["at_ms"].as_u64()?;
                    let named = event["object"].as_str()?.ends_with(&object);
                    (event["kind"] == kind && named && at >= since).then_some(at)
                })
            };
            let times: Vec<u64> = SERVICES.into_iter().filter_map(of_service).collect();
            Ok(match times.iter().max().filter(|_| times.len() == SERVICES.len()) {
                Some(last) => Ok(*last),
                None => {
                    Err(format!("{} of {} services, and {:?}", times.len(), SERVICES.len(), events.last()))
                }
            })
        })
    }

    /// Waits until a backend owns no slot of any service: no new flow reaches it then.
    pub fn wait_until_out(&self, backend: &str) -> Result<()> {
        wait::until(&format!("{backend} owns no slot"), wait::limit(), || {
            for service in SERVICES {
                let shown = self.ctl(&["backend", "show", &format!("{service}/{backend}")])?;
                if shown["slots"] != 0 {
                    return Ok(Err(shown.to_string()));
                }
            }
            Ok(Ok(()))
        })
    }

    /// The end of its log, for error messages.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// Milliseconds since 1970, as the agent's events have them.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The file of the lab: one service of each family, everything that can be left out left out.
fn configuration(config: &lab::Config, state_directory: &str) -> String {
    let mut text = format!(
        "[node]\ninterface = \"eth0\"\nseed = \"{}\"\nstate_directory = \"{state_directory}\"\n",
        config.prefix
    );
    let listens = [format!("tcp/{VIP_V4}:{PORT}"), format!("tcp/[{VIP_V6}]:{PORT}")];
    for (family, (service, listen)) in SERVICES.iter().zip(listens).enumerate() {
        write!(
            text,
            "\n[[service]]\nname = \"{service}\"\nlisten = \"{listen}\"\nmax_backends = 20\n\
             health = {{ kind = \"http\", path = \"/healthz\", expect = 200 }}\n"
        )
        .ok();
        for index in 0..config.backends {
            let (v4, v6, _) = config.backend_address(index);
            let address = if family == 0 { v4.to_string() } else { v6.to_string() };
            write!(
                text,
                "\n[[service.backend]]\nname = \"{}\"\naddress = \"{address}\"\n",
                backend_name(index)
            )
            .ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_both_families_and_every_backend() {
        let text = configuration(&lab::Config::default(), "/run/x/state");
        assert!(text.contains("listen = \"tcp/203.0.113.10:80\""));
        assert!(text.contains("listen = \"tcp/[2001:db8::10]:80\""));
        assert_eq!(text.matches("[[service.backend]]").count(), 6);
        assert!(text.contains("address = \"10.0.13.2\"") && text.contains("address = \"fd00:0:0:13::2\""));
    }
}
