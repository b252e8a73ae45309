//! The scheduler against listeners on loopback, in real time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    config::spec::{HttpProbe, Probe, TlsProbe},
    wait::{self, LIMIT},
};

mod said;
mod shared;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) fn health(port: u16) -> Health {
    Health {
        probe: Probe::Tcp,
        port,
        interval: Duration::from_millis(100),
        fast_interval: Duration::from_millis(20),
        timeout: LIMIT,
        rise: 2,
        fall: 2,
    }
}

fn http(port: u16) -> Health {
    let probe = HttpProbe { tls: None, path: "/".into(), host: None, expect: vec![200..=200], body: None };
    Health { probe: Probe::Http(probe), ..health(port) }
}

pub(super) fn target(backend: &str, health: Health) -> Target {
    Target {
        said: Said::default(),
        service: "web".into(),
        backend: backend.into(),
        address: LOCALHOST,
        health: Arc::new(health),
        initial: Verdict::Checking,
    }
}

/// Accepts until it is aborted; counts connections.
async fn listener(address: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    (address, count, task)
}

async fn any_listener() -> (SocketAddr, Arc<AtomicUsize>, JoinHandle<()>) {
    listener((LOCALHOST, 0).into()).await
}

async fn next(updates: &mut mpsc::Receiver<Update>) -> Update {
    tokio::time::timeout(LIMIT, updates.recv()).await.expect("no update").expect("ended")
}

async fn nothing(updates: &mut mpsc::Receiver<Update>, during: Duration) {
    if let Ok(update) = tokio::time::timeout(during, updates.recv()).await {
        panic!("{update:?}");
    }
}

async fn until(scheduler: &Scheduler, mut what: impl FnMut(&[Snapshot]) -> bool) {
    wait::until("the rows are as wanted", LIMIT, async || {
        let rows = scheduler.snapshot();
        if what(&rows) { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_answers_is_up_at_its_first_probe() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    let seldom = Health { interval: Duration::from_secs(60), ..health(address.port()) };
    scheduler.set_targets(vec![target("a", seldom)]);
    let update = next(&mut updates).await;
    assert_eq!((update.verdict, update.previous, update.last), (Verdict::Up, Verdict::Checking, Ok(())));
    assert_eq!((update.service.as_str(), update.backend.as_str()), ("web", "a"));
}

#[tokio::test]
async fn a_killed_backend_is_down_after_fall_failures() {
    let (address, _, task) = any_listener().await;
    let rhythm = Health {
        interval: Duration::from_millis(500),
        fast_interval: Duration::from_millis(100),
        ..health(address.port())
    };
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", rhythm)]);
    assert_eq!(next(&mut updates).await.verdict, Verdict::Up);
    // The worst moment: just after a probe.
    task.abort();
    let update = next(&mut updates).await;
    assert_eq!(update.verdict, Verdict::Down);
    assert_eq!(update.last, Err("connection refused".into()));
    assert_eq!(update.failures, u64::from(health(0).fall), "no more probes than it takes: {update:?}");
}

#[tokio::test]
async fn a_backend_that_comes_back_is_up_after_rise_successes() {
    let (address, _, task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    assert_eq!(next(&mut updates).await.verdict, Verdict::Up);
    task.abort();
    let down = next(&mut updates).await;
    assert_eq!(down.verdict, Verdict::Down);
    let (_, _, _task) = listener(address).await;
    let up = next(&mut updates).await;
    assert_eq!(up.verdict, Verdict::Up);
    assert!(up.probes - up.failures >= 3, "{up:?}");
}

#[tokio::test]
async fn steady_backend_is_reported_once() {
    let (address, count, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    next(&mut updates).await;
    nothing(&mut updates, Duration::from_millis(600)).await;
    assert!(count.load(Ordering::Relaxed) > 3, "but was probed");
}

#[tokio::test]
async fn what_was_known_before_needs_no_update() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![Target { initial: Verdict::Up, ..target("a", health(address.port())) }]);
    nothing(&mut updates, Duration::from_millis(300)).await;
    let rows = scheduler.snapshot();
    let row = &rows[0];
    assert_eq!(
        (rows.len(), row.service.as_str(), row.backend.as_str(), row.verdict),
        (1, "web", "a", Verdict::Up)
    );
}

#[tokio::test]
async fn the_same_targets_again_disturb_nothing() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    next(&mut updates).await;
    until(&scheduler, |rows| rows[0].probes >= 3).await;
    let begun = Instant::now();
    for _ in 0..50 {
        scheduler.set_targets(vec![target("a", health(address.port()))]);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    // A restart would probe at once: fifty times.
    until(&scheduler, |rows| rows[0].probes >= 4).await;
    let rows = scheduler.snapshot();
    let most = 5 + begun.elapsed().as_millis() as u64 / 90;
    assert!(rows[0].probes <= most, "at most {most} in the rhythm: {rows:?}");
    nothing(&mut updates, Duration::from_millis(50)).await;
}

#[tokio::test]
async fn another_setting_keeps_the_verdict_until_it_has_results() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    assert_eq!(next(&mut updates).await.verdict, Verdict::Up);
    // The listener speaks no HTTP: the new probe fails, and only `fall` failures take the backend out.
    scheduler.set_targets(vec![target("a", http(address.port()))]);
    let update = next(&mut updates).await;
    assert_eq!((update.previous, update.verdict), (Verdict::Up, Verdict::Down));
    assert!(update.failures >= 2);
}

#[tokio::test]
async fn new_address_begins_without_verdict() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    assert_eq!(next(&mut updates).await.verdict, Verdict::Up);
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    scheduler.set_targets(vec![Target { address: elsewhere, ..target("a", health(address.port())) }]);
    let update = next(&mut updates).await;
    assert_eq!(
        (update.address, update.previous, update.verdict),
        (elsewhere, Verdict::Checking, Verdict::Down)
    );
    assert_eq!(scheduler.snapshot()[0].probes, update.probes);
}

#[tokio::test]
async fn a_removed_target_is_left_in_peace() {
    let (address, count, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    next(&mut updates).await;
    scheduler.set_targets(Vec::new());
    until(&scheduler, <[_]>::is_empty).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let before = count.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(count.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn of_two_targets_with_the_same_names_the_first_counts() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, _updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port())), target("a", health(1))]);
    until(&scheduler, |rows| rows.len() == 1 && rows[0].verdict == Verdict::Up).await;
}

#[tokio::test]
async fn no_more_probes_than_allowed_are_in_flight() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now_open, seen_most) = (Arc::clone(&open), Arc::clone(&most));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let open = Arc::clone(&now_open);
            seen_most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                open.fetch_sub(1, Ordering::SeqCst);
                answer(stream).await;
            });
        }
    });
    let (scheduler, _updates) = Scheduler::new(4).unwrap();
    scheduler.set_targets((0..40).map(|n| target(&format!("b{n:02}"), unlike(n, http(port)))).collect());
    until(&scheduler, |rows| rows.len() == 40 && rows.iter().all(|row| row.verdict == Verdict::Up)).await;
    assert!((2..=4).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

/// Another question for each `n`, so that no two share a probe.
fn unlike(n: u64, health: Health) -> Health {
    Health { timeout: LIMIT + Duration::from_millis(n), ..health }
}

async fn answer(stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = stream;
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
}

#[tokio::test]
async fn trouble_of_our_own_takes_no_backend_out() {
    let (address, _, _task) = any_listener().await;
    let tls = TlsProbe { verify: true, ca: Some("/nonexistent/ca.pem".into()) };
    let Health { probe: Probe::Http(probe), .. } = http(address.port()) else { unreachable!() };
    let probe = Probe::Http(HttpProbe { tls: Some(tls), ..probe });
    let health = Health { probe, ..health(address.port()) };
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![Target { initial: Verdict::Up, ..target("a", health) }]);
    until(&scheduler, |rows| rows.first().is_some_and(|row| row.last.is_some())).await;
    nothing(&mut updates, Duration::from_millis(400)).await;
    let row = &scheduler.snapshot()[0];
    assert_eq!((row.verdict, row.failures, row.probes), (Verdict::Up, 0, 0));
    assert!(row.last.as_ref().unwrap().as_ref().unwrap_err().contains("/nonexistent/ca.pem"), "{row:?}");
}

#[tokio::test]
async fn untaken_updates_coalesce_to_the_last_verdict() {
    let (address, _, task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(256).unwrap();
    let many = UPDATES + 500;
    scheduler.set_targets((0..many).map(|n| target(&format!("b{n}"), health(address.port()))).collect());
    until(&scheduler, |rows| rows.len() == many && rows.iter().all(|row| row.verdict == Verdict::Up)).await;
    task.abort();
    until(&scheduler, |rows| rows.iter().all(|row| row.verdict == Verdict::Down)).await;
    // What fitted into the channel was reported as it happened, the rest only as it ended.
    let mut last = HashMap::new();
    while last.len() < many || last.values().any(|&verdict| verdict != Verdict::Down) {
        let update = next(&mut updates).await;
        let previous = last.insert(update.backend.clone(), update.verdict).unwrap_or(Verdict::Checking);
        assert_eq!(update.previous, previous, "a chain without gaps");
    }
}

#[tokio::test]
async fn dropping_the_handle_ends_the_thread() {
    let (address, _, _task) = any_listener().await;
    let (scheduler, mut updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a", health(address.port()))]);
    next(&mut updates).await;
    drop(scheduler);
    assert_eq!(tokio::time::timeout(LIMIT, updates.recv()).await, Ok(None));
}

/// User and system time of the newest thread of that name, in clock ticks of 10 ms.
fn thread_time(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut total = 0;
    for task in tasks.flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        if head.contains(&format!("({name}")) {
            let fields: Vec<&str> = tail.split_whitespace().collect();
            total = total.max(fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap());
        }
    }
    Duration::from_millis(total * 10)
}

/// KiB of memory the process holds.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Prints what two thousand TCP probes a second cost (`--nocapture`); a machine that has other work makes fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_targets_are_all_probed_on_one_thread() {
    let (address, count, _task) = any_listener().await;
    let memory = resident();
    let (scheduler, _updates) = Scheduler::new(256).unwrap();
    let rhythm = Health { interval: Duration::from_secs(5), ..health(address.port()) };
    let each = |n| target(&format!("b{n}"), unlike(n, rhythm.clone()));
    scheduler.set_targets((0..10_000).map(each).collect());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, cpu, begun) = (count.load(Ordering::Relaxed), thread_time("lb-health"), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = (count.load(Ordering::Relaxed) - before) as f64 / seconds;
    let share = (thread_time("lb-health") - cpu).as_secs_f64() / seconds;
    println!(
        "{rate:.0} TCP probes/s cost {:.1} % of one core; 10000 targets take {} KiB",
        100.0 * share,
        resident().saturating_sub(memory)
    );
    until(&scheduler, |rows| rows.len() == 10_000 && rows.iter().all(|row| row.probes > 0)).await;
}

/// By the words for `service`, until there are some.
async fn trouble(scheduler: &Scheduler, found: impl Fn(&Trouble) -> bool) -> Trouble {
    let begun = Instant::now();
    loop {
        let troubles = scheduler.troubles();
        match troubles.get("web") {
            Some(trouble) if found(trouble) => return trouble.clone(),
            _ => assert!(begun.elapsed() < Duration::from_secs(30), "{troubles:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn unreadable_certificates_are_reported_and_end_no_check() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, "a typo").unwrap();
    let (address, _, _task) = any_listener().await;
    let probe = HttpProbe {
        tls: Some(TlsProbe { verify: true, ca: Some(ca.clone()) }),
        path: "/".into(),
        host: Some("www.example".into()),
        expect: vec![200..=200],
        body: None,
    };
    let target =
        |name: &str| target(name, Health { probe: Probe::Http(probe.clone()), ..health(address.port()) });
    let (scheduler, _updates) = Scheduler::new(8).unwrap();
    scheduler.set_targets(vec![target("a"), target("b")]);
    let found = trouble(&scheduler, |trouble| trouble.unasked == 2).await;
    let file = ca.display();
    let why = format!("not asked: tls: ca file {file}: has no certificate in it");
    assert_eq!(found, Trouble { unasked: 2, reason: Some(why), stale: None, late: None });

    let made = rcgen::generate_simple_self_signed(vec!["www.example".to_owned()]).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    scheduler.set_targets(vec![target("a"), target("b")]);
    until(&scheduler, |rows| rows.len() == 2 && rows.iter().all(|row| row.failures > 0)).await;
    assert_eq!(scheduler.troubles(), HashMap::new(), "read, and asked");

    std::fs::remove_file(&ca).unwrap();
    scheduler.set_targets(vec![target("a"), target("b"), target("c")]);
    let found = trouble(&scheduler, |trouble| trouble.stale.is_some()).await;
    let why = format!("tls: ca file {file}: No such file or directory (os error 2)");
    assert_eq!(found, Trouble { unasked: 0, reason: None, stale: Some(why.into()), late: None });
    until(&scheduler, |rows| rows.len() == 3 && rows.iter().all(|row| row.failures > 0)).await;
}
