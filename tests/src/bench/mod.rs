//! The rows of the benchmark. Every program is called by the same rig (`lb-ebpf/src/bench.rs`), rows take turns, and
//! the kernel's own `duration` is used, so that what the machine does meanwhile hits all rows alike.

mod control;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, ProgramArray},
    programs::Xdp,
};
use lb_common::{backend::Backend, hash::Seed, slot::Slot, wire::protocol};
use serde_json::json;

use crate::{
    frame::{self, Segment},
    world::{self, Sizes, World},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bench"));

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    /// `ns` for one packet (or one hash), `ms` for the control plane, `ratio` or `entries`.
    pub unit: &'static str,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Above the floor it is compared with, in ns.
    pub net: Option<f64>,
    /// What it must not exceed, in words.
    pub target: Option<String>,
    pub met: Option<bool>,
}

/// `lb_ebpf::bench::Rig`; the layout is asserted below.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rig {
    length: u32,
    mask: u32,
    next: u64,
    head: [u8; 16],
}

const _: () = assert!(size_of::<Rig>() == 32);

// SAFETY: repr(C) over integers; 4 + 4 + 8 + 16 bytes leave no padding.
unsafe impl Pod for Rig {}

/// A program in front of a frame.
struct Case {
    name: &'static str,
    /// `None` = the program named in the second field of the bench's own object.
    world: Option<usize>,
    program: &'static str,
    frame: Vec<u8>,
    flows: u32,
    /// Work in one run beside the packet: hashes.
    divisor: f64,
    /// What the program must answer.
    action: u32,
}

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Slots and backends of the measured service.
const SLOTS: u32 = 65_537;
const BACKENDS: u32 = 100;

fn vip() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 10], 443))
}

/// A world with one service, its ring dealt to [`BACKENDS`] backends in turn.
fn balancer() -> Result<World> {
    let sizes = Sizes { services: 1024, backends: 1024, slots: SLOTS, flows: 1 << 16 };
    let mut world = World::new(sizes, Seed([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]))?;
    for number in 1..=BACKENDS {
        let to: IpAddr = [10, 0, 1, number as u8].into();
        world.set_backend(
            number,
            Backend { source_bits: 8, ..world::backend([10, 0, 0, 0].into(), to, false) },
        )?;
    }
    let slots: Vec<Slot> = (0..SLOTS).map(|i| Slot::stable(i % BACKENDS + 1)).collect();
    world.add_service(vip(), protocol::TCP, &slots)?;
    Ok(world)
}

fn cases() -> Vec<Case> {
    let ours = frame::tcp(SocketAddr::from(([10, 0, 0, 1], 40_000)), vip(), Segment::Data, 0, 10);
    let mut others = ours.clone();
    others[33] = 99;
    frame::repair_ipv4_checksum(&mut others, 14);
    let floor = |name, program, action| Case {
        name,
        world: None,
        program,
        frame: ours.clone(),
        flows: 1 << 20,
        divisor: 1.0,
        action,
    };
    let packet = |name, frame: &Vec<u8>, flows, action| Case {
        name,
        world: Some(0),
        program: "lb_xdp",
        frame: frame.clone(),
        flows,
        divisor: 1.0,
        action,
    };
    let hash = |name, program| Case {
        name,
        world: None,
        program,
        frame: ours.clone(),
        flows: 1,
        divisor: 64.0,
        action: XDP_PASS,
    };
    vec![
        floor("floor/pass", "floor_pass", XDP_PASS),
        floor("floor/grow", "floor_grow", XDP_TX),
        packet("packet/flows=1", &ours, 1, XDP_TX),
        packet("packet/flows=1000", &ours, 1 << 10, XDP_TX),
        packet("packet/flows=65536", &ours, 1 << 16, XDP_TX),
        packet("packet/flows=1000000", &ours, 1 << 20, XDP_TX),
        packet("packet/not-ours", &others, 1 << 10, XDP_PASS),
        hash("hash/none", "hash_none"),
        hash("hash/ours-ipv4", "hash_flow_v4"),
        hash("hash/ours-ipv6", "hash_flow_v6"),
        hash("hash/jhash-ipv4", "hash_jhash_v4"),
        hash("hash/siphash13-ipv4", "hash_siphash13_v4"),
    ]
}

/// Every name [`run`] may be asked for.
pub fn row_names() -> Vec<&'static str> {
    cases().iter().map(|case| case.name).chain(control::NAMES).collect()
}

/// Measures the wanted rows (floors always), `rounds` times `packets` packets each.
pub fn run(rounds: u32, packets: u32, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Row>> {
    pin_to_one_cpu()?;
    let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading the benchmarks' object")?;
    let mut worlds = [balancer()?];
    let cases: Vec<Case> =
        cases().into_iter().filter(|case| case.name.starts_with("floor/") || wanted(case.name)).collect();
    xdp(&mut ebpf, "rig")?.load()?;
    for case in cases.iter().filter(|case| case.world.is_none()) {
        xdp(&mut ebpf, case.program)?.load().with_context(|| format!("loading {}", case.program))?;
    }
    let mut samples = vec![Vec::new(); cases.len()];
    for round in 0..=rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let ns = measure(&mut ebpf, &mut worlds, case, packets)?;
            // The first round warms caches and allocates pages.
            if round > 0 {
                samples.push(ns / case.divisor);
            }
        }
    }
    let mut rows = table(&cases, samples);
    if control::NAMES.iter().any(|name| wanted(name)) {
        rows.extend(control::run(rounds.min(5))?);
    }
    Ok(rows)
}

/// A row of samples, without floor or target.
fn row(name: &str, unit: &'static str, mut samples: Vec<f64>) -> Row {
    samples.sort_by(f64::total_cmp);
    let at = |i: usize| samples.get(i).copied().unwrap_or(f64::NAN);
    Row {
        name: name.to_owned(),
        unit,
        median: at(samples.len() / 2),
        min: at(0),
        max: at(samples.len().saturating_sub(1)),
        net: None,
        target: None,
        met: None,
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// Nanoseconds for one run of a case, as the kernel measured them.
fn measure(ebpf: &mut Ebpf, worlds: &mut [World], case: &Case, packets: u32) -> Result<f64> {
    let under_test = match case.world {
        Some(world) => worlds[world].program(case.program)?.fd()?.try_clone()?,
        None => xdp(ebpf, case.program)?.fd()?.try_clone()?,
    };
    let mut programs = ProgramArray::try_from(ebpf.map_mut("UNDER_TEST").context("no UNDER_TEST")?)?;
    programs.set(0, &under_test, 0).context("this program cannot be tail-called by the rig")?;
    let mut head = [0; 16];
    head.copy_from_slice(&case.frame[..16]);
    let rig = Rig { length: case.frame.len() as u32, mask: case.flows - 1, next: 0, head };
    Array::<_, Rig>::try_from(ebpf.map_mut("RIG").context("no RIG")?)?.set(0, rig, 0)?;
    let packets = if case.divisor > 1.0 { (f64::from(packets) / case.divisor) as u32 + 1 } else { packets };
    let mut out = vec![0; case.frame.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&case.frame);
    options.data_out = Some(&mut out);
    options.repeat = packets;
    let result = xdp(ebpf, "rig")?.test_run(options).with_context(|| format!("running {}", case.name))?;
    ensure!(
        result.return_value == case.action,
        "{}: XDP action {} where {} was expected",
        case.name,
        result.return_value,
        case.action
    );
    Ok(result.duration.as_nanos() as f64)
}

fn table(cases: &[Case], samples: Vec<Vec<f64>>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (case, samples) in cases.iter().zip(samples) {
        rows.push(row(case.name, "ns", samples));
    }
    let median = |rows: &[Row], name: &str| rows.iter().find(|row| row.name == name).map(|row| row.median);
    let (pass, grow) = (median(&rows, "floor/pass"), median(&rows, "floor/grow"));
    let none = median(&rows, "hash/none");
    for row in &mut rows {
        let floor = match row.name.as_str() {
            "packet/not-ours" => pass,
            name if name.starts_with("packet/") => grow,
            name if name.starts_with("hash/") => none,
            _ => None,
        };
        row.net = floor.map(|floor| row.median - floor);
    }
    if let (Some(one), Some(million)) =
        (median(&rows, "packet/flows=1"), median(&rows, "packet/flows=1000000"))
    {
        let ratio = million / one;
        let mut flat = row("flat: 1,000,000 flows / 1 flow", "ratio", vec![ratio]);
        flat.target = Some("<= 1.15".to_owned());
        flat.met = Some(ratio <= 1.15);
        rows.push(flat);
    }
    rows
}

/// The rows for scripts.
pub fn json(rows: &[Row]) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let Row { name, unit, median, min, max, net, target, met } = row;
            json!({ "id": name, "unit": unit, "median": median, "min": min, "max": max, "net": net,
                    "target": target, "met": met })
        })
        .collect();
    json!({ "rows": rows })
}

/// Keeps this thread on the last CPU it may use, where other work is least likely.
fn pin_to_one_cpu() -> Result<()> {
    use nix::{
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("asking for the CPUs we may use")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no CPU to run on")?)?;
    sched_setaffinity(me, &one).context("pinning to one CPU")
}
