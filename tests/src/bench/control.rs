//! The control plane's rows: one service of 10,000 backends, from its file to the last slot in real kernel maps.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use lb_userspace::{
    agent::clock,
    config::{self, spec::Spec},
    dataplane::kernel::{self, Kernel},
    health::Verdict,
    net::Hop,
    reconcile::{
        Reconciler,
        backend::Sources,
        desired::{Desired, Service},
    },
    ring,
    state::{self, Observed},
};

use super::{Row, row};

/// Backends of the one service.
pub(super) const BACKENDS: u32 = 10_000;

/// Names of the rows, in the order of the table.
pub(super) const NAMES: [&str; 5] = [
    "control/ring-10000-backends",
    "control/apply-10000-backends",
    "control/ring+apply-10000-backends",
    "control/unchanged-10000-backends",
    "control/rendezvous-10000-backends",
];

/// Pins of the benchmark's own, removed when it ends.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = kernel::detach(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Measures all rows, wall clock, `rounds` times with new maps.
pub(super) fn run(rounds: u32) -> Result<Vec<Row>> {
    let spec = spec()?;
    let mut samples = NAMES.map(|_| Vec::new());
    let mut unchanged_writes = 0;
    for round in 0..rounds {
        let pins = Pins(format!("/sys/fs/bpf/lb/bench-{}-{round}", std::process::id()).into());
        let options = kernel::Options { pins: pins.0.clone(), limits: spec.limits, bpf_log: None };
        let (kernel, _) = Kernel::open(&options).context("making maps for the benchmark")?;
        let mut reconciler = Reconciler::new(kernel)?;

        let begun = Instant::now();
        let desired = desired(&spec);
        let ring = begun.elapsed();
        let plan = reconciler.plan(&desired, clock::since())?;
        let applied = reconciler.apply(&plan)?;
        let all = begun.elapsed();
        ensure!(applied.slots >= 1_000_000, "only {} slots were written", applied.slots);

        let begun = Instant::now();
        let again = reconciler.plan(&desired, clock::since())?;
        let unchanged = begun.elapsed();
        unchanged_writes = again.entries();

        let begun = Instant::now();
        let owners = rendezvous(&spec)?;
        let rendezvous = begun.elapsed();
        ensure!(owners >= 1_000_000, "rendezvous dealt only {owners} slots");

        for (samples, time) in samples.iter_mut().zip([ring, all - ring, all, unchanged, rendezvous]) {
            samples.push(time.as_secs_f64() * 1e3);
        }
    }
    let mut rows: Vec<Row> =
        NAMES.iter().zip(samples).map(|(name, samples)| row(name, "ms", samples)).collect();
    rows[2].target = Some("<= 1000".to_owned());
    rows[2].met = Some(rows[2].median <= 1000.0);
    let mut writes = row("control/unchanged-writes", "entries", vec![unchanged_writes as f64]);
    writes.target = Some("0".to_owned());
    writes.met = Some(unchanged_writes == 0);
    rows.push(writes);
    Ok(rows)
}

/// The other builder's ring over the same backends; how many slots somebody owns.
fn rendezvous(spec: &Spec) -> Result<usize> {
    let service = spec.services.first().context("the benchmark has no service")?;
    let entries: Vec<ring::Entry<'_>> =
        service.backends.iter().map(|b| ring::Entry { name: &b.name, weight: b.weight }).collect();
    let length = lb_common::ring::length_for(service.max_backends).unwrap_or(0);
    let seed = ring::seed(&spec.node.seed);
    let owners = ring::build(ring::Builder::Rendezvous, &seed, &entries, length);
    Ok(owners.iter().filter(|&&owner| owner != 0).count())
}

fn spec() -> Result<Spec> {
    let mut text = format!(
        "[node]\ninterface = \"lo\"\nseed = \"bench\"\n[[service]]\nname = \"web\"\n\
         listen = \"tcp/203.0.113.10:443\"\nmax_backends = {BACKENDS}\nhealth = false\n"
    );
    for i in 0..BACKENDS {
        let address = IpAddr::from([10, 1, (i >> 8) as u8, i as u8]);
        text.push_str(&format!("[[service.backend]]\nname = \"web-{i}\"\naddress = \"{address}\"\n"));
    }
    let document = config::parse(text.as_bytes(), "bench").map_err(|errors| {
        anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    Ok(document.spec)
}

/// Everything up, behind one router.
fn desired(spec: &Spec) -> Desired {
    let hop = |_: IpAddr| {
        Ok(Hop {
            interface: 1,
            interface_name: "lo".to_owned(),
            via: IpAddr::from([10, 0, 0, 254]),
            mac: [2, 0, 0, 0, 0, 1],
            local_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            source: IpAddr::from([10, 0, 0, 1]),
        })
    };
    let observed = Observed {
        health: &|_, _| Verdict::Up,
        hops: &hop,
        before: &|_, _| None,
        entered: &|_, _| None,
        now: 0,
    };
    let seed = ring::seed(&spec.node.seed);
    let services = spec
        .services
        .iter()
        .zip(state::effective(spec, observed))
        .map(|(service, state)| {
            let length = lb_common::ring::length_for(service.max_backends).unwrap_or(0);
            let ring: Arc<[u32]> = ring::maglev(&seed, &state.entries(), length).into();
            Service::new(service, &state, ring, &Sources::default())
        })
        .collect();
    Desired { seed, configuration: 1, services }
}
