//! Interfaces that packets to next hops leave by: whether they can send what our program hands them, which only a driver
//! knows. A hop that cannot work does not count as a hop, and says what would help; a hop that may work stays.
//!
//! Some drivers send only while an XDP program is on their card: the agent puts `lb_pass` there, and takes it off again
//! when no packet has left by that interface for a while.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::loss::Loss;
use log::Level;

use super::{interfaces::Host, journal::Journal};
use crate::{
    api::{kind::Kind, view},
    kernel::egress::Passing,
    net::{
        Hop, Hops,
        ability::{self, Ability, Reason},
        device::Device,
    },
};

/// How long `lb_pass` stays on an interface that no hop uses any longer, in milliseconds: a route that flaps must not
/// reset a card each time.
const IDLE: u64 = 60_000;

/// How long an interface that could send has to report that it cannot before the agent gives up its hops, in
/// milliseconds. The report changes for a moment while programs or links at the far end are replaced, and a hop that is
/// given up loses packets.
const DOUBT: u64 = 1_500;

/// An interface that we are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    /// The program runs in the driver: what it hands on is an XDP frame.
    pub(super) native: bool,
}

/// All interfaces that hops use.
#[derive(Debug, Default)]
pub(super) struct Egress {
    /// By number.
    known: BTreeMap<u32, Known>,
    /// Interfaces with `lb_pass` that no hop uses, and since when.
    idle: BTreeMap<String, u64>,
    /// The interfaces that we are attached to, as of the last judgement.
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    name: String,
    /// `None` = the kernel did not answer.
    device: Option<Device>,
    /// The outcome of the attempt to put `lb_pass` there, and what the device was before.
    tried: Option<(Device, Passing)>,
    /// Since when the device reports that it cannot send although it could.
    doubted: Option<u64>,
}

/// What there is to report of hops over an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Judgement {
    Fine,
    /// Packets that come in over some of our interfaces are lost.
    Partly(String),
    Refused(String),
}

impl Known {
    /// What the device does with redirected frames, after the agent has done all that it can.
    fn redirected(&self, device: &Device) -> Ability {
        match ability::redirected(device) {
            Ability::WantsProgram => match &self.tried {
                Some((before, Passing::NoXdp)) if before == device => ability::without_program(device, None),
                Some((before, Passing::Refused(why))) if before == device => {
                    ability::without_program(device, Some(why))
                }
                _ => Ability::Unknown,
            },
            ability => ability,
        }
    }

    /// What the device does with frames that come in over `port`.
    fn ability(&self, port: &Port) -> Ability {
        match &self.device {
            _ if !port.native => Ability::Sends,
            None => Ability::Unknown,
            Some(device) if port.name == self.name => ability::sent_back(device),
            Some(device) => self.redirected(device),
        }
    }
}

impl Egress {
    /// Asks the kernel about all interfaces that the hops of `found` use. Returns whether judgements may be different
    /// now.
    pub(super) fn look(
        &mut self,
        found: &Hops,
        ports: Vec<Port>,
        wanted: &[String],
        host: &mut dyn Host,
        journal: &mut Journal,
        now: u64,
    ) -> bool {
        let leaving: BTreeMap<u32, &str> =
            found.hops.values().flatten().map(|hop| (hop.interface, &*hop.interface_name)).collect();
        let mut known = BTreeMap::new();
        for (&number, &name) in &leaving {
            let mut one = self.known.get(&number).cloned().unwrap_or_default();
            name.clone_into(&mut one.name);
            one.device = host.device(number).ok();
            one.doubt(self.known.get(&number), &ports, now);
            if !wanted.iter().any(|wanted| wanted == name) {
                one.help(number, &ports, host, journal);
            }
            known.insert(number, one);
        }
        let helped = ports.iter().any(|port| port.native);
        let names: BTreeSet<&str> = leaving.values().copied().filter(|_| helped).collect();
        self.take_off(&names, host, journal, now);
        let said = |known: &BTreeMap<u32, Known>| -> Vec<(u32, Known)> {
            known.iter().map(|(&number, known)| (number, Known { doubted: None, ..known.clone() })).collect()
        };
        let differs = said(&known) != said(&self.known) || ports != self.ports;
        (self.known, self.ports) = (known, ports);
        differs
    }

    /// Takes `lb_pass` off interfaces that no hop has used for a while.
    fn take_off(&mut self, needed: &BTreeSet<&str>, host: &mut dyn Host, journal: &mut Journal, now: u64) {
        let passes = host.passes();
        self.idle.retain(|name, _| passes.contains(name) && !needed.contains(&**name));
        for name in passes.into_iter().filter(|name| !needed.contains(&**name)) {
            let since = *self.idle.entry(name.clone()).or_insert(now);
            if now.saturating_sub(since) < IDLE {
                continue;
            }
            match host.take_pass(&name) {
                Ok(()) => {
                    let message = "lb_pass is taken off: no next hop leaves by this interface any more";
                    journal.note(Kind::EgressProgram, name, message);
                }
                Err(error) => {
                    let message = format!("taking lb_pass off failed: {error}");
                    journal.note(Kind::EgressTrouble, name, message);
                }
            }
        }
    }

    /// The hops of `found` that can be used: without hops that cannot work, and with notes on hops that work in part.
    pub(super) fn judged(&self, found: &Hops) -> Hops {
        let judgements: HashMap<u32, Judgement> =
            self.known.iter().map(|(&number, known)| (number, self.judge(known))).collect();
        let mut notes = found.notes.clone();
        let hops = found.hops.iter().map(|(&address, hop)| {
            let judgement = hop.as_ref().ok().and_then(|hop: &Hop| judgements.get(&hop.interface));
            let hop = match judgement {
                Some(Judgement::Refused(why)) => Err(why.clone()),
                Some(Judgement::Partly(why)) => {
                    let note = notes.entry(address).or_default();
                    *note = if note.is_empty() { why.clone() } else { format!("{note}; {why}") };
                    hop.clone()
                }
                Some(Judgement::Fine) | None => hop.clone(),
            };
            (address, hop)
        });
        let hops = hops.collect();
        Hops { hops, notes }
    }

    fn judge(&self, known: &Known) -> Judgement {
        let refused = |port| match known.ability(port) {
            Ability::Cannot(reason) => Some((port, reason)),
            _ => None,
        };
        let refused: Vec<(&Port, Reason)> = self.ports.iter().filter_map(refused).collect();
        let Some((_, reason)) = refused.first() else { return Judgement::Fine };
        let text = text(known, &refused, reason);
        if refused.len() == self.ports.len() {
            return Judgement::Refused(text);
        }
        let over: Vec<&str> = refused.iter().map(|(port, _)| &*port.name).collect();
        Judgement::Partly(format!("packets that come in over {} are lost: {text}", over.join(" and ")))
    }

    /// For the control socket.
    pub(super) fn view(&self, host: &dyn Host) -> Vec<view::Egress> {
        let (passes, losses) = (host.passes(), host.losses());
        let dropped = |index| {
            let here = |(loss, frames): (&Loss, &u64)| (loss.interface == index).then_some(*frames);
            losses.as_ref().map(|losses| losses.iter().filter_map(here).sum())
        };
        let one = |(&index, known): (&u32, &Known)| {
            let unknown = self.ports.iter().any(|port| known.ability(port) == Ability::Unknown);
            let (sends, note) = match self.judge(known) {
                Judgement::Refused(why) => ("no", Some(why)),
                Judgement::Partly(why) => ("partly", Some(why)),
                Judgement::Fine if unknown => ("unknown", None),
                Judgement::Fine => ("yes", None),
            };
            view::Egress {
                name: known.name.clone(),
                index,
                sends: sends.to_owned(),
                program: passes.contains(&known.name).then(|| "lb_pass".to_owned()),
                dropped: dropped(index),
                note,
            }
        };
        self.known.iter().map(one).collect()
    }
}

impl Known {
    /// Keeps the report from `before` while it is not certain that the device has lost an ability.
    fn doubt(&mut self, before: Option<&Self>, ports: &[Port], now: u64) {
        let loses = |before: &Self| {
            let cannot = |known: &Self, port| matches!(known.ability(port), Ability::Cannot(_));
            ports.iter().any(|port| cannot(self, port) && !cannot(before, port))
        };
        let Some(before) = before.filter(|before| before.device.is_some() && loses(before)) else {
            self.doubted = None;
            return;
        };
        let since = *self.doubted.get_or_insert(now);
        if now.saturating_sub(since) < DOUBT {
            self.device.clone_from(&before.device);
        } else {
            self.doubted = None;
        }
    }

    /// Puts `lb_pass` there if the device sends our frames only then. A refused attempt is repeated when the device has
    /// changed.
    fn help(&mut self, number: u32, ports: &[Port], host: &mut dyn Host, journal: &mut Journal) {
        let Some(device) = self.device.clone() else { return };
        let wants = ability::redirected(&device) == Ability::WantsProgram;
        let tried = self.tried.as_ref().is_some_and(|(before, _)| *before == device);
        if !wants || tried || !ports.iter().any(|port| port.native) {
            return;
        }
        match host.put_pass(&self.name) {
            Ok(passing) => {
                let what = match &passing {
                    Passing::Ours => {
                        "lb_pass is on it: its driver sends XDP frames only while a program is there"
                    }
                    Passing::Others => "a program of others is on it, which does as well as lb_pass",
                    Passing::NoXdp => "its driver takes no XDP program",
                    Passing::Refused(why) => &format!("its driver refuses lb_pass: {why}"),
                };
                let level = if passing == Passing::Ours { Level::Info } else { Level::Warn };
                journal.note_at(level, Kind::EgressProgram, &*self.name, what);
                self.tried = Some((device, passing));
                self.device = host.device(number).ok();
            }
            Err(error) => {
                journal.note(Kind::EgressTrouble, &*self.name, error.clone());
                self.tried = Some((device, Passing::Refused(error)));
            }
        }
    }
}

/// Why the device cannot send, and everything that helps.
fn text(known: &Known, refused: &[(&Port, Reason)], reason: &Reason) -> String {
    let mut ways: Vec<String> = reason.way_out.iter().cloned().collect();
    let others: Vec<&str> =
        refused.iter().map(|(port, _)| &*port.name).filter(|name| *name != known.name).collect();
    // A bond whose ports do not send cannot send back what comes in over it, either.
    let device = known.device.as_ref();
    let helps = device.is_none_or(|device| !matches!(ability::sent_back(device), Ability::Cannot(_)));
    if reason.way_out.is_none() && !others.is_empty() && helps {
        ways.push(format!("attach to {} instead of {}", known.name, others.join(" and ")));
    }
    ways.push("set node.mode = \"generic\"".to_owned());
    format!("{}: {}", reason.why, ways.join(", or "))
}

#[cfg(test)]
mod tests;
