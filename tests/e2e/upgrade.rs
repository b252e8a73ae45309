//! An upgrade to a build with one counter and one map more, and back, while connections are open and requests are made. The
//! younger build is a copy of this one with these two additions: `cargo xtask test` makes it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::{MapData, MapInfo},
    programs::loaded_programs,
};
use lb_common::{
    counter::{Counter, Kind},
    map::name,
};
use nix::sys::signal::Signal;
use xtask::{
    lab::{BALANCER, CLIENT, Node, bpffs},
    wait,
};

use crate::{
    Test,
    client::requests_from,
    echo::Held,
    scene::{Scene, none_failed, on_usual},
};

pub(crate) const TESTS: &[Test] =
    &[("upgrade::a_counter_and_a_map_more_leave_all_other_maps_and_connections", there_and_back)];

/// The counter and the map that only the younger build has.
const COUNTER: &str = "younger";
const MAP: &str = "YOUNGER";

/// The younger agent, next to `lbd`.
const YOUNGER: &str = "lbd-younger";

fn there_and_back() -> Result<()> {
    on_usual(|scene| {
        let older = scene.agent.binaries.lbd.clone();
        let younger = older.with_file_name(YOUNGER);
        ensure!(younger.exists(), "{} is not there: `cargo xtask test` builds it", younger.display());
        // Slots that are tracked, and flows that are recorded.
        scene.agent.ctl(&["backend", "set", "echo/backend-1", "--weight", "50"])?;
        let held = Held::open(&scene.lab, 30)?;
        held.check(None).context("before the upgrade")?;
        let maps = maps(scene)?;
        ensure!(maps.contains_key(name::FLOWS) && !maps.contains_key(MAP), "{maps:?}");

        under_requests(scene, |scene| change(scene, &younger)).context("the upgrade")?;
        held.check(None).context("after the upgrade")?;
        let with_more = self::maps(scene)?;
        let others: BTreeMap<_, _> =
            with_more.iter().filter(|(map, _)| *map != MAP).map(|(map, id)| (map.clone(), *id)).collect();
        ensure!(others == maps && with_more.contains_key(MAP), "{with_more:?} became of {maps:?}");

        under_requests(scene, |scene| change(scene, &older)).context("back")?;
        held.check(None).context("after the way back")?;
        ensure!(self::maps(scene)? == maps, "{:?} became of {maps:?}", self::maps(scene)?);
        ensure!(scene.agent.counter(COUNTER).is_err(), "the older build has the counter");

        under_requests(scene, |scene| change(scene, &younger)).context("the second upgrade")?;
        held.check(None).context("after the second upgrade")?;
        ensure!(
            self::maps(scene)?[MAP] != with_more[MAP],
            "a map that no agent kept in step is in use again"
        );

        // All packets went through programs that count each of them for a backend, too. The younger build alone counts them
        // once more, if its map was filled before the first packet.
        drop(held);
        let before = settled(scene)?;
        let packets: u64 = totals(scene)?.values().sum();
        ensure!(before.forwarded == packets, "{} counted, {packets} for all backends", before.forwarded);
        ensure!(0 < before.younger && before.younger < before.forwarded, "{before:?}");
        none_failed(&requests_from(&client(scene)?, false, 50)?)?;
        let after = settled(scene)?;
        let more = (after.forwarded - before.forwarded, after.younger - before.younger);
        ensure!(more.0 > 100 && more.0 == more.1, "forwarded and counted by the younger build: {more:?}");
        Ok(())
    })
}

/// Kills the agent and starts this one. No counter may be less than before, those of the build before the last one neither.
fn change(scene: &mut Scene, lbd: &PathBuf) -> Result<()> {
    let before = counters(scene)?;
    scene.agent.end(Signal::SIGKILL)?;
    scene.agent.binaries.lbd.clone_from(lbd);
    scene.agent.start(&mut scene.lab, &[])?;
    let uses = program_uses_the_map(scene)?;
    ensure!(uses == lbd.ends_with(YOUNGER), "{}: the program uses {MAP}: {uses}", lbd.display());
    let after = counters(scene)?;
    for (counter, was) in &before {
        let is = after.get(counter).copied();
        ensure!(is.is_none() && counter == COUNTER || is >= Some(*was), "{counter}: {was} became {is:?}");
    }
    let status = scene.agent.ctl(&["status"])?;
    ensure!(status["adopted"] == true, "not adopted: {status}");
    scene.agent.wait_until_all_up()
}

/// Whether the program on the interface was compiled by the younger build.
fn program_uses_the_map(scene: &Scene) -> Result<bool> {
    let (_, number) = scene.agent.attached(&scene.lab)?;
    let mut running = loaded_programs().filter_map(Result::ok);
    let program = running.find(|program| u64::from(program.id()) == number).context("no such program")?;
    let maps = program.map_ids()?.context("the kernel does not say which maps a program uses")?;
    let named = |id| -> Result<bool> { Ok(MapInfo::from_id(id)?.name_as_str() == Some(MAP)) };
    Ok(maps.into_iter().map(named).collect::<Result<Vec<_>>>()?.contains(&true))
}

/// Does something while clients make requests over both families, which must all succeed.
fn under_requests(scene: &mut Scene, work: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let (over, made, client) = (AtomicBool::new(false), AtomicUsize::new(0), client(scene)?);
    let (requests, done) = std::thread::scope(|scope| {
        let requests = scope.spawn(|| {
            let mut answers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                for v6 in [false, true] {
                    answers.extend(requests_from(&client, v6, 1)?);
                }
                made.store(answers.len(), Ordering::Relaxed);
            }
            anyhow::Ok(answers)
        });
        let more = |than: usize| {
            wait::until("requests are made", wait::limit(), || {
                let made = made.load(Ordering::Relaxed);
                Ok(if made > than + 10 || requests.is_finished() { Ok(()) } else { Err(format!("{made}")) })
            })
        };
        let done = more(0).and_then(|()| work(scene)).and_then(|()| more(made.load(Ordering::Relaxed)));
        over.store(true, Ordering::Relaxed);
        (requests.join(), done)
    });
    done?;
    let Ok(answers) = requests else { bail!("the client panicked") };
    none_failed(&answers?)
}

fn client(scene: &Scene) -> Result<Node> {
    Ok(scene.lab.node(CLIENT)?.clone())
}

/// The kernel's numbers of the pinned maps.
fn maps(scene: &Scene) -> Result<BTreeMap<String, u32>> {
    let config = scene.lab.config();
    let pins = bpffs(&config.prefix, BALANCER).join("lb").join(&config.instance);
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(&pins).with_context(|| format!("{}", pins.display()))? {
        let entry = entry?;
        // What is pinned besides are links.
        if let Ok(map) = MapData::from_pin(entry.path()) {
            maps.insert(entry.file_name().to_string_lossy().into_owned(), map.info()?.id());
        }
    }
    // A start makes these again: they do not belong to the layout.
    maps.retain(|map, _| ![name::LOSSES, name::LOSS_PROGRAMS].contains(&map.as_str()));
    Ok(maps)
}

fn counters(scene: &Scene) -> Result<BTreeMap<String, u64>> {
    let stats = scene.agent.ctl(&["stats", "--all"])?;
    let counters = stats["counters"].as_array().context("no counters")?;
    let value = |counter: &serde_json::Value| {
        Some((counter["name"].as_str()?.to_owned(), counter["value"].as_u64()?))
    };
    counters.iter().map(|counter| value(counter).with_context(|| format!("{counter}"))).collect()
}

/// Packets that each backend got.
fn totals(scene: &Scene) -> Result<BTreeMap<String, u64>> {
    let stats = scene.agent.ctl(&["stats", "--all"])?;
    let backends = stats["backends"].as_object().context("no backends")?;
    let packets = |(name, totals): (&String, &serde_json::Value)| {
        Ok((name.clone(), totals["packets"].as_u64().with_context(|| format!("{name}: {totals}"))?))
    };
    backends.iter().map(packets).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    forwarded: u64,
    younger: u64,
}

/// The counts, when no packet comes any more.
fn settled(scene: &Scene) -> Result<Counts> {
    let mut last = None;
    wait::until("no packet comes any more", wait::limit(), || {
        let counters = counters(scene)?;
        let of = |counter: &str| counters.get(counter).copied().with_context(|| format!("no {counter}"));
        let is_forwarded = |counter: &&Counter| {
            counter.kind() == Kind::Forwarded && !matches!(counter, Counter::Decapsulated)
        };
        let forwarded = Counter::ALL.iter().filter(is_forwarded).map(|counter| of(counter.name()));
        let counts = Counts { forwarded: forwarded.sum::<Result<u64>>()?, younger: of(COUNTER)? };
        let before = last.replace(counts);
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(if before == Some(counts) { Ok(counts) } else { Err(format!("{counts:?}")) })
    })
}
