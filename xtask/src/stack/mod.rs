//! What runs on the lab's nodes: web servers and `lb_decap` on the backends, the agent on the balancer. The demo and
//! `lab up` share it.

pub mod agent;
pub mod serve;
pub mod web;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::{agent::Agent, web::Web};
use crate::lab::{self, Lab};

/// What cargo built and the lab runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    pub lbd: PathBuf,
    pub lbctl: PathBuf,
}

impl Binaries {
    /// Those in one directory.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let file = |name: &str| {
            let path = directory.join(name);
            if path.exists() {
                Ok(path)
            } else {
                bail!("{} is not there; `cargo xtask build` builds it", path.display())
            }
        };
        Ok(Self { lbd: file("lbd")?, lbctl: file("lbctl")? })
    }
}

/// A lab with everything running.
#[derive(Debug)]
pub struct Stack {
    pub lab: Lab,
    pub web: Web,
    pub agent: Agent,
}

impl Stack {
    /// Makes the lab, starts the web servers, then the agent, and waits until every backend is up.
    pub fn up(config: &lab::Config, binaries: &Binaries, server: web::Kind) -> Result<Self> {
        let mut lab = Lab::up(config)?;
        let mut web = Web::new(server, config.backends);
        for index in 0..config.backends {
            web.start(&mut lab, index)?;
            decap(&lab, binaries, index)?;
        }
        web.wait(&lab)?;
        let mut agent = Agent::new(&lab, binaries)?;
        agent.start(&mut lab)?;
        agent.wait_until_all_up(config.backends)?;
        Ok(Self { lab, web, agent })
    }
}

/// Takes outer headers off on a backend, on the interface they come in by.
pub fn decap(lab: &Lab, binaries: &Binaries, index: u8) -> Result<()> {
    let (v4, v6, interface) = lab.config().backend_address(index);
    let node = lab.node(&lab::backend_name(index))?;
    let mut command = node.command(&binaries.lbd);
    command.args(["decap", "attach", "--interface", interface]);
    command.args(["--address", &v4.to_string(), "--address", &v6.to_string()]);
    crate::run::capture(&mut command)
        .map(drop)
        .with_context(|| format!("node {}: no decapsulation", node.name))
}
