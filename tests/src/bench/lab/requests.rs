//! Requests of real clients: straight to a backend, through our load balancer, and through the usual alternatives on one host,
//! on the same cables and in the same run.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xtask::{
    lab::{self, BALANCER, CLIENT, Lab, Node, VIP_V4, backend_name},
    run,
    stack::{self, agent::Agent},
};

use super::{
    super::row::{Definition, Formula, Part, quantile},
    Bench, SERVICE,
    agent::{detach, wait_until_in_ring},
    client::{self, Load, PORT},
};

const CLIENTS: usize = 8;
const ROUNDS: u32 = 3;
const TIME: Duration = Duration::from_secs(2);
/// Shares of the rate that the way through us can take, in %.
const LOADS: [u32; 3] = [10, 50, 90];
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Ways of a request: id, description, and for peers the port at the balancer's own address.
const WAYS: [(&str, &str, Option<u16>); 5] = [
    ("direct", "straight to a backend", None),
    ("lb", "through lb_xdp", None),
    ("haproxy", "through HAProxy in TCP mode", Some(7001)),
    ("nginx", "through nginx stream", Some(7002)),
    ("nftables", "through nftables (numgen and DNAT)", Some(7003)),
];

pub(super) fn definitions() -> Vec<Definition> {
    let row = |id: String, unit, what: String| Definition::new(Part::Lab, id, unit, what).quick(false);
    let mut rows = Vec::new();
    for (way, what, _) in WAYS {
        let of = format!("{CLIENTS} clients that wait for each answer, {what}");
        rows.push(row(format!("requests/{way}/rate"), "per second", format!("requests: {of}")));
        let reconnect = format!("connections, a new one for each request: {of}");
        rows.push(row(format!("requests/{way}/connections"), "per second", reconnect));
        let busy = "processor time of the whole machine, clients and other work included, for 1,000 requests";
        rows.push(row(format!("requests/{way}/processor"), "ms", format!("{busy}: {of}")));
        let busy = "the same for a million packets that the clients send or take";
        rows.push(row(format!("requests/{way}/packets"), "ms", format!("{busy}: {of}")));
        for load in LOADS {
            for (name, _) in QUANTILES {
                let what =
                    format!("{name} of the answers' times {what}, at {load} % of what lb_xdp's way can take");
                rows.push(row(format!("requests/{way}/load={load}/{name}"), "µs", what));
            }
        }
    }
    for load in LOADS {
        for (name, _) in QUANTILES {
            let of = |way: &str| format!("requests/{way}/load={load}/{name}");
            let what = format!("{name} through us by {name} straight to a backend, at {load} % load");
            let ratio = row(format!("requests/added/load={load}/{name}"), "ratio", what);
            rows.push(ratio.made_of(Formula::Ratio(of("lb"), of("direct"))));
        }
    }
    rows
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let config = bench.lab.config().clone();
    for index in 0..config.backends {
        client::serve(bench.lab.node(&backend_name(index))?)?;
        stack::decap(bench.lab, bench.binaries, index)?;
    }
    let (first, _, _) = config.backend_address(0);
    let direct = SocketAddr::from((first, PORT));
    let ours = SocketAddr::from((VIP_V4, PORT));
    let mut agent = Agent::with(bench.lab, bench.binaries, &configuration(bench.lab)?)?;
    agent.start(bench.lab)?;
    wait_until_in_ring(&agent, u32::from(config.backends))?;
    // The highest rate through us; shares of it are the same load for every way.
    let (_, capacity) = client::run(bench.lab.node(CLIENT)?, load(ours, None, false))?;
    for _ in 0..ROUNDS {
        for (way, to) in [("direct", direct), ("lb", ours)] {
            one_way(bench, way, to, capacity)?;
        }
    }
    agent.stop()?;
    // Without our program: a site with one of the peers does not have it, either.
    detach(bench)?;
    let mut peers = Vec::new();
    for (way, _, port) in WAYS {
        let Some(port) = port.filter(|_| bench.wants(&format!("requests/{way}/"))) else { continue };
        let to = SocketAddr::from((balancer(bench.lab)?, port));
        let started = match way {
            "haproxy" => haproxy(bench, port),
            "nginx" => nginx(bench, port),
            _ => nftables(bench, port),
        };
        match started.and_then(|()| answers(bench, to)) {
            Ok(()) => peers.push((way, to)),
            Err(error) => {
                let why = format!("{error:#}{}", last_words(bench, way));
                bench.skip(&format!("requests/{way}/"), &why);
            }
        }
    }
    for _ in 0..ROUNDS {
        for (way, to) in &peers {
            one_way(bench, way, *to, capacity)?;
        }
    }
    Ok(())
}

fn load(to: SocketAddr, pace: Option<f64>, reconnect: bool) -> Load {
    Load { to, clients: CLIENTS, pace, reconnect, time: TIME }
}

/// One round of the rows of one way.
fn one_way(bench: &mut Bench<'_>, way: &str, to: SocketAddr, capacity: f64) -> Result<()> {
    let client = bench.lab.node(CLIENT)?.clone();
    let run = |load: Load| client::run(&client, load).with_context(|| format!("way {way}"));
    let (before, packets_before) = (busy()?, packets(&client)?);
    let (times, rate) = run(load(to, None, false))?;
    let took = (busy()? - before) * 1e3;
    let packets = packets(&client)?.saturating_sub(packets_before);
    bench.add(&format!("requests/{way}/rate"), rate);
    bench.add(&format!("requests/{way}/processor"), took / (times.len() as f64 / 1e3));
    bench.add(&format!("requests/{way}/packets"), took / (packets as f64 / 1e6));
    let (_, connections) = run(load(to, None, true))?;
    bench.add(&format!("requests/{way}/connections"), connections);
    for share in LOADS {
        let (times, _) = run(load(to, Some(capacity * f64::from(share) / 100.0), false))?;
        for (name, at) in QUANTILES {
            bench.add(&format!("requests/{way}/load={share}/{name}"), quantile(&times, at));
        }
    }
    Ok(())
}

/// Packets that a node's cables have carried so far, both ways (proc(5), `/proc/net/dev`: after the interface's name come bytes
/// and packets received, six more, and bytes and packets sent).
fn packets(node: &Node) -> Result<u64> {
    let text = node.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
    let text = text.context("reading /proc/net/dev")?;
    let of = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        (name.trim() != "lo").then_some(counts.get(1)? + counts.get(9)?)
    };
    Ok(text.lines().filter_map(of).sum())
}

/// Seconds that all processors were busy so far (proc(5), `/proc/stat`).
fn busy() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // All except idle, iowait, and time that other machines took; guests are part of user time already.
    let ticks: u64 =
        fields.iter().enumerate().filter(|(i, _)| ![3, 4, 7, 8, 9].contains(i)).map(|(_, n)| n).sum();
    // SAFETY: sysconf has no memory arguments.
    Ok(ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
}

fn configuration(lab: &Lab) -> Result<String> {
    let state = lab.subdirectory("state")?;
    let mut text = format!(
        "[node]\ninterface = \"eth0\"\nseed = \"bench\"\nstate_directory = \"{}\"\n[[service]]\nname = \"{SERVICE}\"\n\
         listen = \"tcp/{VIP_V4}:{PORT}\"\nmax_backends = 100\nhealth = false\n",
        state.display()
    );
    for index in 0..lab.config().backends {
        let (address, _, _) = lab.config().backend_address(index);
        let name = backend_name(index);
        text.push_str(&format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    }
    Ok(text)
}

/// The balancer's own address towards the router.
fn balancer(lab: &Lab) -> Result<IpAddr> {
    let links = lab.config().links();
    let end =
        links.iter().flat_map(|link| &link.ends).find(|end| end.node == BALANCER && end.interface == "eth0");
    Ok(end.context("the balancer has no eth0")?.v4.into())
}

fn backends(config: &lab::Config) -> Vec<String> {
    (0..config.backends).map(|index| config.backend_address(index).0.to_string()).collect()
}

/// Whether a peer answers, within a second or two after its start.
fn answers(bench: &Bench<'_>, to: SocketAddr) -> Result<()> {
    let client = bench.lab.node(CLIENT)?;
    let mut last = Ok(());
    for _ in 0..40 {
        let once = Load { clients: 1, time: Duration::from_millis(1), ..load(to, None, true) };
        last = client::run(client, once).map(drop);
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    last
}

/// The end of a peer's log, for the message when the peer does not answer.
fn last_words(bench: &Bench<'_>, name: &str) -> String {
    let log = std::fs::read_to_string(bench.lab.log(BALANCER, name)).unwrap_or_default();
    log.lines().last().map_or(String::new(), |line| format!("; it says: {line}"))
}

fn start(bench: &mut Bench<'_>, name: &str, command: Command) -> Result<()> {
    // The lab ends the process.
    bench.lab.start(BALANCER, name, command).map(drop)
}

fn write(bench: &Bench<'_>, name: &str, text: &str) -> Result<String> {
    let file = bench.lab.directory().join(name);
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file.display().to_string())
}

fn haproxy(bench: &mut Bench<'_>, port: u16) -> Result<()> {
    if run::find("haproxy").is_none() {
        bail!("HAProxy is not installed (package haproxy)");
    }
    let mut text = format!(
        "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend in\n  bind :{port}\n  default_backend out\nbackend out\n  balance roundrobin\n"
    );
    for (number, address) in backends(bench.lab.config()).iter().enumerate() {
        text.push_str(&format!("  server backend-{number} {address}:{PORT}\n"));
    }
    let file = write(bench, "haproxy.cfg", &text)?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f", &file]);
    start(bench, "haproxy", command)
}

fn nginx(bench: &mut Bench<'_>, port: u16) -> Result<()> {
    if run::find("nginx").is_none() {
        bail!("nginx is not installed (packages nginx and libnginx-mod-stream)");
    }
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if std::path::Path::new(module).exists() {
        format!("load_module {module};\n")
    } else {
        String::new()
    };
    let directory = bench.lab.directory();
    let mut text = format!(
        "{load}daemon off;\nuser root;\nworker_processes auto;\npid {0}/nginx-stream.pid;\nerror_log {0}/nginx-stream.log;\n\
         events {{ worker_connections 20000; }}\nstream {{\n  upstream backends {{\n",
        directory.display()
    );
    for address in backends(bench.lab.config()) {
        text.push_str(&format!("    server {address}:{PORT};\n"));
    }
    text.push_str(&format!("  }}\n  server {{ listen {port}; proxy_pass backends; tcp_nodelay on; }}\n}}\n"));
    let file = write(bench, "nginx-stream.conf", &text)?;
    let mut test = Command::new("nginx");
    test.args(["-t", "-c", &file]);
    run::capture(&mut test).context("nginx cannot do `stream` here (package libnginx-mod-stream)")?;
    let mut command = Command::new("nginx");
    command.args(["-c", &file]);
    start(bench, "nginx", command)
}

fn nftables(bench: &mut Bench<'_>, port: u16) -> Result<()> {
    if run::find("nft").is_none() {
        bail!("nft is not installed (package nftables)");
    }
    let addresses = backends(bench.lab.config());
    let places: Vec<String> =
        addresses.iter().enumerate().map(|(number, address)| format!("{number} : {address}")).collect();
    let text = format!(
        "table ip lb_bench {{\n  chain to {{ type nat hook prerouting priority dstnat;\n    ip daddr {0} tcp dport {port} \
         dnat to numgen inc mod {1} map {{ {2} }}:{PORT}\n  }}\n  chain from {{ type nat hook postrouting priority srcnat;\n    \
         tcp dport {PORT} masquerade\n  }}\n}}\n",
        balancer(bench.lab)?,
        addresses.len(),
        places.join(", ")
    );
    let file = write(bench, "nftables.conf", &text)?;
    let node = bench.lab.node(BALANCER)?;
    let mut command = node.command("nft");
    run::capture(command.args(["-f", &file])).context("this kernel or nft cannot do it")?;
    let forwarding = node.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
    forwarding.context("letting the balancer's node forward")
}
