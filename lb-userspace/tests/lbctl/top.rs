//! `lbctl top` on a terminal of its own: keys go in, and what a terminal would show is read.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Child,
    sync::{Mutex, mpsc as channel},
    thread,
};

use lb_userspace::api::view::{Config, CounterValue, Plan, PlannedService, Stats};
use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};

use super::*;

/// `lbctl top` and its terminal.
struct Session {
    child: Child,
    input: File,
    output: channel::Receiver<Vec<u8>>,
    screen: vt100::Parser,
    slave: OwnedFd,
}

impl Session {
    fn start(agent: &Agent, (columns, lines): (u16, u16)) -> Self {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = lbctl(&["top", "--interval", "100ms"])
            .env("LB_SOCKET", &agent.socket)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let (input, mut terminal) = (File::from(master.try_clone().unwrap()), File::from(master));
        let (sender, output) = channel::channel();
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(got @ 1..) = terminal.read(&mut buffer) {
                if sender.send(buffer[..got].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, input, output, screen: vt100::Parser::new(lines, columns, 0), slave }
    }

    fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Waits until the screen shows all of this, and gives it.
    #[track_caller]
    fn shows(&mut self, what: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.text();
            if what.iter().all(|part| text.contains(part)) {
                return text;
            }
            assert!(Instant::now() < deadline, "{what:?} is not shown:\n{text}");
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(100)) {
                self.screen.process(&bytes);
            }
        }
    }

    /// Waits for the end; the exit code, and whether the terminal is as it was: keys are shown, and the screen is the first one.
    fn end(mut self) -> (Option<i32>, bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            while let Ok(bytes) = self.output.try_recv() {
                self.screen.process(&bytes);
            }
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "it does not end:\n{}", self.text()),
            }
            thread::sleep(Duration::from_millis(20));
        };
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
            self.screen.process(&bytes);
        }
        let cooked =
            tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON);
        (status.code(), cooked && !self.screen.screen().alternate_screen())
    }
}

const CONFIG: &str = "[node]\nseed = \"s\"\n[[service]]\nname = \"web\"\n[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.1\"\n\
                      [[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.2\"\n";

/// Two services; the traffic of web grows by 1,000 packets between two looks, which are a second apart by the agent's clock. What it
/// is asked to change is noted.
fn balancer() -> (Agent, Arc<Mutex<Vec<String>>>) {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&changes);
    let looks = AtomicU64::new(0);
    let agent = agent(move |request| {
        let backend = |name: &str, state: &str| Backend { name: name.into(), ..super::backend(state, 3) };
        let web = Service { backends: vec![backend("web-1", "up"), backend("web-2", "down")], ..service() };
        let dns = Service {
            name: "dns".into(),
            listen: "udp/192.0.2.1:53".into(),
            backends: vec![],
            backends_in_ring: 0,
            ..service()
        };
        match request {
            Request::Status => view(super::lists::small_status()),
            Request::Services => view(vec![web, dns]),
            Request::Stats => {
                let look = looks.fetch_add(1, Ordering::Relaxed);
                let totals = Totals { packets: look * 1000, bytes: look * 125_000, new_connections: 0 };
                view(Stats {
                    at_ms: look * 1000,
                    counters: vec![CounterValue {
                        name: "no_backend".into(),
                        kind: "dropped".into(),
                        value: look * 7,
                        description: "the service has no backend".into(),
                    }],
                    services: [("web".to_owned(), totals), ("dns".to_owned(), Totals::default())].into(),
                    backends: [("web/web-1".to_owned(), totals)].into(),
                    egress_dropped: vec![],
                    flows: 0,
                    pending_flows: 0,
                    flows_age_ms: None,
                    flows_evicted: 0,
                    pending_flows_evicted: 0,
                })
            }
            Request::Config { secrets: true } => {
                view(Config { file: "lb.toml".into(), text: CONFIG.into(), rolls_back_in: None })
            }
            Request::Plan { text, name } => {
                assert_eq!(name, "lb.toml");
                assert!(
                    text.contains("name = \"web-2\"\naddress = \"10.0.0.2\"\nstate = \"draining\"\n"),
                    "{text}"
                );
                view(Plan {
                    summary: vec!["backend web/web-2 drains".into()],
                    services: vec![PlannedService {
                        name: "web".into(),
                        slots_moved: 50,
                        moved_percent: 50.0,
                        ..PlannedService::default()
                    }],
                    warnings: vec![],
                    writes: 1,
                    needs_restart: vec![],
                })
            }
            Request::BackendSet { service, backend, body, force: false } => {
                noted.lock().unwrap().push(format!("{service}/{backend} {body}"));
                view(Changed { summary: vec!["backend web/web-2 drains now".into()], ..Changed::default() })
            }
            other => panic!("{other:?} was asked"),
        }
    });
    (agent, changes)
}

#[test]
fn services_open_into_backends_and_reasons() {
    let (agent, changes) = balancer();
    let mut top = Session::start(&agent, (110, 24));
    let text = top.shows(&["web", "dns", "1.0k/s to services, 1.0 Mbit/s", "7/s dropped", "2 services"]);
    let web = text.lines().find(|line| line.starts_with("web ")).unwrap();
    assert!(web.contains("degraded") && web.contains("1.0k/s") && web.contains("1.0 Mbit/s"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("dns ") && line.contains("down")), "{text}");
    top.press("\r");
    let text = top.shows(&["web: 2 backends", "web-2"]);
    assert!(text.lines().any(|line| line.starts_with("web-1 ") && line.contains("1.0k/s")), "{text}");
    top.press("\r");
    top.shows(&["all of it", "ADDRESS     10.0.0.1"]);
    top.press(" \t");
    top.shows(&["no_backend", "the service has no backend", "dropped"]);
    top.press("\t");
    top.shows(&["2 services"]);
    top.press("?");
    top.shows(&["control-c"]);
    top.press("xq");
    assert_eq!(top.end(), (Some(0), true));
    assert!(changes.lock().unwrap().is_empty());
}

#[test]
fn rows_are_filtered_and_sorted() {
    let (agent, _) = balancer();
    let mut top = Session::start(&agent, (110, 24));
    top.shows(&["1.0k/s to services", "dns"]);
    top.press("/DN");
    let text = top.shows(&["filter: DN_"]);
    assert!(!text.lines().any(|line| line.starts_with("web ")), "{text}");
    top.press("\r");
    top.shows(&["2 services, 1 with `DN`"]);
    top.press("\u{1b}");
    top.shows(&["web ", "dns ", "2 services  enter"]);
    let order = |text: &str| {
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| ["web", "dns"].contains(name)).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order(&top.text()), "web dns", "as in the configuration");
    // By the first column, the other way round.
    top.press("sr");
    let deadline = Instant::now() + Duration::from_secs(60);
    while order(&top.shows(&["web ", "dns "])) != "dns web" {
        assert!(Instant::now() < deadline, "{}", top.text());
        if let Ok(bytes) = top.output.recv_timeout(Duration::from_millis(100)) {
            top.screen.process(&bytes);
        }
    }
    top.press("q");
    assert_eq!(top.end(), (Some(0), true));
}

#[test]
fn a_drain_shows_its_plan_and_waits_for_a_word() {
    let (agent, changes) = balancer();
    let mut top = Session::start(&agent, (110, 24));
    top.shows(&["web "]);
    top.press("d");
    top.shows(&["d drains a backend: open a service with enter first"]);
    top.press("\rjd");
    top.shows(&[
        "drain web/web-2?",
        "backend web/web-2 drains",
        "50 slots get another owner (50.0 %)",
        "y drains it",
    ]);
    assert!(changes.lock().unwrap().is_empty(), "a plan changes nothing");
    top.press("n");
    top.shows(&["nothing was changed"]);
    top.press("d");
    top.shows(&["drain web/web-2?"]);
    top.press("y");
    top.shows(&["backend web/web-2 drains now"]);
    assert_eq!(*changes.lock().unwrap(), ["web/web-2 {\"state\":\"draining\"}"]);
    top.press("\u{3}");
    assert_eq!(top.end(), (Some(0), true));
}

#[test]
fn a_small_terminal_and_an_agent_that_goes_away_are_survived() {
    let (agent, _) = balancer();
    let mut top = Session::start(&agent, (20, 5));
    top.shows(&["SERVICE"]);
    drop(agent);
    let mut wide = 0;
    let text = loop {
        let text = top.shows(&["lbd"]);
        if text.contains("lbd is not runn") || text.contains("lbd ended") || wide > 600 {
            break text;
        }
        wide += 1;
        if let Ok(bytes) = top.output.recv_timeout(Duration::from_millis(100)) {
            top.screen.process(&bytes);
        }
    };
    assert!(wide <= 600, "{text}");
    kill(Pid::from_raw(top.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(top.end(), (Some(0), true), "the terminal is given back also after SIGTERM");
}

#[test]
fn without_a_terminal_it_says_what_does_without() {
    let agent = agent(|request| panic!("{request:?} was asked"));
    let output = agent.run(&["top"]);
    assert_eq!((code(&output), out(&output)), (2, ""));
    assert!(err(&output).contains("`lbctl stats --watch`"), "{}", err(&output));
}
