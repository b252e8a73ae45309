//! Frames a second through a veth cable in native mode: live frames of BPF_PROG_TEST_RUN on the router's side, the
//! program under test on the balancer's, and a sink where the frames come back. Everything runs on the processors that
//! generate, so the rate is that of the whole path. What counts is the ratio to a bare program in the same place.

use std::{sync::Barrier, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod, TestRun as _, TestRunOptions,
    maps::{Array, PerCpuArray},
    programs::{Xdp, XdpMode, xdp::XdpLinkId},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use xtask::{
    lab::{BALANCER, Lab, Node, ROUTER},
    run,
};

use super::{
    super::{
        packet::{plain_world, reference},
        rig::Rig,
        row::{Definition, Formula, Part, Target},
    },
    Bench,
};
use crate::world::World;

/// Cables: the name of the router's end, the name of the balancer's end, and the queues.
const CABLES: [(&str, &str, u32); 2] = [("wire1", "wired1", 1), ("wire2", "wired2", 2)];
/// Flows of the generator.
const FLOWS: u32 = 1 << 16;
/// Frames that the kernel makes at once.
const BATCH: u32 = 64;

/// The programs on the balancer's side.
const PLACES: [(&str, &str); 3] = [
    ("tx", "a bare XDP_TX program"),
    ("grow", "one that makes room for 20 bytes and answers XDP_TX"),
    ("lb", "lb_xdp, TCP4 IPIP, 64k flows"),
];

/// `lb_ebpf::generator::Template`; the size is asserted below.
#[repr(C)]
#[derive(Clone, Copy)]
struct Template {
    head: [u8; 64],
    interface: u32,
    mask: u32,
}

const _: () = assert!(size_of::<Template>() == 72);

// SAFETY: repr(C) over integers; 64 + 4 + 4 bytes leave no padding.
unsafe impl Pod for Template {}

pub(super) fn definitions() -> Vec<Definition> {
    let row = |id: String, unit, what: String| Definition::new(Part::Lab, id, unit, what);
    let mut rows = Vec::new();
    for (_, _, queues) in CABLES {
        let of = match queues {
            1 => "1 queue".to_owned(),
            more => format!("{more} queues, as many processors generate"),
        };
        for (place, what) in PLACES {
            let id = format!("wire/{place}/queues={queues}");
            let what = format!("64-byte frames through veth and back: {what}; {of}");
            rows.push(row(id, "Mpps", what).quick(queues == 1));
            let id = format!("wire/{place}/loss/queues={queues}");
            rows.push(row(id, "%", format!("of them lost on that way; {of}")).quick(queues == 1));
        }
        let formula = Formula::Ratio(format!("wire/lb/queues={queues}"), format!("wire/tx/queues={queues}"));
        let what = format!("lb_xdp's rate by that of a bare XDP_TX in the same place; {of}");
        let ratio = row(format!("wire/ratio/queues={queues}"), "ratio", what).made_of(formula);
        rows.push(ratio.target(Target::AtLeast(0.85)).quick(queues == 1));
    }
    rows
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    CABLES.iter().try_for_each(|ends| cable(bench.lab, *ends))?;
    let (left, right) = (bench.lab.node(ROUTER)?.clone(), bench.lab.node(BALANCER)?.clone());
    let mut rig = Rig::load()?;
    let mut world = plain_world()?;
    for (near, far, queues) in CABLES {
        if !bench.wants(&format!("wire/lb/queues={queues}")) {
            continue;
        }
        let cpus = processors(queues as usize);
        if cpus.len() < queues as usize {
            bench.skip(&format!("wire/ratio/queues={queues}"), "there are not as many processors");
            continue;
        }
        let (near_number, far_number) = ends(bench.lab, (near, far))?;
        for backend in 1..=100 {
            world.change_backend(backend, |record| record.interface = far_number)?;
        }
        let sink = attach(&left, rig.program("sink")?, near)?;
        prepare(&mut rig, &reference(), near_number, FLOWS)?;
        for round in 0..=bench.settings.rounds.min(7) {
            for (place, _) in PLACES {
                let (rate, loss) =
                    one_run(&mut rig, &mut world, place, (&left, &right, far), &cpus, bench.settings.packets)
                        .with_context(|| format!("wire/{place}/queues={queues}"))?;
                // The first round allocates pages and trains branch predictors.
                if round > 0 {
                    bench.add(&format!("wire/{place}/queues={queues}"), rate);
                    bench.add(&format!("wire/{place}/loss/queues={queues}"), loss);
                }
            }
        }
        rig.program("sink")?.detach(sink)?;
    }
    Ok(())
}

/// Makes a cable, which goes away with the lab.
pub(super) fn cable(lab: &Lab, (near, far, queues): (&str, &str, u32)) -> Result<()> {
    let (left, right) = (lab.config().namespace(ROUTER), lab.config().namespace(BALANCER));
    let ip = |arguments: &str| {
        let mut command = std::process::Command::new("ip");
        run::capture(command.args(arguments.split(' '))).map(drop)
    };
    let many = format!("numtxqueues {queues} numrxqueues {queues}");
    ip(&format!("link add {near} netns {left} {many} type veth peer name {far} netns {right} {many}"))?;
    ip(&format!("-n {left} link set {near} up"))?;
    ip(&format!("-n {right} link set {far} up"))
}

/// The interface numbers of the cable's ends.
pub(super) fn ends(lab: &Lab, (near, far): (&str, &str)) -> Result<(u32, u32)> {
    let number = |node: &str, name: &str| -> Result<u32> {
        lab.node(node)?.enter(|| nix::net::if_::if_nametoindex(name))?.with_context(|| name.to_owned())
    };
    Ok((number(ROUTER, near)?, number(BALANCER, far)?))
}

/// Prepares the generator to send this frame, of as many flows, into the router's end.
pub(super) fn prepare(rig: &mut Rig, frame: &[u8], near: u32, flows: u32) -> Result<()> {
    let mut head = [0; 64];
    head.copy_from_slice(frame.get(..64).context("a frame of 64 bytes")?);
    let template = Template { head, interface: near, mask: flows - 1 };
    Array::<_, Template>::try_from(rig.map_mut("TEMPLATE")?)?.set(0, template, 0)?;
    Ok(())
}

pub(super) fn attach(node: &Node, program: &mut Xdp, interface: &str) -> Result<XdpLinkId> {
    node.enter(|| program.attach(interface, XdpMode::Driver))?
        .with_context(|| format!("attaching to {interface} in the driver"))
}

/// The processors that generate, the last ones of the machine first.
pub(super) fn processors(count: usize) -> Vec<usize> {
    let online = std::thread::available_parallelism().map_or(1, usize::from);
    // `available_parallelism` counts only processors that this thread may run on; here all of the machine count.
    let all = std::fs::read_to_string("/proc/cpuinfo")
        .map_or(online, |text| text.lines().filter(|line| line.starts_with("processor")).count());
    (0..all).rev().take(count).collect()
}

/// Millions of frames a second that came back, and the share of sent frames that did not come back, in %.
fn one_run(
    rig: &mut Rig,
    world: &mut World,
    place: &str,
    (left, right, far): (&Node, &Node, &str),
    cpus: &[usize],
    frames: u32,
) -> Result<(f64, f64)> {
    let program = match place {
        "tx" => rig.program("floor_tx")?,
        "grow" => rig.program("floor_grow")?,
        _ => world.program("lb_xdp")?,
    };
    let link = attach(right, program, far)?;
    let sent = send(rig, left, cpus, frames, &reference());
    match place {
        "tx" => rig.program("floor_tx")?.detach(link)?,
        "grow" => rig.program("floor_grow")?.detach(link)?,
        _ => world.program("lb_xdp")?.detach(link)?,
    }
    let Sent { sent, taken, time } = sent?;
    Ok((taken as f64 / time.as_secs_f64() / 1e6, (sent as f64 - taken as f64) / sent as f64 * 100.0))
}

/// The number of frames sent, the number that came back, and the time of the slowest processor.
pub(super) struct Sent {
    pub(super) sent: u64,
    pub(super) taken: u64,
    pub(super) time: Duration,
}

/// Sends `frames` frames from each of these processors at once.
pub(super) fn send(rig: &mut Rig, left: &Node, cpus: &[usize], frames: u32, frame: &[u8]) -> Result<Sent> {
    rig.program("generate")?;
    let before = counts(rig)?;
    let generate: &Xdp = rig.program("generate")?;
    let start = Barrier::new(cpus.len());
    let times: Vec<Result<Duration>> = std::thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .map(|cpu| {
                let start = &start;
                scope.spawn(move || {
                    left.move_thread()?;
                    let mut one = CpuSet::new();
                    one.set(*cpu)?;
                    sched_setaffinity(Pid::from_raw(0), &one)?;
                    let mut options = TestRunOptions::new();
                    options.data_in = Some(frame);
                    options.repeat = frames;
                    options.attrs = options.attrs.xdp_live_frames(BATCH);
                    start.wait();
                    // The kernel's own time for one frame: wall time includes the set-up of the call, which is long.
                    let result = generate.test_run(options).context("generating live frames")?;
                    Ok(result.duration * frames)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    // Frames that are still in a queue arrive within a few runs of the receiver.
    std::thread::sleep(Duration::from_millis(5));
    let after = counts(rig)?;
    let mut longest = Duration::ZERO;
    for time in times {
        longest = longest.max(time?);
    }
    let (sent, taken) = (after.0 - before.0, after.1 - before.1);
    ensure!(taken > 0, "of {sent} frames none came back");
    Ok(Sent { sent, taken, time: longest })
}

/// Frames sent and received so far, over all processors.
fn counts(rig: &mut Rig) -> Result<(u64, u64)> {
    let sent: PerCpuArray<_, u64> = PerCpuArray::try_from(rig.map_mut("SENT")?)?;
    let sent = sent.get(&0, 0)?.iter().sum();
    let taken: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(rig.map_mut("TAKEN")?)?;
    let taken = taken.get(&0, 0)?.iter().map(|[frames, _]| frames).sum();
    Ok((sent, taken))
}
