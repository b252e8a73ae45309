//! 10,000 backends, checked every 5 s by TCP connect; a listener notes which address was asked when.

use std::{
    collections::BTreeMap,
    net::{IpAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Backlog, listen};
use xtask::{
    lab::{Lab, Node, backend_name},
    run,
    stack::agent::{Agent, now_ms},
};

use super::{
    super::row::{Definition, Part, Target, quantile},
    Bench, address,
    agent::{BACKENDS, detach, pid, wait_until_in_ring},
    many, route_many,
};

const PORT: u16 = 8080;
const INTERVAL: Duration = Duration::from_secs(5);
/// The scheduler moves checks by this share of the interval, earlier or later.
const JITTER: f64 = 0.1;
/// How long the row is measured: each backend is asked at least four times.
const WATCHED: Duration = Duration::from_secs(25);
/// The number of backends that die.
const DEAD: u32 = 20;

pub(super) fn definitions() -> Vec<Definition> {
    let row = |id: &str, unit, what: &str| {
        Definition::new(Part::Lab, format!("checks/{id}"), unit, what).quick(false)
    };
    let all = "10,000 backends checked every 5 s by TCP connect:";
    vec![
        row("processor", "%", &format!("{all} time of one processor that lbd takes"))
            .target(Target::AtMost(25.0)),
        row("rate", "per second", &format!("{all} connections that arrive")),
        row(
            "late-p99",
            "ms",
            &format!("{all} p99 of the time between two of one backend, above that of 5 s ± 10 %"),
        )
        .target(Target::AtMost(100.0)),
        row(
            "late-most",
            "ms",
            &format!("{all} the longest time between two that the listener saw, above 5.5 s"),
        ),
        row(
            "exclusion",
            "ms",
            "from a backend's death (host unreachable) until the agent says that it is down",
        ),
    ]
}

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<()> {
    route_many(bench.lab)?;
    let listener = Listener::start(bench.lab.node(&backend_name(0))?)?;
    let health = format!("{{ kind = \"tcp\", port = {PORT}, interval = \"{}s\" }}", INTERVAL.as_secs());
    let mut agent = Agent::with(bench.lab, bench.binaries, &many(bench.lab, BACKENDS, &health)?)?;
    agent.start(bench.lab)?;
    wait_until_in_ring(&agent, BACKENDS)?;
    // The second look, which makes the verdict, comes after a shorter interval; after this wait all checks have their rhythm.
    std::thread::sleep(INTERVAL.mul_f64(1.0 + JITTER));

    let pid = pid(bench.lab)?;
    listener.forget();
    let (begun, before) = (Instant::now(), processor_time(pid)?);
    std::thread::sleep(WATCHED);
    let (took, after) = (begun.elapsed().as_secs_f64(), processor_time(pid)?);
    bench.add("checks/processor", (after - before) / took * 100.0);
    let asked = listener.asked();
    let all: usize = asked.values().map(Vec::len).sum();
    ensure!(asked.len() == BACKENDS as usize, "only {} backends were asked", asked.len());
    bench.add("checks/rate", all as f64 / took);
    let (p99, most) = lateness(&asked);
    bench.add("checks/late-p99", p99 * 1e3);
    bench.add("checks/late-most", most * 1e3);

    for time in deaths(bench.lab, &agent)? {
        bench.add("checks/exclusion", time);
    }
    agent.stop()?;
    detach(bench)
}

/// How late the 99th of 100 checks comes, and the latest check, in seconds.
///
/// The listener reports which checks arrive. It does not see a check whose reset overtakes the end of its handshake on the way
/// between two processors: about one in 50,000. The time around such a check, and so the longest time, is an interval longer.
fn lateness(asked: &BTreeMap<IpAddr, Vec<Instant>>) -> (f64, f64) {
    let mut between: Vec<f64> = asked
        .values()
        .flat_map(|times| times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()))
        .collect();
    between.sort_by(f64::total_cmp);
    let interval = INTERVAL.as_secs_f64();
    // The checks are spread evenly between the two ends of the jitter.
    let wanted = interval * (1.0 - JITTER + 2.0 * JITTER * 0.99);
    let most = quantile(&between, 1.0) - interval * (1.0 + JITTER);
    ((quantile(&between, 0.99) - wanted).max(0.0), most.max(0.0))
}

/// Makes some backends die at once; milliseconds until the agent reports each one as down.
fn deaths(lab: &Lab, agent: &Agent) -> Result<Vec<f64>> {
    let node = lab.node(&backend_name(0))?;
    let died = now_ms();
    for number in 0..DEAD {
        let place = format!("{}/32", address(number * (BACKENDS / DEAD)));
        let mut command = node.command("ip");
        command.args(["route", "add", "table", "local", "unreachable", &place]);
        run::capture(&mut command)?;
    }
    let deadline = Instant::now() + 4 * INTERVAL;
    loop {
        let events = agent.events(&["--kind", "backend_down"])?;
        let down: Vec<f64> = events
            .iter()
            .filter_map(|event| event["at_ms"].as_u64())
            .filter(|at| *at >= died)
            .map(|at| (at - died) as f64)
            .collect();
        if down.len() >= DEAD as usize {
            return Ok(down);
        }
        ensure!(
            Instant::now() < deadline,
            "only {} of {DEAD} dead backends were noticed: {events:?}",
            down.len()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Seconds of processor time a process took so far (proc(5), `/proc/<pid>/stat`, fields 14 and 15).
fn processor_time(pid: i32) -> Result<f64> {
    let file = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{file} has no name"))?;
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf has no memory arguments.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second as f64)
}

/// Accepts connections at every address of a node and notes which address was asked when.
struct Listener {
    asked: Arc<Mutex<BTreeMap<IpAddr, Vec<Instant>>>>,
    stop: Arc<AtomicBool>,
}

impl Listener {
    fn start(node: &Node) -> Result<Self> {
        let socket = node.enter(|| TcpListener::bind(("0.0.0.0", PORT)))?.context("listening")?;
        // With the default queue of 128, connections were lost whenever this thread had to wait for 60 ms.
        listen(&socket, Backlog::MAXALLOWABLE).context("listening with a longer queue")?;
        let (asked, stop) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (notes, ending) = (Arc::clone(&asked), Arc::clone(&stop));
        // When no connection comes any more, the thread waits in accept; it ends with the process.
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                let now = Instant::now();
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(to) = stream.and_then(|stream| stream.local_addr()) else { continue };
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.entry(to.ip()).or_insert_with(Vec::new).push(now);
            }
        });
        Ok(Self { asked, stop })
    }

    fn forget(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn asked(&self) -> BTreeMap<IpAddr, Vec<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_in_their_rhythm_are_not_late() {
        let begun = Instant::now();
        let at = |offset: f64| begun + Duration::from_secs_f64(offset);
        let spread: BTreeMap<IpAddr, Vec<Instant>> = (0..200_u8)
            .map(|n| (IpAddr::from([10, 0, 0, n]), vec![at(0.0), at(4.5 + f64::from(n) / 200.0)]))
            .collect();
        let (p99, most) = lateness(&spread);
        assert!(p99 < 0.01 && most < 0.01, "{p99} {most}");
        let late = BTreeMap::from([(IpAddr::from([10, 0, 0, 1]), vec![at(0.0), at(5.8)])]);
        let (_, most) = lateness(&late);
        assert!((most - 0.3).abs() < 1e-6, "{most}");
    }
}
