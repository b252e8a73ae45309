//! From a decision to the last slot: state, ring, plan and writes, into real maps, for one large configuration and for
//! many small services.

use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use lb_userspace::{
    agent::clock,
    config::{
        self,
        spec::{Limits, Spec},
    },
    health::Verdict,
    kernel::Kernel,
    net::Hop,
    reconcile::{
        Reconciler,
        backend::Sources,
        desired::{Desired, Service},
    },
    ring,
    state::{self, Observed},
};

use super::{
    super::row::{Definition, Part, Target},
    Pins, Sheet,
};

/// A configuration: the number of services, and of backends in each.
struct Size {
    id: &'static str,
    services: u32,
    backends: u32,
}

const SIZES: [Size; 2] = [
    Size { id: "1x10000", services: 1, backends: 10_000 },
    Size { id: "1000x10", services: 1_000, backends: 10 },
];

pub(super) fn definitions() -> Vec<Definition> {
    SIZES.iter().flat_map(rows).collect()
}

fn rows(size: &Size) -> Vec<Definition> {
    let Size { id: name, services, backends } = size;
    let many = *services > 1;
    let row = |id: &str, unit, what: &str| {
        let what = format!("{what}; {services} × {backends} backends");
        Definition::new(Part::Control, format!("change/{name}/{id}"), unit, what)
    };
    let unchanged = row("unchanged", "ms", "plan of what is so already");
    vec![
        row("decide", "ms", "states and rings, from nothing"),
        row("plan", "ms", "plan, from nothing"),
        row("apply", "ms", "all writes of that plan, to the last slot"),
        row("all", "ms", "from a decision to the last slot, from nothing"),
        if many { unchanged.target(Target::AtMost(50.0)) } else { unchanged },
        row("unchanged-writes", "entries", "what that plan writes").target(Target::AtMost(0.0)),
        row(
            "leave",
            "ms",
            "one backend leaves: from the decision (its service's ring again) to the last slot",
        ),
        row("leave-window", "ms", "of that, time in which a packet may still meet the old ring's slots"),
        row("leave-writes", "entries", "what that change writes"),
    ]
}

pub(super) fn measure(rounds: u32, sheet: &mut Sheet<'_>) -> Result<()> {
    for size in &SIZES {
        if !sheet.wants(&format!("change/{}/", size.id)) {
            continue;
        }
        let spec = spec(size)?;
        for round in 0..rounds {
            let (pins, kernel) = Pins::open(&format!("{}-{round}", size.id), spec.limits)?;
            one_round(size, &spec, Reconciler::new(kernel)?, sheet)?;
            drop(pins);
        }
    }
    Ok(())
}

fn one_round(size: &Size, spec: &Spec, mut tables: Reconciler<Kernel>, sheet: &mut Sheet<'_>) -> Result<()> {
    let id = |kind: &str| format!("change/{}/{kind}", size.id);
    let all = Instant::now();
    let mut desired = desired(spec);
    sheet.add_time(&id("decide"), all);
    let begun = Instant::now();
    let plan = tables.plan(&desired, clock::since())?;
    sheet.add_time(&id("plan"), begun);
    let begun = Instant::now();
    let applied = tables.apply(&plan)?;
    sheet.add_time(&id("apply"), begun);
    sheet.add_time(&id("all"), all);
    let slots = u64::from(size.services) * u64::from(size.backends) * 100;
    ensure!(applied.slots >= slots, "only {} slots were written, not {slots}", applied.slots);

    let begun = Instant::now();
    let again = tables.plan(&desired, clock::since())?;
    sheet.add_time(&id("unchanged"), begun);
    sheet.add(&id("unchanged-writes"), again.entries() as f64);

    // The backend in the middle of the service in the middle leaves.
    let which = spec.services.len() / 2;
    let mut smaller = spec.clone();
    let backends = &mut smaller.services[which].backends;
    backends.remove(backends.len() / 2);
    let begun = Instant::now();
    // The agent does the same: it keeps the rings of services that do not change.
    let only = Spec { services: vec![smaller.services[which].clone()], ..smaller.clone() };
    if let (Some(changed), Some(place)) =
        (self::desired(&only).services.pop(), desired.services.get_mut(which))
    {
        *place = changed;
    }
    let plan = tables.plan(&desired, clock::since())?;
    let writing = Instant::now();
    let applied = tables.apply(&plan)?;
    sheet.add_time(&id("leave-window"), writing);
    sheet.add_time(&id("leave"), begun);
    sheet.add(&id("leave-writes"), applied.writes as f64);
    ensure!(applied.slots > 0, "a backend left and no slot changed its owner");
    Ok(())
}

/// The `[limits]` of a file that does not set them.
pub(super) fn default_limits() -> Result<Limits> {
    Ok(spec(&Size { id: "", services: 1, backends: 1 })?.limits)
}

fn spec(size: &Size) -> Result<Spec> {
    let mut text = "[node]\ninterface = \"lo\"\nseed = \"bench\"\n".to_owned();
    for service in 0..size.services {
        let [.., upper, lower] = service.to_be_bytes();
        write!(
            text,
            "[[service]]\nname = \"web-{service}\"\nlisten = \"tcp/203.0.{upper}.{lower}:443\"\n\
             max_backends = {}\nhealth = false\n",
            size.backends
        )?;
        for backend in 0..size.backends {
            let [_, a, b, c] = (service * size.backends + backend).to_be_bytes();
            let address = IpAddr::from([10, 1 + a, b, c]);
            write!(text, "[[service.backend]]\nname = \"web-{backend}\"\naddress = \"{address}\"\n")?;
        }
    }
    parsed(&text)
}

/// Parses and checks a configuration.
pub(super) fn parsed(text: &str) -> Result<Spec> {
    let document = config::parse(text.as_bytes(), "bench").map_err(|errors| {
        anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    Ok(document.spec)
}

/// The desired state with every backend up, behind one router.
pub(super) fn desired(spec: &Spec) -> Desired {
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
        said: &|_, _| lb_userspace::health::Said::default(),
        doubted: &|_, _| None,
        failing: &|_, _| None,
        entered: &|_, _| None,
        now: 0,
    };
    let seed = ring::seed(&spec.node.seed);
    let services = spec
        .services
        .iter()
        .zip(state::effective(spec, observed))
        .map(|(service, state)| {
            let length = service.max_backends.length();
            let ring: Arc<[u32]> = ring::maglev(&seed, &state.entries(), length).into();
            Service::new(service, &state, ring, &Sources::default())
        })
        .collect();
    Desired { seed, configuration: 1, services, ..Desired::default() }
}
