//! A site with the addresses of the documents: a client and a router, and on one network segment behind the router a
//! balancer and a backend.
//!
//! ```text
//!   client ── router ═╤═ balancer   10.0.0.2    2001:db8:1::2
//!                     └─ backend    10.0.0.11   2001:db8:1::11
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use xtask::{
    kernels::BINARIES,
    lab::{Node, xdp::PassProgram},
    run, wait,
};

/// The directory of all files of the site.
pub(crate) const DIRECTORY: &str = "/run/site";

/// Bytes of the files that the client fetches and sends.
const BYTES: usize = 10_000_000;

/// How long one transfer may take at most, in seconds; the processor is emulated.
const PATIENCE: &str = "600";

const NODES: [&str; 4] = ["client", "router", "balancer", "backend"];

/// For each end of a cable: its node, its name there, and its MTU.
const CABLES: [[(&str, &str, u16); 2]; 3] = [
    [("router", "client", 1500), ("client", "eth0", 1500)],
    [("router", "balancer", 1600), ("balancer", "eth0", 1600)],
    [("router", "backend", 1600), ("backend", "eth0", 1600)],
];

/// The first commands on each node. Every device checks the source of packets that come in, as strict distributions set it.
const SETTINGS: &str = "\
    sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1\n\
    sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0\n\
    ip link set lo up\n";

const ADDRESSES: [(&str, &str); 4] = [
    (
        "client",
        "ip address add 198.51.100.2/24 dev eth0; ip address add 2001:db8:c::2/64 dev eth0 nodad\n\
         ip link set eth0 up; ip route add default via 198.51.100.1; ip route add default via 2001:db8:c::1\n",
    ),
    (
        "router",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n\
         sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0\n\
         ip link add segment mtu 1600 type bridge\n\
         ip link set balancer master segment up; ip link set backend master segment up\n\
         ip address add 10.0.0.1/24 dev segment; ip address add 2001:db8:1::1/64 dev segment nodad\n\
         ip address add 198.51.100.1/24 dev client; ip address add 2001:db8:c::1/64 dev client nodad\n\
         ip link set client up; ip link set segment up\n\
         ip route add 203.0.113.10/32 via 10.0.0.2; ip -6 route add 2001:db8::10/128 via 2001:db8:1::2\n",
    ),
    (
        "balancer",
        "ip address add 10.0.0.2/24 dev eth0; ip address add 2001:db8:1::2/64 dev eth0 nodad\n\
         ip link set eth0 up; ip route add default via 10.0.0.1; ip route add default via 2001:db8:1::1\n",
    ),
    (
        "backend",
        "ip address add 10.0.0.11/24 dev eth0; ip address add 2001:db8:1::11/64 dev eth0 nodad\n\
         ip link set eth0 up; ip route add default via 10.0.0.1; ip route add default via 2001:db8:1::1\n",
    ),
];

/// The site, with a web server on the backend.
pub(crate) struct Site {
    web: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.web.kill().ok();
        self.web.wait().ok();
    }
}

/// A node of the site.
pub(crate) fn node(name: &str) -> Result<Node> {
    Node::open(name, name, &bpffs(name))
}

fn bpffs(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join("bpf").join(name)
}

/// Runs shell commands on a node, as a person would type them; the first command that fails ends the script.
pub(crate) fn shell(name: &str, script: &str) -> Result<String> {
    let mut command = node(name)?.command("sh");
    run::capture(command.args(["-ec", script])).with_context(|| format!("node {name}"))
}

impl Site {
    pub(crate) fn up() -> Result<Self> {
        for name in NODES {
            run::capture(Command::new("ip").args(["netns", "add", name]))?;
            fs::create_dir_all(bpffs(name))?;
            let none = None::<&str>;
            nix::mount::mount(Some("bpf"), &bpffs(name), Some("bpf"), nix::mount::MsFlags::empty(), none)?;
            shell(name, SETTINGS)?;
        }
        for [(near, name, mtu), (far, peer, far_mtu)] in CABLES {
            let line = format!(
                "ip link add {name} netns {near} mtu {mtu} type veth peer name {peer} netns {far} mtu {far_mtu}"
            );
            run::capture(Command::new("sh").args(["-ec", &line]))?;
            for (node, interface) in [(near, name), (far, peer)] {
                let off = "tx off tso off gso off gro off txvlan off";
                shell(node, &format!("ethtool -K {interface} {off} >/dev/null"))?;
            }
        }
        for (name, script) in ADDRESSES {
            shell(name, script)?;
        }
        // A veth takes frames that XDP sends out of its other end only while it runs a program itself.
        PassProgram::load(&bpffs("router"))?.attach(&node("router")?, "balancer")?;
        files()?;
        Ok(Self { web: web()? })
    }
}

/// Makes the file that the client fetches; no two pieces of it are alike.
fn files() -> Result<()> {
    let directory = Path::new(DIRECTORY).join("files");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("file"), lb_tests::bytes::unlike(BYTES))?;
    Ok(())
}

fn web() -> Result<Child> {
    let program = run::find("nginx").context("no nginx")?;
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {DIRECTORY}/{kind};\n"))
        .concat();
    let listens: String = (80..85).map(|port| format!("listen {port};\nlisten [::]:{port};\n")).collect();
    let configuration = format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid {DIRECTORY}/nginx.pid;\nerror_log {DIRECTORY}/error.log;\n\
         events {{}}\nhttp {{\n{paths}access_log off;\nclient_max_body_size 20m;\nserver {{\n\
         {listens}root {DIRECTORY}/files;\ndav_methods PUT;\n}}\n}}\n"
    );
    let file = Path::new(DIRECTORY).join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = node("backend")?.command(program);
    command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("cannot start nginx")?;
    let answers = wait::until("nginx answers", wait::limit(), || {
        let ended = child.try_wait()?;
        ensure!(ended.is_none(), "nginx has ended");
        wait::attempt(shell("backend", "curl -sSfo /dev/null http://10.0.0.11/file"))
    });
    answers.with_context(|| {
        let log = fs::read_to_string(Path::new(DIRECTORY).join("error.log")).unwrap_or_default();
        format!("its log: {}", log.trim())
    })?;
    Ok(child)
}

/// Fetches the file and sends it, and compares both copies with the original.
pub(crate) fn transfer(url: &str) -> Result<String> {
    let files = Path::new(DIRECTORY).join("files");
    let (fetched, sent) = (Path::new(DIRECTORY).join("fetched"), files.join("sent"));
    for path in [&fetched, &sent] {
        fs::remove_file(path).ok();
    }
    let curl = format!("curl -gsSf --max-time {PATIENCE}");
    shell("client", &format!("{curl} -o {} '{url}/file'", fetched.display())).context("fetching 10 MB")?;
    shell("client", &format!("{curl} -T {DIRECTORY}/files/file '{url}/sent'")).context("sending 10 MB")?;
    let original = fs::read(files.join("file"))?;
    for (what, path) in [("fetched", &fetched), ("sent", &sent)] {
        let arrived = fs::read(path).with_context(|| format!("what was {what}"))?;
        ensure!(arrived == original, "what was {what} is not what there was: {} bytes", arrived.len());
    }
    Ok("10 MB fetched and 10 MB sent".to_owned())
}

/// The path of one of our binaries.
pub(crate) fn binary(name: &str) -> String {
    format!("{BINARIES}/{name}")
}
