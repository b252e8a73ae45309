//! Backends that fail, and services that have no backend left.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use xtask::{
    lab::{CLIENT, VIP_V4, VIP_V6, backend_name},
    stack::agent::now_ms,
};

use crate::{
    Test,
    client::{requests, spread},
    scene::{BACKENDS, none_failed, on_usual, until},
};

pub(crate) const TESTS: &[Test] = &[
    ("failure::a_killed_backend_is_taken_out_and_comes_back", killed),
    ("failure::without_a_usable_backend_packets_are_dropped", no_backend),
];

fn killed() -> Result<()> {
    on_usual(|scene| {
        let name = backend_name(1);
        let since = now_ms();
        scene.web.kill(&scene.lab, 1)?;
        for service in ["web", "web6"] {
            let object = format!("{service}/{name}");
            let at = scene.agent.wait_for_event("backend_down", &object, since)?;
            // On an idle machine the agent notices it within a second; the time on a busy machine proves nothing.
            eprintln!("{object} was noticed after {} ms", at - since);
            scene.agent.wait_for_state(&object, "down")?;
            until(&format!("{object} owns no slot"), || {
                let slots = scene.agent.backend(&object)?.1;
                Ok(if slots == 0 { Ok(()) } else { Err(format!("it owns {slots}")) })
            })?;
        }
        for v6 in [false, true] {
            let answers = requests(&scene.lab, v6, 150)?;
            none_failed(&answers)?;
            ensure!(!spread(&answers).contains_key(&name), "{name} answered");
        }
        scene.web.start(&mut scene.lab, 1)?;
        scene.agent.wait_until_all_up()?;
        let answers = requests(&scene.lab, false, 150)?;
        none_failed(&answers)?;
        ensure!(spread(&answers).contains_key(&name), "{name} is up and does not answer");
        Ok(())
    })
}

fn no_backend() -> Result<()> {
    on_usual(|scene| {
        for (service, address) in [("web", IpAddr::from(VIP_V4)), ("web6", VIP_V6.into())] {
            for index in 0..BACKENDS {
                scene.agent.ctl(&[
                    "backend",
                    "disable",
                    &format!("{service}/{}", backend_name(index)),
                    "--force",
                ])?;
            }
            let before = scene.agent.counter("no_backend")?;
            let address = SocketAddr::new(address, 80);
            let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(1500));
            match scene.lab.node(CLIENT)?.enter(connect)? {
                Ok(_) => bail!("{service}: somebody accepted"),
                // A reset or an ICMP error would be an error of another kind.
                Err(error) => ensure!(error.kind() == ErrorKind::TimedOut, "{service}: {error}"),
            }
            let dropped = scene.agent.counter("no_backend")? - before;
            // A SYN and its retransmission after a second; a packet that loops is counted many times.
            ensure!((1..=3).contains(&dropped), "{service}: {dropped} packets counted");
        }
        Ok(())
    })
}
