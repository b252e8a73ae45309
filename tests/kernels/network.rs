//! The whole load balancer in a lab on this kernel: attached in the driver and in the generic path, forwarding both
//! families out of the same interface and out of another one.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use xtask::{
    kernels::{BINARIES, report::Group},
    lab::{self, BALANCER, CLIENT, Lab, VIP_V4, VIP_V6, backend_name},
    run,
    stack::{self, Binaries, Stack, agent::Agent, web},
    wait,
};

use crate::{say, upgrade};

/// Sizes of maps for two small services.
const LIMITS: &str = "\n[limits]\nservices = 16\nbackends = 64\nslots = 65536\nflows = 8192\n";

/// Requests of each family.
const REQUESTS: usize = 30;

pub(crate) fn check() {
    let mut stack = None;
    let up = say::check(Group::Forward, "agent, backends and health checks", || {
        stack = Some(up()?);
        Ok(String::new())
    });
    let Some(mut stack) = stack.filter(|_| up) else { return };
    say::check(Group::Forward, "attached in the driver", || attached(&stack, "native"));
    say::check(Group::Forward, "IPv4 and IPv6, sent back and redirected", || all_answer(&stack.lab));
    say::check(Group::Forward, "what was forwarded is counted", || counted(&stack));
    upgrade::check(&mut stack);
    let name = "attached in the generic path";
    let tried = generic(&mut stack);
    match refused_for_its_age(&stack) {
        Some(why) => say::left(Group::Forward, name, &why),
        None => drop(say::check(Group::Forward, name, || {
            tried?;
            attached(&stack, "generic")?;
            all_answer(&stack.lab)
        })),
    }
}

/// The agent's message on a kernel whose generic path refuses a program that redirects: kernels before 5.15. On other kernels
/// a refusal is a failure.
fn refused_for_its_age(stack: &Stack) -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let status = stack.agent.ctl(&["status"]).ok()?;
    let note = status["interfaces"][0]["note"].as_str()?;
    (release.starts_with("5.10.") && note.contains("kernels from 5.15 on")).then(|| note.to_owned())
}

/// As `Stack::up`, with smaller maps: to make large maps takes long on an emulated processor.
fn up() -> Result<Stack> {
    let config = lab::Config::default();
    let binaries = Binaries::in_directory(Path::new(BINARIES))?;
    let mut lab = Lab::up(&config)?;
    let mut web = web::Web::new(web::Kind::installed(), config.backends);
    for index in 0..config.backends {
        web.start(&mut lab, index)?;
        stack::decap(&lab, &binaries, index)?;
    }
    web.wait(&lab)?;
    let mut agent = Agent::new(&lab, &binaries)?;
    let file = lab.directory().join("lb.toml");
    // The processor is emulated: a check may take longer than on a real one.
    let text = fs::read_to_string(&file)?.replace("expect = 200 }", "expect = 200, timeout = \"20s\" }");
    fs::write(&file, text + LIMITS)?;
    agent.start(&mut lab)?;
    agent.wait_until_all_up(config.backends)?;
    Ok(Stack { lab, web, agent })
}

/// How the program is attached, as the agent reports it.
fn attached(stack: &Stack, wanted: &str) -> Result<String> {
    let status = stack.agent.ctl(&["status"])?;
    let mode = status["interfaces"][0]["attached"].as_str().unwrap_or_default();
    ensure!(mode == wanted, "it is attached in {mode} mode: {}", status["interfaces"][0]);
    Ok(String::new())
}

/// Sends requests of both families; every backend must answer some, and every request must be answered.
fn all_answer(lab: &Lab) -> Result<String> {
    let mut said = Vec::new();
    for vip in [IpAddr::from(VIP_V4), IpAddr::from(VIP_V6)] {
        let answers = requests(lab, vip, REQUESTS)?;
        for index in 0..lab.config().backends {
            let name = backend_name(index);
            ensure!(answers.contains_key(&name), "nothing reaches {name} over {vip}: {answers:?}");
        }
        said.push(format!("{vip}: {answers:?}"));
    }
    Ok(said.join("; "))
}

/// How often each backend answered; the first request without an answer is an error.
pub(crate) fn requests(lab: &Lab, vip: IpAddr, count: usize) -> Result<BTreeMap<String, usize>> {
    lab.node(CLIENT)?.enter(|| {
        let mut answers = BTreeMap::new();
        for number in 0..count {
            let name = request(vip).with_context(|| format!("request {number} to {vip}"))?;
            *answers.entry(name).or_default() += 1;
        }
        Ok(answers)
    })?
}

/// The backend that answered one request. To be called inside the client's namespace.
pub(crate) fn request(vip: IpAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(vip, web::PORT), wait::limit())?;
    stream.set_read_timeout(Some(wait::limit()))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).context("half an answer")?;
    Ok(body.trim().to_owned())
}

/// The counters must show both egress paths.
fn counted(stack: &Stack) -> Result<String> {
    let metrics = run::capture(std::process::Command::new(Path::new(BINARIES).join("lbctl")).args([
        "--instance",
        "lab",
        "stats",
    ]))?;
    let of = |name: &str| {
        let line = metrics.lines().find(|line| line.contains(name))?;
        line.split_whitespace().find_map(|word| word.replace([',', '\u{202f}'], "").parse::<u64>().ok())
    };
    for name in ["forwarded_tx", "forwarded_redirect"] {
        ensure!(of(name).is_some_and(|count| count > 0), "{name} is not counted: {metrics}");
    }
    let id = program(&stack.lab)?;
    Ok(format!("program {id}"))
}

/// The kernel's number of the program on the balancer's interface.
pub(crate) fn program(lab: &Lab) -> Result<u64> {
    let text = run::capture(lab.node(BALANCER)?.command("ip").args(["-j", "link", "show", "dev", "eth0"]))?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    links[0]["xdp"]["prog"]["id"].as_u64().with_context(|| format!("no XDP program on eth0: {text}"))
}

/// Removes everything and starts again in the generic path.
fn generic(stack: &mut Stack) -> Result<()> {
    stack.agent.kill()?;
    let mut detach = stack.lab.node(BALANCER)?.command(Path::new(BINARIES).join("lbd"));
    run::capture(detach.args(["--instance", &stack.lab.config().instance, "--detach"]))?;
    let file = stack.lab.directory().join("lb.toml");
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replacen("[node]\n", "[node]\nmode = \"generic\"\n", 1))?;
    stack.agent.start(&mut stack.lab)?;
    stack.agent.wait_until_all_up(stack.lab.config().backends)
}
