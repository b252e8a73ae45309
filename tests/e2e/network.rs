//! The network under the balancer changes: a neighbour's address, the interface itself.

use anyhow::{Context, Result, ensure};
use xtask::{
    lab::{BALANCER, Node, ROUTER, backend_name, bpffs, xdp::PassProgram},
    run,
    wait::Look,
};

use crate::{
    Test,
    client::{requests, spread},
    scene::{BACKENDS, Scene, none_failed, on_usual, until},
};

pub(crate) const TESTS: &[Test] = &[
    ("network::a_backend_that_changes_its_mac_address_is_followed", mac),
    ("network::a_recreated_interface_is_attached_again", interface),
];

fn ip(node: &Node, arguments: &str) -> Result<()> {
    run::capture(node.command("ip").args(arguments.split(' '))).map(drop)
}

/// Whether all backends answer, and all requests are answered.
fn all_answer(scene: &Scene) -> Result<Look<()>> {
    for v6 in [false, true] {
        let answers = requests(&scene.lab, v6, 40)?;
        none_failed(&answers)?;
        let spread = spread(&answers);
        if spread.len() < usize::from(BACKENDS) {
            return Ok(Err(format!("IPv{}: {spread:?}", if v6 { 6 } else { 4 })));
        }
    }
    Ok(Ok(()))
}

fn mac() -> Result<()> {
    on_usual(|scene| {
        let last = BACKENDS - 1;
        let node = scene.lab.node(&backend_name(last))?;
        // As hosts that take over an address do: they announce the change.
        node.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/eth1/arp_notify", "1")
                .and_then(|()| std::fs::write("/proc/sys/net/ipv6/conf/eth1/ndisc_notify", "1"))
        })??;
        ip(node, "link set dev eth1 address 02:00:00:00:0e:2e")?;
        until("all backends answer", || all_answer(scene))?;
        let backend = scene.agent.ctl(&["backend", "show", &format!("web/{}", backend_name(last))])?;
        ensure!(backend["next_hop"]["mac"] == "02:00:00:00:0e:2e", "{backend}");
        Ok(())
    })
}

fn interface() -> Result<()> {
    on_usual(|scene| {
        let config = scene.lab.config().clone();
        let (router, balancer) = (scene.lab.node(ROUTER)?, scene.lab.node(BALANCER)?);
        ip(balancer, "link delete dev eth0")?;
        let attached = || -> Result<String> {
            let status = scene.agent.ctl(&["status"])?;
            Ok(status["interfaces"][0]["attached"].as_str().unwrap_or_default().to_owned())
        };
        until("the agent says that the interface is gone", || {
            let mode = attached()?;
            Ok(if mode == "detached" { Ok(()) } else { Err(mode) })
        })?;
        let events = scene.agent.events()?;
        ensure!(events.iter().any(|event| event["kind"] == "interface_gone"), "no event: {events:?}");

        let links = config.links();
        let link = links.iter().find(|link| link.ends[1].node == BALANCER).context("no such cable")?;
        let far = config.namespace(BALANCER);
        ip(
            router,
            &format!("link add {BALANCER} mtu {0} type veth peer name eth0 mtu {0} netns {far}", link.mtu),
        )?;
        for end in &link.ends {
            let node = scene.lab.node(&end.node)?;
            ip(node, &format!("address add {}/24 dev {}", end.v4, end.interface))?;
            ip(node, &format!("address add {}/64 dev {} nodad", end.v6, end.interface))?;
            run::capture(node.command("ethtool").args([
                "-K",
                &end.interface,
                "tx",
                "off",
                "tso",
                "off",
                "gso",
                "off",
                "gro",
                "off",
                "txvlan",
                "off",
            ]))?;
        }
        PassProgram::load(&bpffs(&config.prefix, ROUTER))?.attach(router, BALANCER)?;
        for end in &link.ends {
            ip(scene.lab.node(&end.node)?, &format!("link set dev {} up", end.interface))?;
        }
        for route in config.routes() {
            if route.node == BALANCER || route.node == ROUTER {
                let node = scene.lab.node(&route.node)?;
                ip(node, &format!("route replace {} via {}", route.to_v4, route.via_v4))?;
                ip(node, &format!("route replace {} via {}", route.to_v6, route.via_v6))?;
            }
        }
        until("the agent attaches again", || {
            let mode = attached()?;
            Ok(if mode == "detached" { Err(mode) } else { Ok(()) })
        })?;
        until("all backends answer", || all_answer(scene))
    })
}
