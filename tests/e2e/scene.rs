//! A lab in which everything runs: web and echo servers and `lb_decap` on the backends, the agent on the balancer.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use xtask::{
    lab::{self, BALANCER, Lab, VIP_V4, VIP_V6, backend_name},
    run,
    stack::{
        Binaries,
        web::{Kind, Web},
    },
    wait::{self, Look},
};

use crate::{
    agent::Agent,
    echo::{Echo, PORT},
};

/// Backends of the lab.
pub(crate) const BACKENDS: u8 = 3;

/// Everything that runs. The agent is dropped first, the lab last.
pub(crate) struct Scene {
    pub(crate) agent: Agent,
    pub(crate) echoes: Vec<Echo>,
    pub(crate) web: Web,
    pub(crate) lab: Lab,
}

impl Scene {
    /// The lab of these tests.
    pub(crate) fn lab() -> lab::Config {
        lab::Config {
            prefix: "lb-e2e".to_owned(),
            instance: "e2e".to_owned(),
            backends: BACKENDS,
            ..lab::Config::default()
        }
    }

    /// A scene with the usual services, every backend up.
    pub(crate) fn up() -> Result<Self> {
        Self::with("", &usual(&Self::lab(), BACKENDS), &[])
    }

    /// A scene with its own lines of `[node]`, services, and arguments of the agent.
    pub(crate) fn with(node: &str, services: &str, arguments: &[&str]) -> Result<Self> {
        Self::start(&Self::lab(), "eth0", node, services, arguments, lb_decap)
    }

    /// A scene with the usual services. The balancer's interface is a port of a bridge, to which the agent is attached.
    pub(crate) fn on_bridge() -> Result<Self> {
        let config = lab::Config { direct: false, ..Self::lab() };
        let services = usual(&config, config.backends);
        Self::start(&config, "br0", "", &services, &[], |lab, binaries, index| {
            if index == 0 {
                bridge(lab)?;
            }
            lb_decap(lab, binaries, index)
        })
    }

    /// A scene in another lab.
    pub(crate) fn in_lab(config: &lab::Config, services: &str) -> Result<Self> {
        Self::start(config, "eth0", "", services, &[], lb_decap)
    }

    /// A scene in another lab, without `lb_decap`: the test itself provides what takes the outer headers off.
    pub(crate) fn without_decapsulation(config: &lab::Config, services: &str) -> Result<Self> {
        Self::start(config, "eth0", "", services, &[], |_, _, _| Ok(()))
    }

    fn start(
        config: &lab::Config,
        interface: &str,
        node: &str,
        services: &str,
        arguments: &[&str],
        decapsulate: impl Fn(&Lab, &Binaries, u8) -> Result<()>,
    ) -> Result<Self> {
        let binaries = binaries()?;
        let mut lab = Lab::up(config)?;
        let mut web = Web::new(Kind::installed(), config.backends);
        let mut echoes = Vec::new();
        for index in 0..config.backends {
            web.start(&mut lab, index)?;
            echoes.push(Echo::start(lab.node(&backend_name(index))?)?);
            decapsulate(&lab, &binaries, index)?;
        }
        web.wait(&lab)?;
        let text = format!(
            "[node]\ninterface = \"{interface}\"\nseed = \"e2e\"\nstate_directory = \"{}\"\n{node}\n{services}",
            lab.subdirectory("state")?.display()
        );
        let file = lab.directory().join("lb.toml");
        fs::write(&file, text)?;
        let mut agent = Agent::new(binaries, file, lab.config().instance.clone());
        agent.start(&mut lab, arguments)?;
        agent.wait_until_all_up()?;
        Ok(Self { agent, echoes, web, lab })
    }

    /// Adds the end of the agent's log to an error.
    pub(crate) fn judge(self, result: Result<()>) -> Result<()> {
        let words = self.agent.log(&self.lab);
        let lines: Vec<&str> = words.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n");
        result.with_context(|| format!("the agent's last words:\n{last}\nwhat failed"))
    }
}

/// Takes outer headers off on a backend.
fn lb_decap(lab: &Lab, binaries: &Binaries, index: u8) -> Result<()> {
    let (v4, v6, interface) = lab.config().backend_address(index);
    let mut decap = lab.node(&backend_name(index))?.command(&binaries.lbd);
    decap.args(["decap", "attach", "--interface", interface]);
    decap.args(["--address", &v4.to_string(), "--address", &v6.to_string()]);
    run::capture(&mut decap).context("no decapsulation").map(drop)
}

/// Makes the balancer's interface a port of a bridge, which gets its addresses and routes.
fn bridge(lab: &Lab) -> Result<()> {
    let (config, balancer) = (lab.config(), lab.node(BALANCER)?);
    let links = config.links();
    let link = links.iter().find(|link| link.ends[1].node == BALANCER).context("no such cable")?;
    let (end, mtu) = (&link.ends[1], link.mtu);
    let mut commands = vec![
        "link add br0 type bridge".to_owned(),
        format!("address flush dev {}", end.interface),
        format!("link set {} master br0", end.interface),
        format!("link set br0 mtu {mtu} up"),
        format!("address add {}/24 dev br0", end.v4),
        format!("address add {}/64 dev br0 nodad", end.v6),
    ];
    for route in config.routes().iter().filter(|route| route.node == BALANCER) {
        commands.push(format!("-4 route replace {} via {}", route.to_v4, route.via_v4));
        commands.push(format!("-6 route replace {} via {}", route.to_v6, route.via_v6));
    }
    for command in commands {
        run::capture(balancer.command("ip").args(command.split(' ')))?;
    }
    Ok(())
}

/// Runs a test on a scene with the usual services.
pub(crate) fn on_usual(test: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let mut scene = Scene::up()?;
    let result = test(&mut scene);
    scene.judge(result)
}

/// The services of most tests: HTTP and echo over both families, echo over UDP; each has `backends` of the lab's backends.
pub(crate) fn usual(lab: &lab::Config, backends: u8) -> String {
    let http = "{ kind = \"http\", path = \"/healthz\", expect = 200 }";
    let tcp = format!("{{ kind = \"tcp\", port = {PORT}, interval = \"300ms\" }}");
    let v4: Vec<String> = (0..backends).map(|index| lab.backend_address(index).0.to_string()).collect();
    let v6: Vec<String> = (0..backends).map(|index| lab.backend_address(index).1.to_string()).collect();
    [
        service("web", &format!("tcp/{VIP_V4}:80"), http, &v4),
        service("web6", &format!("tcp/[{VIP_V6}]:80"), http, &v6),
        service("echo", &format!("tcp/{VIP_V4}:{PORT}"), &tcp, &v4),
        service("echo6", &format!("tcp/[{VIP_V6}]:{PORT}"), &tcp, &v6),
        service("udp", &format!("udp/{VIP_V4}:{PORT}"), &tcp, &v4),
        service("udp6", &format!("udp/[{VIP_V6}]:{PORT}"), &tcp, &v6),
    ]
    .concat()
}

/// One service; its backends have the names of the lab.
pub(crate) fn service(name: &str, listen: &str, health: &str, addresses: &[String]) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nmax_backends = 20\nhealth = {health}\n"
    );
    for (index, address) in (0..).zip(addresses) {
        let name = backend_name(index);
        text += &format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

/// The binaries that cargo built next to this program.
fn binaries() -> Result<Binaries> {
    let this = std::env::current_exe()?;
    let directory: PathBuf =
        this.parent().and_then(|deps| deps.parent()).context("no target directory")?.to_owned();
    Binaries::in_directory(&directory).context("`cargo build -p lb-userspace` builds what these tests run")
}

/// Looks again and again until the look succeeds; a look that fails with an error is repeated, too.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    wait::until(what, wait::limit(), || Ok(wait::attempt(look())?.and_then(|look| look)))
}

/// Fails if one of the requests failed.
pub(crate) fn none_failed(answers: &[Result<String, String>]) -> Result<()> {
    let failed: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    ensure!(failed.is_empty(), "{} of {} requests failed: {}", failed.len(), answers.len(), failed[0]);
    Ok(())
}
