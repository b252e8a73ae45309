//! Steady load from the client: a few workers that run curl again and again, and one that asks every few milliseconds
//! through a socket of its own, so that short outages show. Every request is a new connection and is recorded.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    lab::{self, Node, VIP_V4, VIP_V6},
    run,
    stack::web::{self, PORT},
    wait,
};

/// Workers that run curl, half of them over IPv6.
const CURLS: usize = 4;
/// Between two requests of a worker.
const CURL_PAUSE: Duration = Duration::from_millis(50);
const OWN_PAUSE: Duration = Duration::from_millis(5);
/// Only to end a request that would wait for ever. A lost packet is repeated, which the slowest request shows.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Curl,
    Own,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) by: By,
    pub(super) v6: bool,
    pub(super) started: Instant,
    pub(super) took: Duration,
    /// The backend's name, or what went wrong.
    pub(super) answer: Result<String, String>,
}

/// What came of the requests of a stretch of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) curl: usize,
    pub(super) own: usize,
    /// Those that failed, oldest first.
    pub(super) failed: Vec<Sample>,
    /// Answers by backend and family (IPv4, IPv6), of curl's requests.
    pub(super) spread: BTreeMap<String, [usize; 2]>,
    /// Of curl's requests that succeeded, in order.
    pub(super) times: Vec<Duration>,
}

impl Figures {
    pub(super) fn all(&self) -> usize {
        self.curl + self.own
    }

    /// `0 of 412 requests failed`
    pub(super) fn failures(&self) -> String {
        format!("{} of {} requests failed", self.failed.len(), self.all())
    }

    /// How the first of them went, in a few words; empty when none failed.
    pub(super) fn first_failure(&self) -> String {
        match self.failed.first() {
            Some(Sample { answer: Err(why), .. }) => format!(" ({why})"),
            _ => String::new(),
        }
    }

    pub(super) fn median(&self) -> Duration {
        self.times.get(self.times.len() / 2).copied().unwrap_or_default()
    }

    pub(super) fn slowest(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }
}

/// Figures of some requests.
pub(super) fn figures<'a>(samples: impl Iterator<Item = &'a Sample>) -> Figures {
    let mut figures = Figures::default();
    for sample in samples {
        match sample.by {
            By::Curl => figures.curl += 1,
            By::Own => figures.own += 1,
        }
        match &sample.answer {
            Ok(backend) if sample.by == By::Curl => {
                figures.spread.entry(backend.clone()).or_default()[usize::from(sample.v6)] += 1;
                figures.times.push(sample.took);
            }
            Ok(_) => {}
            Err(_) => figures.failed.push(sample.clone()),
        }
    }
    figures.times.sort();
    figures.failed.sort_by_key(|sample| sample.started);
    figures
}

/// The load; it ends when this value goes.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// A list for each worker.
    samples: Vec<Mutex<Vec<Sample>>>,
}

impl Shared {
    fn list(&self, worker: usize) -> MutexGuard<'_, Vec<Sample>> {
        self.samples[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    pub(super) fn start(client: &Node) -> Result<Self> {
        let curl = run::find("curl").context("curl is not installed; `cargo xtask setup` installs it")?;
        let samples = (0..=CURLS).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), samples });
        let workers = (0..=CURLS)
            .map(|worker| {
                let (shared, client, curl) = (Arc::clone(&shared), client.clone(), curl.clone());
                std::thread::spawn(move || work(&shared, worker, &client, &curl))
            })
            .collect();
        Ok(Self { shared, workers })
    }

    /// All requests that were started in a stretch of time; waits until the last of them has ended.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Vec<Sample> {
        let deadline = Instant::now() + WHOLE_TIMEOUT + CURL_PAUSE * 4;
        let mut found = Vec::new();
        for worker in 0..self.shared.samples.len() {
            // A worker does one thing at a time: when its last request began after `to`, those before have ended.
            while self.shared.list(worker).last().is_none_or(|last| last.started < to)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            let list = self.shared.list(worker);
            found.extend(list.iter().filter(|sample| (from..to).contains(&sample.started)).cloned());
        }
        found
    }

    /// Waits for a request that was started after `since` and answered by `backend`; when it was answered.
    pub(super) fn wait_for_answer(&self, backend: &str, since: Instant) -> Result<Instant> {
        wait::until(&format!("{backend} answers a request"), wait::limit(), || {
            let mut others = 0;
            for worker in 0..self.shared.samples.len() {
                let list = self.shared.list(worker);
                let answered = |sample: &&Sample| sample.answer.as_deref() == Ok(backend);
                let recent = list.iter().rev().take_while(|sample| sample.started >= since);
                if let Some(sample) = recent.clone().filter(answered).last() {
                    return Ok(Ok(sample.started + sample.took));
                }
                others += recent.count();
            }
            Ok(Err(format!("{others} requests that others answered")))
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().ok();
        }
    }
}

fn work(shared: &Shared, worker: usize, client: &Node, curl: &PathBuf) {
    if let Err(error) = client.move_thread() {
        let answer = Err(format!("{error:#}"));
        let started = Instant::now();
        shared.list(worker).push(Sample { by: By::Own, v6: false, started, took: Duration::ZERO, answer });
        return;
    }
    // Not all at once.
    std::thread::sleep(CURL_PAUSE / 5 * u32::try_from(worker).unwrap_or(0));
    let mut turn = worker;
    while !shared.stop.load(Ordering::Relaxed) && !lab::is_ending() {
        let v6 = turn % 2 == 1;
        let started = Instant::now();
        let (by, answer, pause) = if worker < CURLS {
            (By::Curl, ask_with_curl(curl, v6), CURL_PAUSE)
        } else {
            turn += 1;
            (By::Own, ask(v6).map_err(|error| error.to_string()), OWN_PAUSE)
        };
        shared.list(worker).push(Sample { by, v6, started, took: started.elapsed(), answer });
        std::thread::sleep(pause);
    }
}

/// curl for the lab: no settings of the user's, no proxy.
pub(super) fn curl(program: &PathBuf) -> Command {
    let mut command = Command::new(program);
    command.args(["-q", "-sS", "-g", "--noproxy", "*"]);
    command.stdin(Stdio::null());
    command
}

fn ask_with_curl(program: &PathBuf, v6: bool) -> Result<String, String> {
    let mut command = curl(program);
    command.args(["--connect-timeout", &CONNECT_TIMEOUT.as_secs_f32().to_string()]);
    command.args(["--max-time", &WHOLE_TIMEOUT.as_secs().to_string()]);
    command.args(["-w", "%{http_code}"]).arg(web::url(v6, "/"));
    let output = command.output().map_err(|error| format!("cannot start curl: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.rsplit_once('\n') {
        Some((body, "200")) if output.status.success() => Ok(body.to_owned()),
        _ if output.status.success() => Err(format!("curl got {}", text.trim())),
        _ => Err(complaint(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// What curl says, without the address, which is always the same: `curl: (7) Couldn't connect to server`.
fn complaint(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default().trim();
    match (line.split_once(") "), line.rsplit_once(": ")) {
        (Some((number, _)), Some((_, reason))) if number.starts_with("curl: (") => {
            format!("{number}) {reason}")
        }
        _ => line.to_owned(),
    }
}

/// One request without curl.
fn ask(v6: bool) -> std::io::Result<String> {
    let address = if v6 { IpAddr::V6(VIP_V6) } else { IpAddr::V4(VIP_V4) };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(WHOLE_TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.trim().to_owned()),
        _ => Err(std::io::Error::other(format!("answered {:?}", answer.lines().next().unwrap_or_default()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(by: By, v6: bool, answer: Result<&str, &str>) -> Sample {
        let answer = answer.map(str::to_owned).map_err(str::to_owned);
        Sample { by, v6, started: Instant::now(), took: Duration::from_millis(3), answer }
    }

    #[test]
    fn the_spread_counts_curls_answers_by_family() {
        let samples = [
            sample(By::Curl, false, Ok("backend-1")),
            sample(By::Curl, true, Ok("backend-1")),
            sample(By::Own, true, Ok("backend-2")),
        ];
        let figures = figures(samples.iter());
        assert_eq!((figures.curl, figures.own), (2, 1));
        assert_eq!(figures.spread, BTreeMap::from([("backend-1".to_owned(), [1, 1])]));
    }

    #[test]
    fn failures_say_how_the_first_went() {
        let samples = [sample(By::Own, false, Err("refused")), sample(By::Curl, true, Err("timed out"))];
        let some = figures(samples.iter());
        assert_eq!(
            (some.failures().as_str(), some.first_failure().as_str()),
            ("2 of 2 requests failed", " (refused)")
        );
        let none = figures([].iter());
        assert_eq!((none.failures().as_str(), none.first_failure().as_str()), ("0 of 0 requests failed", ""));
    }

    #[test]
    fn complaints_of_curl_are_short() {
        let long =
            "curl: (7) Failed to connect to 203.0.113.10 port 80 after 0 ms: Couldn't connect to server\n";
        assert_eq!(complaint(long), "curl: (7) Couldn't connect to server");
        assert_eq!(
            complaint("curl: (56) Recv failure: Connection reset by peer"),
            "curl: (56) Connection reset by peer"
        );
        assert_eq!(complaint("what?"), "what?");
    }
}
