//! The agent, in a process of its own, is killed by SIGKILL before one of its writes of maps, files, pins and links, for
//! each kind of change: packets reach an allowed backend throughout, and the next agent finds one of the two states.
//!
//! `change` has the changes, `fault` says to the agent where to die, `host` carries a try out, `traffic` judges packets.
//! The writes that are tried are drawn at random: `LB_FAULT_SEED` repeats a run, `LB_FAULT_ALL=1` tries all writes, some
//! five thousand, `LB_FAULT_CHANGE=drained` tries the changes that have this word in their names.

mod change;
mod fault;
mod host;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{fuzz::Random, privilege, test_name};

use self::{
    change::Change,
    host::{End, Host, Known},
};
use crate::world::isolated;

/// The test tries each kind of change for this time, and until two agents have died.
const TIME: Duration = Duration::from_millis(5500);

/// Kinds of changes that run in parallel.
const AT_ONCE: usize = 2;

/// The result of all tries of a kind.
#[derive(Default)]
struct Tally {
    /// Deaths, by the kind of write that did not happen.
    before: BTreeMap<&'static str, u64>,
    changed: u64,
    survived: u64,
    packets: u64,
    writes: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, changed, survived, packets, writes } = self;
        let deaths: u64 = before.values().sum();
        write!(
            f,
            "{writes} writes; {deaths} deaths {before:?}, {changed} of them behind the point of no return; {survived} tries \
             were over before; {packets} packets"
        )
    }
}

/// Draws the writes to try, one after the other.
struct Drawn {
    random: Random,
    all: bool,
    until: Instant,
    tried: BTreeSet<u64>,
}

impl Drawn {
    fn new(seed: u64) -> Self {
        let all = env::var_os("LB_FAULT_ALL").is_some();
        Self { random: Random::new(seed), all, until: Instant::now() + TIME, tried: BTreeSet::new() }
    }

    /// The next one of `writes` that has not been tried; `None` = enough, after this many deaths.
    fn next(&mut self, writes: u64, deaths: u64) -> Option<u64> {
        let tried = self.tried.len() as u64;
        let enough = !self.all && deaths >= 2 && Instant::now() > self.until;
        if enough || tried >= writes {
            return None;
        }
        let mut at = match self.all {
            true => tried,
            // Writes of files come first, and are few: every other try is one of the first writes.
            false if tried.is_multiple_of(2) => self.random.below(writes.min(10) as usize) as u64,
            false => self.random.below(writes as usize) as u64,
        };
        while !self.tried.insert(at) {
            at = (at + 1) % writes;
        }
        Some(at)
    }
}

/// Tries a kind of change until enough writes were tried.
fn tries(change: &Arc<Change>, seed: u64) -> Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let drawn = Arc::new(Mutex::new(Drawn::new(seed)));
    let known: Arc<Mutex<Option<Known>>> = Arc::default();
    // Where nothing undoes the change, each try is on a host of its own.
    loop {
        let (change, tally, drawn, known) = (change.clone(), tally.clone(), drawn.clone(), known.clone());
        let more = Arc::new(Mutex::new(false));
        let again = more.clone();
        isolated(change.name, move |world| {
            let change = &*change;
            let (mut tally, mut drawn, mut known) = (locked(&tally), locked(&drawn), locked(&known));
            let mut host = Host::new(world, change)?;
            let known = match &mut *known {
                Some(known) => known,
                none => {
                    let new = none.insert(host.learn()?);
                    tally.writes = new.writes;
                    if change.undo.is_none() {
                        *locked(&again) = true;
                        return Ok(());
                    }
                    host.undo(new)?;
                    new
                }
            };
            while let Some(at) = drawn.next(known.writes, tally.before.values().sum()) {
                let end = host.kill_after(at, known).with_context(|| {
                    format!("killed after {at} of {} writes; the agent's log:\n{}", known.writes, host.log())
                })?;
                match end {
                    End::Survived { writes } => {
                        tally.survived += 1;
                        known.writes = writes.clamp(1, known.writes);
                    }
                    End::Killed { before, changed } => {
                        *tally.before.entry(before).or_default() += 1;
                        tally.changed += u64::from(changed);
                    }
                }
                if change.undo.is_none() {
                    *locked(&again) = true;
                    break;
                }
                host.undo(known)?;
            }
            tally.packets += host.traffic.packets;
            Ok(())
        })?;
        if !*locked(&more) {
            break;
        }
    }
    let tally = std::mem::take(&mut *locked(&tally));
    Ok(tally)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn death_before_any_write_leaves_one_of_two_states() -> Result<()> {
    if !privilege::may_load_programs() || !privilege::may_make_namespaces() {
        privilege::skip(test_name!(), "needs root (namespaces, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)");
        return Ok(());
    }
    if !host::is_built() {
        let how =
            "`cargo build -p lb-userspace --features fault-injection --bin lbd-fault`, or `cargo xtask test`";
        privilege::skip(test_name!(), &format!("no agent that kills itself was built: {how}"));
        return Ok(());
    }
    let seed = match env::var("LB_FAULT_SEED") {
        Ok(seed) => seed.parse().context("LB_FAULT_SEED is not a number")?,
        Err(_) => std::time::UNIX_EPOCH.elapsed()?.as_micros() as u64,
    };
    println!("faults: seed {seed}");
    let only = env::var("LB_FAULT_CHANGE").unwrap_or_default();
    let changes = change::all().into_iter().filter(|change| change.name.contains(&only));
    let changes: Vec<Arc<Change>> = changes.map(Arc::new).collect();
    ensure!(!changes.is_empty(), "LB_FAULT_CHANGE: no change has `{only}` in its name");
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<&str, Result<Tally>>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(change) = changes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = tries(change, seed);
                    if let Ok(tally) = &outcome {
                        println!("  {}: {tally}", change.name);
                    }
                    locked(&done).insert(change.name, outcome);
                }
            });
        }
    });
    let (mut before, mut changed, mut packets) = (BTreeMap::<&str, u64>::new(), 0, 0);
    for (name, tally) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let tally = tally.with_context(|| format!("{name}, seed {seed}"))?;
        let deaths: u64 = tally.before.values().sum();
        ensure!(deaths > 0, "{name}: no agent died in {} writes", tally.writes);
        for (kind, deaths) in tally.before {
            *before.entry(kind).or_default() += deaths;
        }
        (changed, packets) = (changed + tally.changed, packets + tally.packets);
    }
    let deaths: u64 = before.values().sum();
    let kinds: Vec<String> = before.iter().map(|(kind, deaths)| format!("{deaths} {kind}")).collect();
    println!(
        "counted faults: {deaths} agents killed by SIGKILL before a write ({}) in {} kinds of change, {} found as they \
         were and {changed} as they were to be, 0 in between; {packets} packets, 0 misrouted",
        kinds.join(", "),
        changes.len(),
        deaths - changed,
    );
    Ok(())
}
