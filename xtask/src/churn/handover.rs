//! Names that change, and files that replace backends by others: what is known of an address stays known, and no file leaves
//! a service without a backend while an old one works.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    Progress,
    report::Check,
    rig::Rig,
    world::{BACKENDS, LONE, LONE_BACKEND, SERVICES, address_of},
};
use crate::{lab::backend_name, wait};

/// Another backend of the service that has one: no other service has it, so that its verdict is not known.
const OTHER: u8 = BACKENDS - 1;

/// What becomes of the rig's file, and what the plan for it says.
struct Files<'a> {
    rig: &'a mut Rig,
    progress: &'a mut Progress,
    checks: Vec<Check>,
}

impl Files<'_> {
    /// The agent follows a file that is to cut nothing.
    fn follow(&mut self, what: &'static str, text: &str) -> Result<()> {
        self.rig.load.book().begin(what);
        let path = self.rig.lab.directory().join("next.toml");
        fs::write(&path, text)?;
        let plan = self.rig.agent.ctl(&["plan", &path.display().to_string()])?;
        let services = plan["services"].as_array().into_iter().flatten();
        let cut: u64 = services.filter_map(|service| service["flows_cut"].as_u64()).sum();
        self.checks.push(Check { what: format!("{what}: {cut} flows are cut by the plan"), good: cut == 0 });
        self.replace(text)
    }

    fn replace(&mut self, text: &str) -> Result<()> {
        self.rig.agent.write(text)?;
        self.rig.agent.ctl(&["config", "apply"])?;
        self.progress.wait(self.rig, Instant::now() + Duration::from_secs(3))
    }

    /// The only backend of a service gives way to another one while requests go on.
    fn replace_lone(&mut self, text: &str, backend: u8) -> Result<()> {
        {
            let mut book = self.rig.load.book();
            book.begin("only backend replaced");
            // A request that is under way to the backend that goes ends with it. That none finds the service empty is asked of
            // the counters.
            book.begin_trouble(Some(LONE));
        }
        self.replace(text)?;
        let address = address_of(self.rig.lab.config(), LONE, backend);
        wait::until(&format!("{address} has all slots alone"), wait::limit(), || {
            let list = self.rig.agent.ctl(&["backend", "list", SERVICES[LONE].name])?;
            let all: Vec<_> = list.as_array().into_iter().flatten().collect();
            let is = matches!(all[..], [one] if one["address"] == address.as_str() && one["state"] == "up");
            Ok(if is { Ok(()) } else { Err(list.to_string()) })
        })?;
        self.rig.load.book().end_trouble(Some(LONE), Instant::now());
        Ok(())
    }
}

/// Lets it happen, and looks on; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let usual = rig.text();
    let parts: Vec<&str> = usual.split("\n[[service]]\n").collect();
    let echo = *parts.get(1).context("the file has no service")?;
    let part = |text: &str| format!("\n[[service]]\n{text}");
    // The same address and backends, on every port.
    let port = format!(":{}\"", SERVICES[0].port);
    let name = format!("name = \"{}\"\nlisten", SERVICES[0].name);
    let any = part(&echo.replacen(&name, "name = \"any\"\nlisten", 1).replacen(&port, ":0\"", 1));
    let mut renamed = usual.clone();
    for backend in 0..BACKENDS {
        let old = format!("name = \"{}\"", backend_name(backend));
        renamed = renamed.replace(&old, &format!("name = \"other-{backend}\""));
    }
    let (old, new) = (LONE_BACKEND, OTHER);
    let of_lone = |backend| {
        let address = address_of(rig.lab.config(), LONE, backend);
        format!("name = \"{}\"\naddress = \"{address}\"", backend_name(backend))
    };
    let mut lone = usual.clone();
    let at = usual.rfind(&of_lone(old)).context("the service of one backend has none")?;
    lone.replace_range(at..at + of_lone(old).len(), &of_lone(new));

    let mut files = Files { rig, progress, checks: Vec::new() };
    files.follow("backends renamed", &renamed)?;
    files.follow("backends renamed back", &usual)?;
    files.follow("listener on every port added", &format!("{usual}{any}"))?;
    files.follow(
        "listener on one port added",
        &format!(
            "{usual}{any}{}",
            part(&echo.replacen(&name, "name = \"other\"\nlisten", 1).replacen(&port, ":7000\"", 1))
        ),
    )?;
    files.follow("both removed", &usual)?;
    let before = super::counters(files.rig)?.get("no_backend");
    for _ in 0..3 {
        files.replace_lone(&lone, new)?;
        files.replace_lone(&usual, old)?;
    }
    let Files { mut checks, rig, .. } = files;
    let empty = super::counters(rig)?.get("no_backend") - before;
    checks.push(Check { what: format!("{empty} packets met a service without backends"), good: empty == 0 });
    let begun = rig.agent.events(&["--kind", "handover_begins"])?.len();
    let note = format!("a file replaced the only backend 6 times, and {begun} times the old one served on");
    checks.push(Check { what: format!("an old backend served on {begun} times"), good: begun >= 3 });
    Ok((note, checks))
}
