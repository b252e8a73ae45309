//! The agent is killed, and restarted, while the balancer's neighbours do not answer: next hops that worked are kept, and packets
//! go on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Progress, hiccup,
    report::Check,
    rig::Rig,
    script::Act,
    world::{BACKENDS, SERVICES},
};
use crate::{
    lab::{BALANCER, Node, backend_name},
    run, wait,
};

/// What the balancer does not hear any more: answers and questions of neighbours, of both families.
const DEAF: &str = "table arp deaf {\nchain in {\ntype filter hook input priority 0; policy drop;\n}\n}\n\
    table ip6 deaf {\nchain in {\ntype filter hook input priority 0; policy accept;\n\
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } drop\n}\n}\n";
const HEARING: &str = "delete table arp deaf\ndelete table ip6 deaf\n";

/// How long packets go on after each start.
const BLIND: Duration = Duration::from_secs(8);

/// Makes the balancer deaf, restarts its agent twice, and lets it hear again; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let lost_before = super::counters(rig)?.get("no_next_hop");
    let before = next_hops(rig)?;
    know_the_balancer(rig)?;
    rig.load.book().begin("neighbours fall silent");
    rules(rig.lab.node(BALANCER)?, DEAF)?;
    let mut checks = Vec::new();
    for ends in [Act::AgentKill, Act::AgentStop] {
        rig.carry_out(&ends)?;
        forget_neighbours(rig)?;
        rig.carry_out(&Act::AgentStart)?;
        progress.wait(rig, Instant::now() + BLIND)?;
        let used = next_hops(rig)?;
        let (kept, all) = (used.iter().filter(|mac| mac.is_string()).count(), used.len());
        checks.push(Check {
            what: format!("{kept} of {all} next hops are used although their neighbour is silent"),
            good: kept == all && used == before,
        });
    }
    let known = neighbours(rig)?.iter().filter(|one| one["lladdr"].is_string()).count();
    checks.push(Check { what: format!("{known} neighbours had answered until then"), good: known == 0 });
    rig.load.book().begin("neighbours answer again");
    rules(rig.lab.node(BALANCER)?, HEARING)?;
    wait::until("every check passes again", wait::limit(), || {
        let status = rig.agent.ctl(&["status"])?;
        let services = status["services"].as_array().into_iter().flatten();
        let failing = services.filter(|service| service["backends_healthy"] != service["backends_enabled"]);
        let failing: Vec<String> = failing.map(|service| service["name"].to_string()).collect();
        Ok(if failing.is_empty() { Ok(()) } else { Err(failing.join(", ")) })
    })?;
    progress.wait(rig, Instant::now() + Duration::from_secs(3))?;
    let lost = super::counters(rig)?.get("no_next_hop") - lost_before;
    checks.push(Check { what: format!("{lost} packets had no next hop"), good: lost == 0 });
    Ok((
        format!("the agent was started twice while no neighbour answered; {lost} packets had no next hop"),
        checks,
    ))
}

/// Neighbours know the balancer for good: it does not answer them while it is deaf.
fn know_the_balancer(rig: &Rig) -> Result<()> {
    let links = json(rig.lab.node(BALANCER)?, &["-json", "address", "show"])?;
    let mut batches: Vec<(String, String)> = Vec::new();
    for link in rig.lab.config().links() {
        let [one, other] = &link.ends;
        let (ours, theirs) = match BALANCER {
            name if one.node == name => (one, other),
            name if other.node == name => (other, one),
            _ => continue,
        };
        let shown = links.iter().find(|shown| shown["ifname"] == ours.interface.as_str());
        let mac = shown
            .and_then(|shown| shown["address"].as_str())
            .context("the balancer has no such interface")?;
        let neighbour = |address: &str| {
            format!("neighbour replace {address} lladdr {mac} nud permanent dev {}\n", theirs.interface)
        };
        let batch = neighbour(&ours.v4.to_string()) + &neighbour(&ours.v6.to_string());
        batches.push((theirs.node.clone(), batch));
    }
    for (node, batch) in batches {
        hiccup::ip(rig.lab.node(&node)?, &batch)?;
    }
    Ok(())
}

fn forget_neighbours(rig: &Rig) -> Result<()> {
    run::capture(rig.lab.node(BALANCER)?.command("ip").args(["neighbour", "flush", "all"])).map(drop)
}

fn neighbours(rig: &Rig) -> Result<Vec<Value>> {
    json(rig.lab.node(BALANCER)?, &["-json", "neighbour", "show"])
}

/// The hardware address that packets to each backend of the first service have.
fn next_hops(rig: &Rig) -> Result<Vec<Value>> {
    let backends = (0..BACKENDS).filter(|backend| rig.world.place(0, *backend).is_some());
    let of = |backend| {
        let object = format!("{}/{}", SERVICES[0].name, backend_name(backend));
        Ok(rig.agent.ctl(&["backend", "show", &object])?["next_hop"]["mac"].clone())
    };
    backends.map(of).collect()
}

fn rules(node: &Node, text: &str) -> Result<()> {
    let script = format!("nft -f - <<'END'\n{text}END\n");
    run::capture(node.command("sh").args(["-c", &script])).map(drop)
}

fn json(node: &Node, arguments: &[&str]) -> Result<Vec<Value>> {
    let text = run::capture(node.command("ip").args(arguments))?;
    serde_json::from_str(&text).context("`ip -json` printed no JSON")
}
