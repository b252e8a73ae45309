//! What the checker asks the host in addition to the file: certificates that the file names, and addresses that the host
//! itself sends from. A mistake there is refused wherever a configuration is checked or comes into force, and changes nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lb_tests::test_name;
use nix::sys::signal::Signal;

use crate::{
    agent::Agent,
    world::{CONFIG, World, isolated, wait_for},
};

/// Fails unless the file is refused with these words wherever it may come into force, and the agent goes on as before.
fn refused_everywhere(world: &World, agent: &mut Agent<'_>, bad: &str, words: &[&str]) -> Result<()> {
    let before = agent.services()?;
    let other = world.write("other.toml", bad)?.display().to_string();
    world.lbd(&["--check", "--config", &other])?.refused(2, words);
    let check = world.lbctl(&["config", "check", &other])?;
    check.refused(2, words);
    for command in [&["plan"][..], &["config", "apply"]] {
        agent.lbctl(&[command, &[other.as_str()]].concat())?.refused(2, words);
    }
    world.write("lb.toml", bad)?;
    agent.lbctl(&["config", "apply"])?.refused(2, words);
    agent.signal(Signal::SIGHUP)?;
    wait_for("the reload is refused", || {
        let status = agent.json(&["status"])?;
        Ok(status["last_error"].as_str().filter(|why| words.iter().all(|word| why.contains(word))).map(drop))
    })?;
    agent.unchanged(&before)?;
    world.write("lb.toml", CONFIG)?;
    agent.lbctl(&["config", "apply"])?.done()?;
    agent.assert_alive()
}

/// [`CONFIG`] with a verified check of the service web, and the number of the line that names the file of certificates.
fn verified(ca: &str) -> (String, usize) {
    let listen = "listen = \"tcp/203.0.113.10:80\"\n";
    let health =
        format!("{listen}health = {{ kind = \"https\", port = 443, verify = true, ca = \"{ca}\" }}\n");
    let text = CONFIG.replace(listen, &health);
    let line = 1 + text.lines().position(|line| line.contains(ca)).unwrap_or_default();
    (text, line)
}

#[test]
fn a_ca_without_a_certificate_is_refused_everywhere() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        for (name, contents, why) in [
            ("empty.pem", Some("# nothing\n"), "has no certificate in it"),
            ("gone.pem", None, "cannot be read: No such file"),
            (
                "broken.pem",
                Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                "certificate 1 in it cannot be read",
            ),
        ] {
            if let Some(contents) = contents {
                world.write(name, contents)?;
            }
            let file = world.path(name).display().to_string();
            let (text, line) = verified(&file);
            let place = format!(".toml:{line}:");
            let words = [place.as_str(), "service web: health.ca", file.as_str(), why, "or leave `ca` out"];
            refused_everywhere(world, &mut agent, &text, &words)?;
            let set = [
                "service",
                "set",
                "web",
                "--health",
                "https",
                "--health-port",
                "443",
                "--health-verify",
                "--health-ca",
            ];
            agent.lbctl(&[&set[..], &[file.as_str()]].concat())?.refused(2, &words[1..]);
        }
        // A file that never ends, and one that never begins.
        let pipe = world.path("pipe.pem");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
        for file in ["/dev/zero", &pipe.display().to_string()] {
            let (text, _) = verified(file);
            refused_everywhere(world, &mut agent, &text, &["health.ca", file, "is not a regular file"])?;
        }
        Ok(())
    })
}

#[test]
fn a_service_on_the_hosts_own_address_is_refused() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        let own = CONFIG.replace("tcp/203.0.113.10:80", "tcp/10.9.0.1:80");
        let line = 1 + own.lines().position(|line| line.contains("10.9.0.1")).context("no listen")?;
        let place = format!(".toml:{line}:");
        let words = [place.as_str(), "service web: listen 10.9.0.1 is this host's own address on lb0", "SSH"];
        refused_everywhere(world, &mut agent, &own, &words)?;
        let add = ["service", "add", "ssh", "--listen", "tcp/10.9.0.1:22"];
        agent.lbctl(&add)?.refused(2, &["service ssh: listen 10.9.0.1 is this host's own address"]);
        // Virtual addresses that are here for another reason (VRRP, loopback): the host sends nothing from them by itself.
        for (address, device) in
            [("203.0.113.10/32", "lb0"), ("203.0.113.10/32", "lo"), ("10.9.0.77/24", "lb0")]
        {
            world.ip(&format!("address add {address} dev {device}"))?;
            let ip = address.split('/').next().unwrap_or(address);
            let text = CONFIG.replace("203.0.113.10", ip);
            let file = world.write("other.toml", text)?.display().to_string();
            world.lbd(&["--check", "--config", &file])?.done()?;
            world.ip(&format!("address delete {address} dev {device}"))?;
        }
        agent.assert_alive()
    })
}

#[test]
fn a_new_host_address_of_a_service_is_an_event() -> Result<()> {
    isolated(test_name!(), |world| {
        let mut agent = world.start(CONFIG)?;
        world.ip("address add 203.0.113.10/24 dev lb0")?;
        let words = "service web: 203.0.113.10 is this host's own address on lb0";
        let noted = |agent: &Agent<'_>| Ok::<_, anyhow::Error>(agent.json(&["status"])?["notes"].to_string());
        wait_for("the address is noted", || Ok(noted(&agent)?.contains(words).then_some(())))?;
        let events = agent.lbctl(&["events"])?.done()?;
        ensure!(events.contains("service_address") && events.contains(words), "{events}");
        // An unrelated change is not refused for this reason.
        agent.lbctl(&["backend", "drain", "web/web-1"])?.done()?;
        world.ip("address delete 203.0.113.10/24 dev lb0")?;
        wait_for("the note is gone", || Ok((!noted(&agent)?.contains(words)).then_some(())))?;
        ensure!(fs::read_to_string(world.path("lb.toml"))? == CONFIG, "the file was changed");
        agent.assert_alive()
    })
}
