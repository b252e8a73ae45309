//! The lab itself, without the agent: it carries packets, its servers answer, and nothing of it stays. Needs root.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
};

use xtask::{
    lab::{self, CLIENT, Config, Lab, Node, ROUTER, VIP_V4, VIP_V6},
    run,
    stack::web::{Kind, Web},
    wait,
};

/// A lab of this test's own; `None`, and said, where it cannot be.
fn config(test: &str, prefix: &str) -> Option<Config> {
    if nix::unistd::geteuid().is_root() {
        Some(Config { prefix: prefix.to_owned(), instance: prefix.to_owned(), ..Config::default() })
    } else {
        println!("SKIP {test}: needs root");
        None
    }
}

/// Sends the virtual addresses straight to the first backend, as if there were no balancer.
fn without_balancer(lab: &Lab) {
    let router = lab.node(ROUTER).unwrap();
    let (v4, v6, _) = lab.config().backend_address(0);
    for (to, via) in [(format!("{VIP_V4}/32"), v4.to_string()), (format!("{VIP_V6}/128"), v6.to_string())] {
        run::capture(router.command("ip").args(["route", "replace", &to, "via", &via])).unwrap();
    }
}

/// The program next to the directory of the test, where cargo puts it; the path that cargo gives at compile time is that of
/// another checkout in a copy with its target directory.
fn xtask() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("xtask")
}

fn ask(address: IpAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, 80), wait::limit())?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the server behind an address answers; it may be only starting.
fn answer(client: &Node, address: IpAddr) -> String {
    let answered = client.enter(|| {
        wait::until("a server answers", wait::limit(), || wait::attempt(ask(address).map_err(Into::into)))
    });
    answered.unwrap().unwrap()
}

/// The servers of a kind answer under the virtual addresses of both families, and no more once they are killed.
fn servers_answer(config: &Config, kind: Kind) {
    let mut lab = Lab::up(config).unwrap();
    without_balancer(&lab);
    let mut web = Web::new(kind, config.backends);
    web.start(&mut lab, 0).unwrap();
    let client = lab.node(CLIENT).unwrap().clone();
    for address in [IpAddr::V4(VIP_V4), IpAddr::V6(VIP_V6)] {
        let answer = answer(&client, address);
        assert!(
            answer.contains("X-Backend: backend-1\r\n") && answer.ends_with("\r\nbackend-1\n"),
            "{answer}"
        );
    }
    web.kill(&lab, 0).unwrap();
    assert_eq!(lab.processes("backend-1").unwrap(), []);
    assert!(client.enter(|| ask(IpAddr::V4(VIP_V4))).unwrap().is_err());
}

#[test]
fn our_own_server_answers_through_the_lab() {
    let Some(config) = config("our_own_server_answers_through_the_lab", "lb-xt-own") else { return };
    // Found through the tests' own program, the server would be this test.
    let server = xtask();
    let mut lab = Lab::up(&config).unwrap();
    without_balancer(&lab);
    let mut command = Command::new(server);
    command.args(["serve", "--name", "backend-1"]);
    let mut child = lab.start("backend-1", "web", command).unwrap();
    let client = lab.node(CLIENT).unwrap().clone();
    for address in [IpAddr::V4(VIP_V4), IpAddr::V6(VIP_V6)] {
        let answer = answer(&client, address);
        assert!(answer.contains("X-Backend: backend-1\r\n"), "{answer}");
    }
    let processes = lab.processes("backend-1").unwrap();
    assert_eq!(processes.len(), 1, "{processes:?}");
    drop(lab);
    child.wait().unwrap();
    assert!(!processes[0].is_alive());
}

#[test]
fn nginx_answers_through_the_lab_and_dies_when_killed() {
    let name = "nginx_answers_through_the_lab_and_dies_when_killed";
    let Some(config) = config(name, "lb-xt-nginx") else { return };
    if run::find("nginx").is_none() {
        println!("SKIP {name}: nginx is not installed");
        return;
    }
    servers_answer(&config, Kind::Nginx);
}

#[test]
fn a_lab_goes_without_a_trace() {
    let Some(config) = config("a_lab_goes_without_a_trace", "lb-xt-trace") else { return };
    let mut lab = Lab::up(&config).unwrap();
    assert_eq!(lab::namespaces(&config.prefix).unwrap().len(), 6);
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut child = lab.start("router", "sleep", sleep).unwrap();
    drop(lab);
    assert_eq!(lab::namespaces(&config.prefix).unwrap(), []);
    assert!(!child.wait().unwrap().success(), "it was ended, not awaited");
    assert!(!lab::directory(&config.prefix).exists());
}

#[test]
fn a_second_lab_is_refused_while_one_is_in_use() {
    let Some(config) = config("a_second_lab_is_refused_while_one_is_in_use", "lb-xt-two") else { return };
    let _lab = Lab::up(&config).unwrap();
    for refused in [Lab::up(&config).map(drop), lab::sweep(&config).map(drop)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    }
}

#[test]
fn what_a_killed_lab_left_is_swept() {
    let Some(config) = config("what_a_killed_lab_left_is_swept", "lb-xt-stale") else { return };
    // A process that makes a lab, starts something in it and is killed before it can clean up.
    let mut maker = Command::new(xtask());
    maker.args(["lab", "--prefix", &config.prefix, "up", "--bare"]);
    assert!(maker.status().unwrap().success());
    let node = lab::nodes(&config).unwrap().remove(0);
    let mut stranger = node.command("sleep").arg("600").spawn().unwrap();
    let half = config.namespace("backend-9");
    std::fs::write(format!("/run/netns/{half}"), "").unwrap();
    std::fs::write(lab::directory(&config.prefix).join("lab.json"), "{ half a rec").unwrap();

    let _lab = Lab::up(&config).unwrap();

    assert!(!stranger.wait().unwrap().success(), "what ran in it was ended");
    assert_eq!(lab::namespaces(&config.prefix).unwrap().len(), 6);
}

#[test]
fn a_node_sees_only_its_own_pins() {
    let Some(config) = config("a_node_sees_only_its_own_pins", "lb-xt-pins") else { return };
    let lab = Lab::up(&config).unwrap();
    let pin = "/sys/fs/bpf/lb-xt-pins";
    run::capture(lab.node("balancer").unwrap().command("mkdir").arg(pin)).unwrap();
    assert!(run::succeeds(lab.node("balancer").unwrap().command("test").args(["-d", pin])), "it lasts");
    assert!(!run::succeeds(lab.node("backend-1").unwrap().command("test").args(["-d", pin])));
    assert!(!std::path::Path::new(pin).exists(), "the host has nothing of it");
    drop(lab);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains("lb-xt-pins"), "{mounts}");
}
