//! Plays packets over a configuration and records the results: the same code makes captures and compares them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::counter::Kind;

use super::{
    capture::{Capture, Expect, Packet, Traffic},
    kernel_tables::KernelTables,
    pcap::Seen,
    planned_tables::PlannedTables,
    step::Step,
};
use crate::{
    model::{Action, Program},
    world::Outcome,
};

/// A packet on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Steps before this packet.
    pub before: Vec<String>,
    /// The packet in words, if it was made of words.
    pub packet: Option<String>,
    pub metadata: u16,
    pub frame: Vec<u8>,
}

/// The input of a capture.
#[derive(Clone, Debug)]
pub struct Replay {
    pub name: String,
    pub about: String,
    pub program: Program,
    pub config: String,
    /// The name of the configuration in messages.
    pub config_name: String,
    pub packets: Vec<Coming>,
}

impl Replay {
    /// The input from which a capture was made.
    pub fn of(capture: &Capture) -> Self {
        let Capture { name, config, came, went: _, expect } = capture;
        let packets = expect.packets.iter().zip(came).map(|(packet, frame)| Coming {
            before: packet.before.clone(),
            packet: packet.packet.clone(),
            metadata: packet.metadata,
            frame: frame.clone(),
        });
        Self {
            name: name.clone(),
            about: expect.about.clone(),
            program: expect.program,
            config: config.clone(),
            config_name: format!("{name}/config.toml"),
            packets: packets.collect(),
        }
    }

    /// Plays the input.
    ///
    /// # Errors
    /// The configuration or the steps are wrong, or program and model do not agree.
    pub fn record(self, kernel: &mut KernelTables) -> Result<Capture> {
        ensure!(!self.packets.is_empty(), "there are no packets");
        let mut planned =
            PlannedTables::new(&self.config, &self.config_name, KernelTables::sizes(), kernel.other)?;
        kernel.begin()?;
        kernel.follow(&planned, &BTreeSet::new())?;
        let (mut said, mut came, mut went) = (Vec::new(), Vec::new(), Vec::new());
        let mut counters = BTreeMap::new();
        for (second, coming) in (1..).zip(self.packets) {
            let Coming { before, packet, metadata, frame } = coming;
            for step in &before {
                take(step, &mut planned, kernel)
                    .with_context(|| format!("before packet {second}: {step}"))?;
            }
            let outcome = kernel
                .run(self.program, &frame, metadata.into())
                .with_context(|| format!("packet {second}"))?;
            let names = |kind: fn(Kind) -> bool| {
                let counted = outcome.counters.iter().map(|(counter, _)| counter);
                counted.filter(move |c| kind(c.kind())).map(|c| c.name().to_owned()).collect::<Vec<_>>()
            };
            for (counter, count) in &outcome.counters {
                *counters.entry(counter.name().to_owned()).or_insert(0) += count;
            }
            said.push(Packet {
                before,
                packet,
                metadata,
                verdict: names(|kind| kind != Kind::Event).join(" "),
                events: names(|kind| kind == Kind::Event),
                backend: sent_to(&planned, &frame, &outcome)?,
            });
            came.push(frame);
            if outcome.action != Action::Drop.number() {
                went.push(Seen { second, frame: outcome.frame });
            }
        }
        let (mut services, mut backends) = (BTreeMap::<String, Traffic>::new(), BTreeMap::new());
        for (number, (packets, bytes, connections)) in kernel.tallies()? {
            // The agent does the same: the traffic of a service is that of its backends.
            let sum = services.entry(planned.service_of(number)?).or_default();
            sum.packets += packets;
            sum.bytes += bytes;
            sum.connections += connections;
            backends.insert(planned.backend(number)?, Traffic { packets, bytes, connections });
        }
        let expect =
            Expect { about: self.about, program: self.program, packets: said, counters, services, backends };
        Ok(Capture { name: self.name, config: self.config, came, went, expect })
    }
}

/// Takes a step, which is in words.
fn take(step: &str, planned: &mut PlannedTables, kernel: &mut KernelTables) -> Result<()> {
    let step: Step = step.parse()?;
    if step == Step::Evicted {
        kernel.evict()?;
    }
    let purged = planned.step(step)?;
    kernel.follow(planned, &purged)
}

/// The backend whose address is in the outer header, or whose next hop has the packet without one.
fn sent_to(planned: &PlannedTables, came: &[u8], outcome: &Outcome) -> Result<Option<String>> {
    // What we answer goes to no backend.
    if outcome.verdict().kind() == Kind::Answered
        || ![Action::Tx.number(), Action::Redirect.number()].contains(&outcome.action)
    {
        return Ok(None);
    }
    if outcome.frame.len() == came.len() {
        return planned.backend_behind(&outcome.frame[..6]).map(Some);
    }
    let at = if crate::frame::is_v4(&outcome.frame) { 30..34 } else { 38..54 };
    let Some(address) = outcome.frame.get(at) else { bail!("a frame without an outer header was sent") };
    planned.backend_at(address).map(Some)
}

/// Plays a capture again and reports how it differs; `None` = it does not differ.
pub fn compare(capture: &Capture, kernel: &mut KernelTables) -> Result<Option<String>> {
    let Capture { name: _, config: _, came: _, went, expect } = Replay::of(capture).record(kernel)?;
    for (number, (was, is)) in (1..).zip(capture.expect.packets.iter().zip(&expect.packets)) {
        if was != is {
            return Ok(Some(format!("packet {number}: expected {was:?}, found {is:?}")));
        }
    }
    if went != capture.went {
        let differ = went.iter().zip(&capture.went).find(|(is, was)| is != was);
        return Ok(Some(match differ {
            Some((is, was)) => {
                format!("packet {}: expected\n  {:02x?}\nfound\n  {:02x?}", was.second, was.frame, is.frame)
            }
            None => format!("expected {} packets to go, {} went", capture.went.len(), went.len()),
        }));
    }
    if expect != capture.expect {
        return Ok(Some(format!("expected {:?}, found {expect:?}", capture.expect)));
    }
    Ok(None)
}
