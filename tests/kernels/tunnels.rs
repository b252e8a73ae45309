//! Foreign judges: the kernel's tunnel devices, set up by the commands of `doc/backend.md`, take off what the balancer puts
//! on; and `lb_decap` takes off what the kernel's devices put on. Real TCP goes both ways, 10 MB each.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use xtask::{
    kernels::report::{Group, judged},
    run, wait,
};

use crate::{
    doc, say,
    site::{self, Site, binary, node, shell},
};

/// An encapsulation: its name, the configuration's word, the address of its service, the backend's address of the outer family,
/// the device of the documents that takes the outer header off, and a device that puts it on; empty = none, as there is no
/// header.
struct Kind {
    name: &'static str,
    word: &'static str,
    listen: &'static str,
    url: &'static str,
    address: &'static str,
    device: &'static str,
    maker: &'static str,
}

const KINDS: [Kind; 10] = [
    Kind {
        name: "ipip",
        word: "ipip",
        listen: "tcp/203.0.113.10:80",
        url: "http://203.0.113.10:80",
        address: "10.0.0.11",
        device: "tunl0",
        maker: "ipip local 10.0.0.2 remote 10.0.0.11",
    },
    Kind {
        name: "ip6ip",
        word: "ip6ip",
        listen: "tcp/[2001:db8::10]:80",
        url: "http://[2001:db8::10]:80",
        address: "10.0.0.11",
        device: "sit0",
        maker: "sit local 10.0.0.2 remote 10.0.0.11",
    },
    Kind {
        name: "ipip6",
        word: "ipip6",
        listen: "tcp/203.0.113.10:81",
        url: "http://203.0.113.10:81",
        address: "2001:db8:1::11",
        device: "lb-ip6",
        maker: "ip6tnl mode any local 2001:db8:1::2 remote 2001:db8:1::11",
    },
    Kind {
        name: "ip6ip6",
        word: "ip6ip6",
        listen: "tcp/[2001:db8::10]:81",
        url: "http://[2001:db8::10]:81",
        address: "2001:db8:1::11",
        device: "lb-ip6",
        maker: "ip6tnl mode any local 2001:db8:1::2 remote 2001:db8:1::11",
    },
    Kind {
        name: "gue-4in4",
        word: "gue",
        listen: "tcp/203.0.113.10:82",
        url: "http://203.0.113.10:82",
        address: "10.0.0.11",
        device: "tunl0",
        maker: "ipip local 10.0.0.2 remote 10.0.0.11 encap fou encap-sport auto encap-dport 6080",
    },
    Kind {
        name: "gue-6in4",
        word: "gue",
        listen: "tcp/[2001:db8::10]:82",
        url: "http://[2001:db8::10]:82",
        address: "10.0.0.11",
        device: "sit0",
        maker: "sit local 10.0.0.2 remote 10.0.0.11 encap fou encap-sport auto encap-dport 6080",
    },
    Kind {
        name: "gue-4in6",
        word: "gue",
        listen: "tcp/203.0.113.10:83",
        url: "http://203.0.113.10:83",
        address: "2001:db8:1::11",
        device: "lb-ip6",
        maker: "ip6tnl mode any local 2001:db8:1::2 remote 2001:db8:1::11 encap fou encap-sport auto encap-dport 6080",
    },
    Kind {
        name: "gue-6in6",
        word: "gue",
        listen: "tcp/[2001:db8::10]:83",
        url: "http://[2001:db8::10]:83",
        address: "2001:db8:1::11",
        device: "lb-ip6",
        maker: "ip6tnl mode any local 2001:db8:1::2 remote 2001:db8:1::11 encap fou encap-sport auto encap-dport 6080",
    },
    Kind {
        name: "l2-ipv4",
        word: "l2",
        listen: "tcp/203.0.113.10:84",
        url: "http://203.0.113.10:84",
        address: "10.0.0.11",
        device: "eth0",
        maker: "",
    },
    Kind {
        name: "l2-ipv6",
        word: "l2",
        listen: "tcp/[2001:db8::10]:84",
        url: "http://[2001:db8::10]:84",
        address: "2001:db8:1::11",
        device: "eth0",
        maker: "",
    },
];

/// The least number of frames for 10 MB, in segments of at most 1,460 bytes.
const FRAMES: u64 = 10_000_000 / 1460;

pub(crate) fn check() {
    if run::find("nginx").is_none() {
        say::left(Group::Tunnels, "all of it", "there is no nginx");
        return;
    }
    let mut site = None;
    let up = say::check(Group::Tunnels, "a site with a web server", || {
        site = Some(Site::up()?);
        Ok(String::new())
    });
    let Some(_site) = site.filter(|_| up) else { return };
    if say::check(Group::Tunnels, "the commands of doc/backend.md", documented) {
        let mut agent = None;
        if say::check(Group::Tunnels, "the agent finds the backend up", || {
            agent = Some(start()?);
            Ok(String::new())
        }) {
            for kind in &KINDS {
                say::check(Group::Tunnels, &judged(kind.device, kind.name), || taken_off(kind));
            }
        }
        if let Some(mut agent) = agent {
            agent.kill().ok();
            agent.wait().ok();
        }
    }
    if say::check(Group::Tunnels, "lb_decap in place of the tunnel devices", swap) {
        for kind in KINDS.iter().filter(|kind| !kind.maker.is_empty()) {
            say::check(Group::Tunnels, &judged("lb_decap", kind.name), || put_on_by_the_kernel(kind));
        }
    }
}

/// Types the documented commands on the backend.
fn documented() -> Result<String> {
    for (heading, blocks) in [
        ("ARP", 1),
        ("The VIP on `lo`", 1),
        ("With the kernel's tunnel devices", 2),
        ("GUE", 1),
        ("rp_filter", 1),
    ] {
        shell("backend", &doc::commands(heading, blocks)?).with_context(|| format!("\"{heading}\""))?;
    }
    Ok(String::new())
}

/// Starts the agent with a service for each kind, and waits until each service has its backend.
fn start() -> Result<Child> {
    let state = Path::new(site::DIRECTORY).join("state");
    fs::create_dir_all(&state)?;
    let mut text = format!(
        "[node]\ninterface = \"eth0\"\nseed = \"site\"\nstate_directory = \"{}\"\n\n[limits]\nservices = 16\n\
         backends = 64\nslots = 65536\nflows = 8192\n",
        state.display()
    );
    for Kind { name, word, listen, address, .. } in &KINDS {
        text += &format!(
            "\n[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\nmax_backends = 2\n\
             encapsulation = \"{word}\"\n\
             health = {{ kind = \"tcp\", port = 80, timeout = \"20s\" }}\n\
             [[service.backend]]\nname = \"b\"\naddress = \"{address}\"\n"
        );
    }
    let file = Path::new(site::DIRECTORY).join("lb.toml");
    fs::write(&file, text)?;
    let log = fs::File::create(Path::new(site::DIRECTORY).join("lbd.log"))?;
    let mut command = node("balancer")?.command(binary("lbd"));
    command.arg("--config").arg(&file).args(["--instance", "site"]);
    let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let up = wait::until("every service has its backend", wait::limit(), || {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "lbd has ended");
        for kind in &KINDS {
            let shown = match shown(kind.name) {
                Ok(shown) if shown["state"] == "up" => continue,
                Ok(shown) => shown.to_string(),
                Err(error) => format!("{error:#}"),
            };
            return Ok(Err(format!("{}: {shown}", kind.name)));
        }
        Ok(Ok(()))
    });
    if up.is_err() {
        child.kill().ok();
        child.wait().ok();
    }
    up.with_context(|| {
        let log = fs::read_to_string(Path::new(site::DIRECTORY).join("lbd.log")).unwrap_or_default();
        format!("its log, backwards: {}", log.lines().rev().take(8).collect::<Vec<_>>().join(" | "))
    })?;
    Ok(child)
}

/// The agent's answer about the backend of a service.
fn shown(service: &str) -> Result<serde_json::Value> {
    let ask = format!("{} --instance site -o json backend show {service}/b", binary("lbctl"));
    Ok(serde_json::from_str(&shell("balancer", &ask)?)?)
}

/// Both transfers through the balancer. The kernel's device must see their packets come in, and no program of ours may.
fn taken_off(kind: &Kind) -> Result<String> {
    let before = received(kind.device)?;
    let seen = site::transfer(kind.url)?;
    let frames = received(kind.device)? - before;
    ensure!(frames >= FRAMES, "{} took off {frames} packets", kind.device);
    let link = shell("backend", "ip -j link show dev eth0")?;
    ensure!(!link.contains("xdp"), "there is an XDP program on the backend: {link}");
    Ok(format!("{seen}, {frames} packets by {}", kind.device))
}

/// Packets that a device of the backend has received.
fn received(device: &str) -> Result<u64> {
    let text = shell("backend", &format!("ip -j -s link show dev {device}"))?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let count = links[0]["stats64"]["rx"]["packets"].as_u64().or(links[0]["stats"]["rx"]["packets"].as_u64());
    count.with_context(|| format!("{device}: no count in {text}"))
}

/// Takes the tunnel devices off the backend and attaches our program there; the balancer becomes a router without our program.
fn swap() -> Result<String> {
    let lbd = binary("lbd");
    shell("balancer", &format!("{lbd} --instance site --detach"))?;
    let settings =
        ["ip_forward=1", "conf.all.rp_filter=0", "conf.eth0.rp_filter=0", "conf.all.send_redirects=0"];
    for setting in settings {
        shell("balancer", &format!("sysctl -qw net.ipv4.{setting}"))?;
    }
    shell("balancer", "sysctl -qw net.ipv4.conf.eth0.send_redirects=0 net.ipv6.conf.all.forwarding=1")?;
    shell("backend", "ip link delete lb-ip6; ip link set tunl0 down; ip link set sit0 down")?;
    shell("backend", "ip fou del port 6080; ip -6 fou del port 6080")?;
    // Only what sends GUE over IPv6 needs it.
    shell("balancer", "modprobe fou6")?;
    let addresses = "--address 10.0.0.11 --address 2001:db8:1::11";
    shell("backend", &format!("{lbd} decap attach --interface eth0 {addresses} --kind ipip --kind gue"))
}

/// Both transfers; a device of the kernel on the balancer encapsulates them.
fn put_on_by_the_kernel(kind: &Kind) -> Result<String> {
    let vip =
        if kind.listen.contains('[') { "-6 route add 2001:db8::10/128" } else { "route add 203.0.113.10/32" };
    shell(
        "balancer",
        &format!("ip link add maker type {}; ip link set maker up; ip {vip} dev maker", kind.maker),
    )?;
    let before = decapsulated()?;
    let seen = site::transfer(kind.url);
    shell("balancer", "ip link delete maker")?;
    let seen = seen?;
    let frames = decapsulated()? - before;
    ensure!(frames >= FRAMES, "lb_decap took off {frames} packets");
    Ok(format!("{seen}, {frames} packets by lb_decap"))
}

fn decapsulated() -> Result<u64> {
    let text = shell("backend", &format!("{} decap stats --interface eth0 -o json", binary("lbd")))?;
    let stats: serde_json::Value = serde_json::from_str(&text)?;
    stats["counters"]["decapsulated"].as_u64().with_context(|| format!("no counter in {text}"))
}
