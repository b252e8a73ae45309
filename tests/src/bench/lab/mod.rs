//! Rows that need a network: the lab of `cargo xtask lab` under a prefix of its own, with veth cables and real agents.
//!
//! `agent` starts an agent with 10,000 backends, `checks` lets it check them, `wire` sends frames through the data path,
//! `queues` does so on all processors at once, `requests` sends requests through it and through the usual alternatives.

mod agent;
mod checks;
mod client;
mod queues;
mod requests;
mod wire;

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context as _, Result};
use xtask::{
    interrupt,
    lab::{self, Lab},
    stack::Binaries,
};

use super::{
    Settings,
    row::{Definition, Samples},
};
use crate::privilege;

/// The configuration of the lab: three backends, all behind the router.
fn config() -> lab::Config {
    lab::Config {
        prefix: "lb-bench".to_owned(),
        instance: "bench".to_owned(),
        direct: false,
        ..lab::Config::default()
    }
}

pub(super) fn definitions() -> Vec<Definition> {
    [
        agent::definitions(),
        checks::definitions(),
        wire::definitions(),
        queues::definitions(),
        requests::definitions(),
    ]
    .concat()
}

/// From now on a signal removes the lab. To be called before other threads start.
pub(super) fn prepare() -> Result<()> {
    interrupt::take_away_lab(&config())
}

/// Measures the wanted rows; what cannot be measured here goes to `skipped`.
pub(super) fn measure(
    settings: &Settings,
    wanted: &BTreeSet<String>,
    samples: &mut Samples,
    skipped: &mut Vec<(String, String)>,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let this = std::env::current_exe().context("finding the benchmark's own file")?;
    let binaries = this.parent().context("a file lies in a directory").and_then(Binaries::in_directory);
    let binaries = match binaries {
        Ok(binaries) if privilege::may_make_namespaces() => binaries,
        Ok(_) => return skip_all(wanted, "needs root (CAP_SYS_ADMIN), to make network namespaces", skipped),
        Err(error) => return skip_all(wanted, &format!("{error:#}"), skipped),
    };
    let mut lab = Lab::up(&config())?;
    let mut bench = Bench { lab: &mut lab, binaries: &binaries, settings, wanted, samples, skipped };
    let parts: [(&str, Measure); 5] = [
        ("wire/", wire::measure),
        ("queues/", queues::measure),
        ("requests/", requests::measure),
        ("agent/", agent::measure),
        ("checks/", checks::measure),
    ];
    for (group, part) in parts {
        if bench.wants(group) {
            // A part that fails does not stop the parts after it.
            if let Err(error) = part(&mut bench) {
                bench.skip(group, &format!("{error:#}"));
            }
        }
    }
    lab.down().map(drop)
}

/// A function that measures a part.
type Measure = fn(&mut Bench<'_>) -> Result<()>;

fn skip_all(wanted: &BTreeSet<String>, why: &str, skipped: &mut Vec<(String, String)>) -> Result<()> {
    skipped.extend(wanted.iter().map(|id| (id.clone(), why.to_owned())));
    Ok(())
}

/// What the parts share.
struct Bench<'a> {
    lab: &'a mut Lab,
    binaries: &'a Binaries,
    settings: &'a Settings,
    wanted: &'a BTreeSet<String>,
    samples: &'a mut Samples,
    skipped: &'a mut Vec<(String, String)>,
}

impl Bench<'_> {
    /// Whether a row whose id begins like this is wanted.
    fn wants(&self, begin: &str) -> bool {
        self.wanted.iter().any(|id| id.starts_with(begin))
    }

    fn add(&mut self, id: &str, value: f64) {
        self.samples.entry(id.to_owned()).or_default().push(value);
    }

    /// Records why the wanted rows whose ids begin like this were not measured.
    fn skip(&mut self, begin: &str, why: &str) {
        let measured = |id: &String| self.samples.contains_key(id);
        let rows = self.wanted.iter().filter(|id| id.starts_with(begin) && !measured(id));
        self.skipped.extend(rows.map(|id| (id.clone(), why.to_owned())));
    }
}

/// The name of the only service.
const SERVICE: &str = "bench";

/// The network of the many backends, behind the first backend's node.
const MANY: &str = "10.50.0.0/16";

/// The address of backend `number` of the many backends.
fn address(number: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(0x0a32_0000 + number + 1)
}

/// A file with one service of `backends` backends in that network.
fn many(lab: &Lab, backends: u32, health: &str) -> Result<String> {
    let state = lab.subdirectory("state")?;
    let mut text = format!(
        "[node]\ninterface = \"eth0\"\nseed = \"bench\"\nstate_directory = \"{}\"\nhealth_concurrency = 1024\n\
         [[service]]\nname = \"{SERVICE}\"\nlisten = \"tcp/{}:80\"\nmax_backends = 10000\nhealth = {health}\n",
        state.display(),
        lab::VIP_V4
    );
    for number in 0..backends {
        write!(text, "[[service.backend]]\nname = \"web-{number}\"\naddress = \"{}\"\n", address(number))?;
    }
    Ok(text)
}

/// Makes the router send the network to the first backend's node, and makes that node accept all its addresses.
fn route_many(lab: &Lab) -> Result<()> {
    let run = |node: &str, arguments: &[&str]| {
        let mut command = lab.node(node)?.command("ip");
        command.args(arguments);
        xtask::run::capture(&mut command).map(drop)
    };
    let (first, _, _) = lab.config().backend_address(0);
    run(lab::ROUTER, &["route", "replace", MANY, "via", &first.to_string()])?;
    run(&lab::backend_name(0), &["route", "replace", "local", MANY, "dev", "lo"])
}
