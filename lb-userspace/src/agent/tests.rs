//! The agent over tables in memory: requests and observations in, tables and views out. Tests of the kernel's part are
//! in `tests/`.

mod failures;
mod growth;
mod handover;
mod notes;
mod ping;
mod plans;
mod sweeps;
mod waiting;

use std::{cell::RefCell, collections::BTreeMap, fs, io, net::IpAddr};

use lb_common::loss::Loss;
use serde_json::{Value, json};
use tempfile::TempDir;

mod confirm;

use super::{interfaces::Attached, *};
use crate::{
    api::{request::Request, view},
    config::spec::AttachMode,
    health::{Verdict, scheduler::Update},
    kernel::egress::Passing,
    net::{ability, device::Device},
    tables::{Sizes, memory::Twin},
};

impl Host for Twin {
    fn attach(&mut self, _: &str, _: AttachMode) -> Result<Attached, String> {
        Ok(Attached { mode: "native", note: None })
    }

    fn detach(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn is_attached(&mut self, _: &str) -> bool {
        true
    }

    fn memory(&self) -> &[(&'static str, u64)] {
        &[("FLOWS", 64), ("SERVICES", 8)]
    }

    fn running_mode(&self, _: &str) -> Option<&'static str> {
        None
    }

    fn device(&self, index: u32) -> io::Result<Device> {
        DEVICES
            .with_borrow(|devices| devices.get(&index).cloned())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put_pass(&mut self, _: &str) -> Result<Passing, String> {
        Ok(Passing::NoXdp)
    }

    fn take_pass(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn passes(&self) -> Vec<String> {
        Vec::new()
    }

    fn losses(&self) -> Option<BTreeMap<Loss, u64>> {
        Some([(Loss { interface: 7, error: nix::libc::ENXIO as u32 }, 3)].into())
    }
}

thread_local! {
    /// The interfaces of the test's host, by number.
    static DEVICES: RefCell<HashMap<u32, Device>> = RefCell::new(HashMap::new());
}

struct Bench {
    agent: Agent<Twin>,
    directory: TempDir,
}

const BACKENDS: [&str; 3] = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];

fn file(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("lb.toml")
}

fn text(directory: &TempDir, services: &str) -> String {
    format!(
        "[node]\ninterface = \"lo\"\nseed = \"tests\"\nstate_directory = {:?}\n{services}",
        directory.path().display().to_string()
    )
}

const WEB: &str = r#"
[[service]]
name = "web"
listen = "tcp/203.0.113.10:443"
max_backends = 3
health = false
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
[[service.backend]]
name = "web-2"
address = "10.0.0.12"
"#;

fn hop(address: &str) -> (IpAddr, Result<Hop, String>) {
    let address: IpAddr = address.parse().unwrap();
    let hop = Hop {
        interface: 7,
        interface_name: "eth1".to_owned(),
        via: address,
        mac: [2, 0, 0, 0, 0, 1],
        local_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        source: [10, 0, 0, 1].into(),
    };
    (address, Ok(hop))
}

/// An agent with `services` in its file, all next hops known, and the first apply done.
fn bench(services: &str) -> Bench {
    let directory = TempDir::new().unwrap();
    fs::write(file(&directory), text(&directory, services)).unwrap();
    start(directory, Twin::new(Sizes::new(8, 64, 4096)), false)
}

fn start(directory: TempDir, tables: Twin, adopted: bool) -> Bench {
    let store = ConfigStore::open(&file(&directory), "test").unwrap();
    let (scheduler, _updates) = Scheduler::new(1).unwrap();
    let mut agent = Agent::new("test".to_owned(), store, tables, adopted, scheduler).unwrap();
    agent.found.hops = BACKENDS.map(hop).into();
    agent.judge();
    let wanted = agent.store.desired();
    let proposal = agent.plan_for(&wanted).unwrap();
    agent.apply_plan(proposal).unwrap();
    Bench { agent, directory }
}

/// Takes in verdicts on backends of the service web: name, address, verdict.
fn verdicts(bench: &mut Bench, verdicts: &[(&str, &str, Verdict)]) {
    let update = |&(backend, address, verdict): &(&str, &str, Verdict)| Update {
        said: crate::health::Said::default(),
        service: "web".to_owned(),
        backend: backend.to_owned(),
        address: address.parse().unwrap(),
        verdict,
        previous: Verdict::Checking,
        last: Ok(()),
        elapsed: Duration::from_millis(1),
        probes: 1,
        failures: 0,
    };
    bench.agent.on_health(verdicts.iter().map(update).collect());
}

/// A change of a backend of the service web.
fn set(name: &str, body: Value, force: bool) -> Request {
    Request::BackendSet { service: "web".to_owned(), backend: name.to_owned(), body, force }
}

fn remove(name: &str, force: bool) -> Request {
    Request::BackendRemove { service: "web".to_owned(), backend: name.to_owned(), force }
}

impl Bench {
    fn ask(&mut self, request: &Request) -> Value {
        self.agent.answer(request).0.unwrap()
    }

    fn refuse(&mut self, request: &Request) -> ApiError {
        self.agent.answer(request).0.unwrap_err()
    }

    fn backend(&mut self, name: &str) -> view::Backend {
        let request = Request::Backend { service: "web".to_owned(), backend: name.to_owned() };
        serde_json::from_value(self.ask(&request)).unwrap()
    }

    fn set(&mut self, name: &str, body: Value) -> Value {
        self.ask(&set(name, body, false))
    }
}

#[test]
fn the_ring_is_dealt_to_the_backends_of_the_file() {
    let mut bench = bench(WEB);
    let (one, two) = (bench.backend("web-1"), bench.backend("web-2"));
    assert_eq!((one.state.as_str(), two.state.as_str()), ("up", "up"));
    assert_eq!(one.slots + two.slots, 509);
    assert!(one.slots.abs_diff(two.slots) <= 1);
}

#[test]
fn applying_the_same_configuration_again_writes_nothing() {
    let mut bench = bench(WEB);
    let changed: Changed =
        serde_json::from_value(bench.ask(&Request::ConfigApply { replacement: None, confirm: None }))
            .unwrap();
    assert_eq!((changed.writes, changed.slots_changed), (0, 0));
}

#[test]
fn an_agent_that_adopts_what_runs_writes_nothing() {
    let bench = bench(WEB);
    let tables = bench.agent.reconciler.into_tables();
    let writes = tables.writes();
    let second = start(bench.directory, tables, true);
    assert_eq!(second.agent.reconciler.tables().writes(), writes);
}

#[test]
fn a_drained_backend_leaves_the_ring_and_stays_alive() {
    let mut bench = bench(WEB);
    bench.set("web-1", json!({ "state": "draining" }));
    let one = bench.backend("web-1");
    assert_eq!((one.state.as_str(), one.slots), ("draining", 0));
    assert!(one.learning_slots > 250, "its flows are still known by its slots: {}", one.learning_slots);
    bench.set("web-1", json!({ "state": "enabled" }));
    assert_eq!(bench.backend("web-1").learning_slots, 0);
}

#[test]
fn run_time_changes_survive_a_restart_until_reverted() {
    let mut first = bench(WEB);
    first.set("web-2", json!({ "weight": 7 }));
    let add = Request::BackendAdd {
        service: "web".to_owned(),
        body: json!({ "name": "web-3", "address": "10.0.0.13" }),
    };
    first.ask(&add);
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    assert_eq!(second.backend("web-2").weight, 7);
    assert_eq!(second.backend("web-3").address, "10.0.0.13");
    let diff: view::Diff = serde_json::from_value(second.ask(&Request::ConfigDiff)).unwrap();
    assert_eq!(diff.overlay.len(), 2, "{:?}", diff.overlay);
    second.ask(&Request::ConfigRevert);
    assert_eq!(second.backend("web-2").weight, 100);
    let gone = Request::Backend { service: "web".to_owned(), backend: "web-3".to_owned() };
    assert_eq!(second.refuse(&gone).code, Code::NotFound);
}

#[test]
fn save_writes_the_overlay_into_the_file() {
    let mut bench = bench(WEB);
    bench.set("web-2", json!({ "weight": 7 }));
    bench.ask(&Request::ConfigSave);
    let text = fs::read_to_string(file(&bench.directory)).unwrap();
    assert!(text.contains("weight = 7"), "{text}");
    let diff: view::Diff = serde_json::from_value(bench.ask(&Request::ConfigDiff)).unwrap();
    assert!(diff.overlay.is_empty() && diff.file.is_empty(), "{diff:?}");
    assert_eq!(bench.backend("web-2").weight, 7);
}

#[test]
fn a_failed_save_restores_the_file_and_can_be_retried() {
    let mut bench = bench(WEB);
    bench.set("web-2", json!({ "weight": 7 }));
    let before = fs::read_to_string(file(&bench.directory)).unwrap();
    let overlay = crate::config::overlay::path(bench.directory.path(), "test");
    let kept = fs::read(&overlay).unwrap();
    fs::remove_file(&overlay).unwrap();
    fs::create_dir(&overlay).unwrap();
    let reported = bench.refuse(&Request::ConfigSave).message;
    assert!(reported.contains("cannot be written") && reported.contains("nothing was changed"), "{reported}");
    assert_eq!(fs::read_to_string(file(&bench.directory)).unwrap(), before);
    fs::remove_dir(&overlay).unwrap();
    fs::write(&overlay, kept).unwrap();
    bench.ask(&Request::ConfigSave);
    assert!(fs::read_to_string(file(&bench.directory)).unwrap().contains("weight = 7"));
    assert!(!overlay.exists());
}

#[test]
fn a_refused_file_changes_nothing_and_is_remembered() {
    let mut bench = bench(WEB);
    let broken = text(&bench.directory, &WEB.replace("10.0.0.12", "10.0.0.999"));
    fs::write(file(&bench.directory), broken).unwrap();
    let error = bench.refuse(&Request::ConfigApply { replacement: None, confirm: None });
    assert_eq!(error.code, Code::Invalid);
    assert!(error.details[0].contains("lb.toml:"), "{:?}", error.details);
    assert_eq!(bench.backend("web-2").state, "up");
    let status: view::Status = serde_json::from_value(bench.ask(&Request::Status)).unwrap();
    assert!(status.last_error.unwrap().contains("10.0.0.999"));
}

#[test]
fn too_many_slots_are_refused_with_the_setting() {
    let mut bench = bench(WEB);
    let big = Request::ServiceAdd {
        body: json!({ "name": "big", "listen": "tcp/203.0.113.11:80", "max_backends": 1000, "health": false }),
    };
    let error = bench.refuse(&big);
    assert_eq!(error.code, Code::LimitExceeded);
    assert!(error.details.iter().any(|detail| detail.contains("limits.slots")), "{:?}", error.details);
    let services: Vec<view::Service> = serde_json::from_value(bench.ask(&Request::Services)).unwrap();
    assert_eq!(services.len(), 1);
    let diff: view::Diff = serde_json::from_value(bench.ask(&Request::ConfigDiff)).unwrap();
    assert!(diff.overlay.is_empty(), "a refused change is not kept: {diff:?}");
}

#[test]
fn another_seed_is_refused_while_flows_run() {
    let mut bench = bench(WEB);
    let other = text(&bench.directory, WEB).replace("\"tests\"", "\"other\"");
    fs::write(file(&bench.directory), other).unwrap();
    let error = bench.refuse(&Request::ConfigApply { replacement: None, confirm: None });
    assert!(error.details.iter().any(|detail| detail.contains("node.seed")), "{:?}", error.details);
}

#[test]
fn a_lost_next_hop_leaves_the_ring_and_keeps_flows() {
    let mut bench = bench(WEB);
    bench.agent.found.hops.insert("10.0.0.12".parse().unwrap(), Err("no route to 10.0.0.12".to_owned()));
    bench.agent.judge();
    bench.agent.reconcile();
    let two = bench.backend("web-2");
    assert_eq!((two.state.as_str(), two.slots), ("unresolved", 0));
    assert!(two.reason.unwrap().contains("no route"));
    assert!(two.learning_slots > 0);
}

#[test]
fn a_backend_is_unresolved_while_its_interface_cannot_send() {
    let mut bench = bench(WEB);
    bench.ask(&Request::ConfigApply { replacement: None, confirm: None });
    assert_eq!(bench.backend("web-1").state, "up");
    let bridge = ability::tests::device(Some("bridge"), "bridge", Some(0));
    DEVICES.with_borrow_mut(|devices| devices.insert(7, bridge));
    bench.agent.tick();
    let one = bench.backend("web-1");
    assert_eq!((one.state.as_str(), one.slots), ("unresolved", 0));
    let reason = one.reason.unwrap();
    assert!(
        reason.starts_with("no next hop: eth1 (bridge) cannot send XDP frames: attach to eth1"),
        "{reason}"
    );
    let egress = status(&mut bench).egress;
    assert_eq!((egress[0].sends.as_str(), egress[0].dropped), ("no", Some(3)));
    let stats: view::Stats = serde_json::from_value(bench.ask(&Request::Stats)).unwrap();
    assert_eq!((&*stats.egress_dropped[0].error, stats.egress_dropped[0].frames), ("ENXIO", 3));
    DEVICES.with_borrow_mut(HashMap::clear);
    bench.agent.tick();
    assert_eq!(bench.backend("web-1").state, "up");
}

#[test]
fn verdicts_take_backends_out_and_bring_them_back() {
    let mut bench = bench(&WEB.replace("health = false", "health = { kind = \"tcp\" }"));
    assert_eq!(bench.backend("web-1").state, "checking");
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up), ("web-2", "10.0.0.12", Verdict::Up)]);
    assert_eq!(bench.backend("web-1").slots + bench.backend("web-2").slots, 509);
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Down)]);
    let one = bench.backend("web-1");
    assert_eq!((one.state.as_str(), one.slots), ("down", 0));
    assert!(one.learning_slots > 250, "its flows are kept for its return: {}", one.learning_slots);
    let kinds: Vec<_> = bench.agent.journal.since(0).into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["backend_down"], "one event for a transition, none for a first check that passes");
    verdicts(&mut bench, &[("web-1", "10.9.9.9", Verdict::Up)]);
    assert_eq!(bench.backend("web-1").state, "down", "a verdict on another address is not this backend's");
}

#[test]
fn a_verdict_does_not_outlive_a_disabled_backend() {
    let mut bench = bench(&WEB.replace("health = false", "health = { kind = \"tcp\" }"));
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up)]);
    assert_eq!(bench.backend("web-1").state, "up");
    bench.ask(&set("web-1", json!({ "state": "disabled" }), true));
    bench.set("web-1", json!({ "state": "enabled" }));
    assert_eq!(bench.backend("web-1").state, "checking");
}

fn service(bench: &mut Bench) -> view::Service {
    serde_json::from_value(bench.ask(&Request::Service { service: "web".to_owned() })).unwrap()
}

fn status(bench: &mut Bench) -> view::Status {
    serde_json::from_value(bench.ask(&Request::Status)).unwrap()
}

#[test]
fn a_service_says_why_its_slots_are_tracked_and_until_when() {
    let mut bench = bench(WEB);
    assert!(service(&mut bench).tracking.changes.is_empty());
    bench.set("web-1", json!({ "state": "draining" }));
    let shown = service(&mut bench);
    let [change] = shown.tracking.changes.as_slice() else { panic!("{:?}", shown.tracking) };
    assert_eq!(change.why, ["web-1 is draining: draining (set by operator)"]);
    assert_eq!(change.slots, shown.tracking.learning_from["web-1"]);
    assert!((8100..=8116).contains(&change.learning_ends_in), "{change:?}");
    assert_eq!(shown.tracking.window_seconds, 135 * 60);
}

#[test]
fn a_restart_keeps_the_time_of_a_change_not_its_reason() {
    let mut first = bench(WEB);
    first.set("web-1", json!({ "state": "draining" }));
    let slots = service(&mut first).tracking.changes[0].slots;
    let mut second = start(first.directory, first.agent.reconciler.into_tables(), true);
    let shown = service(&mut second);
    let [change] = shown.tracking.changes.as_slice() else { panic!("{:?}", shown.tracking) };
    assert_eq!((change.slots, change.why.len()), (slots, 0));
}

#[test]
fn a_refused_change_leaves_the_fingerprint_of_what_runs() {
    let mut bench = bench(WEB);
    let before = status(&mut bench).fingerprint;
    let other = text(&bench.directory, WEB).replace("\"tests\"", "\"other\"");
    bench.refuse(&Request::ConfigApply { confirm: None, replacement: Some((other, "new.toml".to_owned())) });
    assert_eq!(status(&mut bench).fingerprint, before);
    bench.set("web-2", json!({ "weight": 7 }));
    assert_ne!(status(&mut bench).fingerprint, before);
}

#[test]
fn a_status_tells_the_last_change_and_the_last_refusal() {
    let mut bench = bench(WEB);
    assert_eq!((status(&mut bench).last_change, status(&mut bench).last_refused), (None, None));
    bench.set("web-2", json!({ "weight": 7 }));
    let unknown = remove("web-9", false);
    bench.refuse(&unknown);
    let status = status(&mut bench);
    let (change, refused) = (status.last_change.unwrap(), status.last_refused.unwrap());
    assert!(change.lines[0].contains("web/web-2") && change.lines[0].contains("weight"), "{change:?}");
    assert!(refused.lines[0].contains("web-9"), "{refused:?}");
}

#[test]
fn a_status_has_the_memory_of_each_limit() {
    let status = status(&mut bench(WEB));
    let bytes = |name: &str| status.limits.iter().find(|limit| limit.name == name).unwrap().bytes;
    assert_eq!((bytes("flows"), bytes("services"), status.map_memory), (64, 8, 72));
}

fn plan(bench: &mut Bench, services: &str) -> view::Plan {
    let text = text(&bench.directory, services);
    let (writes, before) = (bench.agent.reconciler.tables().writes(), status(bench).fingerprint);
    let plan = bench.ask(&Request::Plan { text, name: "new.toml".to_owned() });
    assert_eq!(bench.agent.reconciler.tables().writes(), writes, "a plan writes nothing");
    assert_eq!(status(bench).fingerprint, before);
    serde_json::from_value(plan).unwrap()
}

fn apply(bench: &mut Bench, services: &str) -> Changed {
    let replacement = Some((text(&bench.directory, services), "new.toml".to_owned()));
    serde_json::from_value(bench.ask(&Request::ConfigApply { replacement, confirm: None })).unwrap()
}

const THIRD: &str = "[[service.backend]]\nname = \"web-3\"\naddress = \"10.0.0.13\"\n";
