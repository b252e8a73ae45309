//! `lbd decap`: turns the command line into calls of [`crate::tools::decap`], and their outcome into text.

use anyhow::{Result, bail};
use lb_common::encap::Kind;
use nix::sys::signal::{SigSet, Signal};

use super::{
    cli::{Decap, Interface},
    decap::{self, At, Detached},
    say::say,
};
use crate::{
    bpf::{bpffs::Place, capabilities},
    config::spec::AttachMode,
};

/// Carries out a command for `instance`.
///
/// # Errors
/// Why the command was refused; nothing was changed then.
pub fn run(command: Decap, instance: &str) -> Result<()> {
    capabilities::check()?;
    let place = Place::find()?;
    match command {
        Decap::Attach { interface: Interface { interface }, address, kind, foreground } => {
            let at = At { interface: &interface, instance };
            let kinds: Vec<_> =
                Kind::ALL.into_iter().filter(|one| kind.iter().any(|k| k == one.name())).collect();
            if foreground {
                return stay(&place, at, &address, &kinds);
            }
            if !place.lasting {
                bail!(
                    "interface {interface}: what is pinned here would go with this command: this mount namespace (made by \
                     `ip netns exec`, `unshare` or a container) has a bpf file system of its own; stay with --foreground, \
                     or enter the network namespace alone, for example `nsenter --net=/run/netns/NAME lbd decap attach …`"
                );
            }
            attach(&place, at, &address, &kinds)
        }
        Decap::Detach { interface: Interface { interface } } => {
            let what = match decap::detach(&place.pins(), At { interface: &interface, instance })? {
                Detached::TakenOff => "taken off",
                Detached::Rests => "was not attached any more; what was left of it is removed",
                Detached::Nothing => "was not attached",
            };
            Ok(say(&format!("{interface}: lb_decap {what}\n"))?)
        }
        Decap::Stats { interface: Interface { interface }, output } => {
            let stats = decap::stats(&place.pins(), At { interface: &interface, instance })?;
            Ok(say(&render(&interface, &stats, output == "json")?)?)
        }
    }
}

fn attach(place: &Place, at: At<'_>, addresses: &[std::net::IpAddr], kinds: &[Kind]) -> Result<()> {
    place.mount()?;
    let interface = at.interface;
    let attached = decap::attach(&place.pins(), at, addresses, kinds, AttachMode::Auto)?;
    say(&format!("{interface}: decapsulation in {} mode\n", attached.mode.name()))?;
    if let Some(note) = attached.note {
        say(&format!("{interface}: {note}\n"))?;
    }
    Ok(())
}

/// Attaches, waits for a signal, and detaches.
fn stay(place: &Place, at: At<'_>, addresses: &[std::net::IpAddr], kinds: &[Kind]) -> Result<()> {
    // The signals are blocked first: a signal that comes during the attach takes the program off afterwards, too.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    attach(place, at, addresses, kinds)?;
    let signal = signals.wait()?;
    decap::detach(&place.pins(), at)?;
    Ok(say(&format!("{}: lb_decap detached ({signal})\n", at.interface))?)
}

fn render(interface: &str, stats: &decap::Stats, json: bool) -> Result<String> {
    let decap::Stats { counters, addresses, kinds } = stats;
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    if json {
        let counters: serde_json::Map<_, _> =
            counters.iter().map(|(c, value)| (c.name().to_owned(), (*value).into())).collect();
        let stats = serde_json::json!({ "interface": interface, "addresses": addresses, "kinds": kinds, "counters": counters });
        return Ok(serde_json::to_string_pretty(&stats)? + "\n");
    }
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let mut text =
        format!("{interface}: addresses {}\n{interface}: kinds {}\n", addresses.join(", "), kinds.join(", "));
    for (counter, value) in counters {
        text.push_str(&format!("{:20} {value:>12}  {}\n", counter.name(), counter.description()));
    }
    Ok(text)
}
