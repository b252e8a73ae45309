//! Foreign judges, on this host: the kernel's seg6local and a plain decapsulator that knows nothing of our code (`tun`) take
//! off what the balancer encapsulates, with real TCP through the whole path. The kernel's tunnel devices are the judges in
//! `cargo xtask kernels`, whose kernels all have them.

use anyhow::{Context, Result, ensure};
use lb_tests::privilege::skip;
use xtask::{
    lab::{self, Node, VIP_V4, VIP_V6, backend_name},
    run,
};

use crate::{
    Test,
    client::{curl, there_and_back},
    echo::PORT,
    scene::{Scene, service},
    tun::{Decapsulator, Families},
};

pub(crate) const TESTS: &[Test] = &[
    ("decapsulators::seg6local_takes_off_ipip6", || seg6local(&IPIP6)),
    ("decapsulators::seg6local_takes_off_ip6ip6", || seg6local(&IP6IP6)),
    ("decapsulators::a_tun_device_takes_off_ipip", || tun(&IPIP)),
    ("decapsulators::a_tun_device_takes_off_ip6ip", || tun(&IP6IP)),
    ("decapsulators::a_tun_device_takes_off_ipip6", || tun(&IPIP6)),
    ("decapsulators::a_tun_device_takes_off_ip6ip6", || tun(&IP6IP6)),
];

/// An encapsulation, under the name of the kernel's device for it.
struct Kind {
    name: &'static str,
    families: Families,
}

const IPIP: Kind = Kind { name: "ipip", families: Families { outer_v6: false, inner_v6: false } };
const IP6IP: Kind = Kind { name: "ip6ip", families: Families { outer_v6: false, inner_v6: true } };
const IPIP6: Kind = Kind { name: "ipip6", families: Families { outer_v6: true, inner_v6: false } };
const IP6IP6: Kind = Kind { name: "ip6ip6", families: Families { outer_v6: true, inner_v6: true } };

/// The number of bytes that are sent and come back.
const BYTES: usize = 8_000_000;

/// The least number of packets for these bytes, in segments of at most 1,460 bytes.
const PACKETS: u64 = BYTES as u64 / 1460;

/// The routing table for packets whose outer header must be taken off.
const TABLE: &str = "100";

/// The only backend of these labs.
const BACKEND: u8 = 0;

/// The backend's address is a local one, and seg6local needs a route: so tunnel packets use a table that comes before the table
/// of local addresses. The health checks to the same address are still answered.
fn seg6local(kind: &Kind) -> Result<()> {
    let (scene, node) = scene(kind)?;
    let address = scene.lab.config().backend_address(BACKEND).1;
    let (protocol, action) =
        if kind.families.inner_v6 { ("41", "End.DT6 table 255") } else { ("4", "End.DX4 nh4 0.0.0.0") };
    let route =
        format!("route add {address}/128 table {TABLE} encap seg6local action {action} count dev eth0");
    let test = format!("decapsulators::seg6local_takes_off_{}", kind.name);
    if let Err(error) = ip(&node, &route) {
        let said = format!("{error:#}");
        let missing = ["not supported", "is not enabled", "argument \"seg6local\"", "argument \"count\""];
        ensure!(missing.iter().any(|words| said.contains(words)), error);
        skip(&test, "the kernel or `ip` has no seg6local (CONFIG_IPV6_SEG6_LWTUNNEL)");
        return Ok(());
    }
    let taken = || -> Result<Option<u64>> {
        let shown = ip(&node, &format!("-s route show table {TABLE}"))?;
        let number = shown.split(" packets ").nth(1).and_then(|rest| rest.split(' ').next());
        number.map(|number| number.parse().with_context(|| format!("no count in {shown}"))).transpose()
    };
    if taken()?.is_none() {
        skip(&test, "the kernel's seg6local does not count; kernels from 5.14 on do");
        return Ok(());
    }
    ip(&node, "rule add pref 2 lookup local")?;
    ip(&node, &format!("rule add pref 1 ipproto {protocol} lookup {TABLE}"))?;
    ip(&node, "rule delete pref 0")?;
    judge(scene, "seg6local", kind, || taken()?.context("seg6local has ceased to count"))
}

fn tun(kind: &Kind) -> Result<()> {
    let (scene, node) = scene(kind)?;
    let Some(decapsulator) = Decapsulator::start(&node, kind.families)? else {
        let test = format!("decapsulators::a_tun_device_takes_off_{}", kind.name);
        skip(&test, "there is no TUN device to be had (/dev/net/tun, CONFIG_TUN)");
        return Ok(());
    };
    judge(scene, "a TUN device", kind, || {
        ensure!(decapsulator.refused() == 0, "{} packets were refused", decapsulator.refused());
        Ok(decapsulator.taken())
    })
}

fn ip(node: &Node, arguments: &str) -> Result<String> {
    run::capture(node.command("ip").arg("-6").args(arguments.split(' ')))
}

/// A lab with one backend, on which no program takes outer headers off yet.
fn scene(kind: &Kind) -> Result<(Scene, Node)> {
    let config = lab::Config { backends: 1, direct: false, ..Scene::lab() };
    let (v4, v6, _) = config.backend_address(BACKEND);
    let address = [if kind.families.outer_v6 { v6.to_string() } else { v4.to_string() }];
    let vip = if kind.families.inner_v6 { format!("[{VIP_V6}]") } else { VIP_V4.to_string() };
    let services =
        service("web", &format!("tcp/{vip}:80"), "{ kind = \"http\", path = \"/healthz\" }", &address)
            + &service(
                "echo",
                &format!("tcp/{vip}:{PORT}"),
                &format!("{{ kind = \"tcp\", port = {PORT} }}"),
                &address,
            );
    let scene = Scene::without_decapsulation(&config, &services)?;
    let node = scene.lab.node(&backend_name(BACKEND))?.clone();
    Ok((scene, node))
}

/// Fetches a page of the web server, and sends megabytes both ways. `taken` counts the packets whose outer header was taken
/// off: all packets of this traffic, and no more than the balancer has forwarded. `who` is the decapsulator.
fn judge(scene: Scene, who: &str, kind: &Kind, taken: impl Fn() -> Result<u64>) -> Result<()> {
    let result = (|| {
        let v6 = kind.families.inner_v6;
        let forwarded = |scene: &Scene| scene.agent.counter("forwarded_tx");
        let before = (taken()?, forwarded(&scene)?);
        let page = curl(&scene.lab, v6, "/")?;
        ensure!(page == backend_name(BACKEND), "curl got {page:?}");
        there_and_back(&scene.lab, v6, BYTES)?;
        let (taken, forwarded) = (taken()? - before.0, forwarded(&scene)? - before.1);
        ensure!((PACKETS..=forwarded).contains(&taken), "of {forwarded} packets {taken} were taken off");
        let link = ip(scene.lab.node(&backend_name(BACKEND))?, "link show dev eth0")?;
        ensure!(!link.contains("xdp"), "there is an XDP program on the backend: {link}");
        Ok(format!("passed, {taken} of {forwarded} packets"))
    })();
    let verdict = result.as_ref().map_or("failed", String::as_str);
    println!("counted foreign decapsulator {who}, {}: {verdict}", kind.name);
    scene.judge(result.map(drop))
}
