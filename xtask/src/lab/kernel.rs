//! From the plan to namespaces: a few `ip` batches, sysctls and `ethtool` calls. What is made is decided in `topology`.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    node::Node,
    record,
    topology::{Config, End, ROUTER, VIP_V4, VIP_V6, backend_name},
    xdp::{self, PassProgram},
};
use crate::run;

/// Makes everything of the plan; on failure what was made so far is still there, to be swept.
pub(super) fn make(config: &Config) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for name in config.nodes() {
        let namespace = config.namespace(&name);
        run::capture(Command::new("ip").args(["netns", "add", &namespace]))?;
        let bpffs = record::bpffs(&config.prefix, &name);
        fs::create_dir_all(&bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
        xdp::mount_bpffs(&bpffs)?;
        let node = Node::open(&name, &namespace, &bpffs)?;
        sysctls(&node)?;
        nodes.push(node);
    }
    ip_batch(Command::new("ip"), &cables(config)).context("cannot make the cables")?;
    for node in &nodes {
        ip_batch(node.command("ip"), &node_batch(config, &node.name))
            .with_context(|| format!("node {}: cannot set addresses and routes", node.name))?;
        offloads(config, node)?;
    }
    let pass = PassProgram::load(&record::bpffs(&config.prefix, ROUTER))?;
    for (name, interface) in config.xdp_receivers() {
        let node = nodes.iter().find(|node| node.name == name).context("no such node")?;
        pass.attach(node, &interface)?;
    }
    Ok(nodes)
}

/// `ip -batch` lines that make the cables, straight into their namespaces.
fn cables(config: &Config) -> String {
    let mut batch = String::new();
    for link in config.links() {
        let [a, b] = &link.ends;
        let place =
            |end: &End| format!("{} netns {} mtu {}", end.interface, config.namespace(&end.node), link.mtu);
        writeln!(batch, "link add {} type veth peer name {}", place(a), place(b)).ok();
    }
    batch
}

/// `ip -batch` lines for one node.
fn node_batch(config: &Config, node: &str) -> String {
    let mut batch = "link set lo up\n".to_owned();
    for end in config.links().iter().flat_map(|link| &link.ends).filter(|end| end.node == node) {
        let End { node: _, interface, v4, v6 } = end;
        writeln!(batch, "address add {v4}/24 dev {interface}").ok();
        writeln!(batch, "address add {v6}/64 dev {interface} nodad").ok();
        writeln!(batch, "link set {interface} up").ok();
    }
    if (0..config.backends).any(|index| backend_name(index) == node) {
        writeln!(batch, "address add {VIP_V4}/32 dev lo").ok();
        writeln!(batch, "address add {VIP_V6}/128 dev lo nodad").ok();
    }
    for route in config.routes().iter().filter(|route| route.node == node) {
        writeln!(batch, "route add {} via {}", route.to_v4, route.via_v4).ok();
        writeln!(batch, "route add {} via {}", route.to_v6, route.via_v6).ok();
    }
    batch
}

fn ip_batch(mut ip: Command, batch: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `ip`")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch.as_bytes()).ok(); // when it ends early, its own message is the better one
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip -batch`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Settings of a node, made before it has interfaces, which take theirs from `default`.
fn sysctls(node: &Node) -> Result<()> {
    let mut settings = vec![
        // Answers of a backend come from an address the route back does not point to.
        ("ipv4/conf/{}/rp_filter", "0"),
        ("ipv6/conf/{}/accept_dad", "0"),
        ("ipv6/conf/{}/accept_ra", "0"),
        ("ipv6/conf/{}/disable_ipv6", "0"),
    ];
    if node.name == ROUTER {
        settings.push(("ipv4/conf/{}/forwarding", "1"));
        settings.push(("ipv6/conf/{}/forwarding", "1"));
        settings.push(("ipv4/conf/{}/send_redirects", "0"));
    }
    if node.name.starts_with("backend-") {
        // The virtual address on `lo` is not to be answered for on the wire.
        settings.push(("ipv4/conf/{}/arp_ignore", "1"));
        settings.push(("ipv4/conf/{}/arp_announce", "2"));
    }
    node.enter(|| {
        for (setting, value) in settings {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/{}", setting.replace("{}", scope));
                fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))?;
            }
        }
        Ok(())
    })?
}

/// Packets must look on a cable as on a wire: whole checksums, no segments above the MTU, VLAN tags in the packet. XDP
/// sees and sends on exactly what is in the buffer.
fn offloads(config: &Config, node: &Node) -> Result<()> {
    let links = config.links();
    for end in links.iter().flat_map(|link| &link.ends).filter(|end| end.node == node.name) {
        let mut ethtool = node.command("ethtool");
        ethtool.args(["-K", &end.interface]);
        ethtool.args(["tx", "off", "tso", "off", "gso", "off", "gro", "off", "txvlan", "off"]);
        run::capture(&mut ethtool).with_context(|| format!("node {}: {}", node.name, end.interface))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_gets_its_virtual_addresses_and_the_router_does_not() {
        let config = Config::default();
        let vip = format!("address add {VIP_V4}/32 dev lo\n");
        assert!(node_batch(&config, "backend-1").contains(&vip));
        assert!(!node_batch(&config, "router").contains(&vip));
    }

    #[test]
    fn the_router_sends_the_virtual_address_to_the_balancer() {
        let batch = node_batch(&Config::default(), "router");
        assert!(batch.contains("route add 203.0.113.10/32 via 10.0.0.2\n"), "{batch}");
        assert!(batch.contains("route add 2001:db8::10/128 via fd00::2\n"), "{batch}");
    }

    #[test]
    fn cables_are_made_in_their_namespaces_with_their_mtu() {
        let batch = cables(&Config::default());
        let first = batch.lines().next().unwrap();
        assert_eq!(
            first,
            "link add client netns lb-lab-router mtu 1500 type veth peer name eth0 netns lb-lab-client mtu 1500"
        );
    }
}
