//! Judges hops over a host in memory: what becomes of the hops, and where the agent puts `lb_pass`.

use std::{cell::Cell, io, net::IpAddr};

use super::*;
use crate::{
    agent::interfaces::Attached, config::spec::AttachMode, net::ability::tests::device, net::device::feature,
};

const ALL: u64 = 0x7f;
const NO_SEND: u64 = ALL & !feature::SEND;

/// One egress interface, number 7, and the requests that it got.
struct Lab {
    device: Device,
    /// The driver's answer to `lb_pass`.
    answer: Passing,
    passes: Vec<String>,
    asked: Cell<usize>,
    tried: usize,
}

impl Lab {
    fn new(kind: Option<&str>, features: Option<u64>) -> Self {
        let device = device(kind, kind.unwrap_or("ixgbe"), features);
        Self { device, answer: Passing::Ours, passes: Vec::new(), asked: Cell::new(0), tried: 0 }
    }
}

impl Host for Lab {
    fn attach(&mut self, _: &str, _: AttachMode) -> Result<Attached, String> {
        Err("not here".to_owned())
    }

    fn detach(&mut self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn is_attached(&mut self, _: &str) -> bool {
        true
    }

    fn memory(&self) -> &[(&'static str, u64)] {
        &[]
    }

    fn running_mode(&self, _: &str) -> Option<&'static str> {
        None
    }

    fn device(&self, index: u32) -> io::Result<Device> {
        assert_eq!(index, 7);
        self.asked.set(self.asked.get() + 1);
        Ok(self.device.clone())
    }

    fn put_pass(&mut self, interface: &str) -> Result<Passing, String> {
        self.tried += 1;
        if self.answer == Passing::Ours {
            self.passes = vec![interface.to_owned()];
            self.device.program = true;
            self.device.features = self.device.features.map(|features| features | feature::SEND);
        }
        Ok(self.answer.clone())
    }

    fn take_pass(&mut self, interface: &str) -> Result<(), String> {
        self.passes.retain(|name| name != interface);
        Ok(())
    }

    fn passes(&self) -> Vec<String> {
        self.passes.clone()
    }

    fn losses(&self) -> Option<BTreeMap<Loss, u64>> {
        Some([(Loss { interface: 7, error: 6 }, 5), (Loss { interface: 8, error: 6 }, 9)].into())
    }
}

const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11));

fn found() -> Hops {
    let hop = Hop {
        interface: 7,
        interface_name: "eth1".to_owned(),
        via: BACKEND,
        mac: [2, 0, 0, 0, 0, 1],
        local_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        source: [10, 0, 0, 1].into(),
    };
    Hops { hops: [(BACKEND, Ok(hop))].into(), notes: HashMap::new() }
}

fn port(name: &str, native: bool) -> Port {
    Port { name: name.to_owned(), native }
}

struct Bench {
    egress: Egress,
    lab: Lab,
    journal: Journal,
}

impl Bench {
    fn new(lab: Lab) -> Self {
        Self { egress: Egress::default(), lab, journal: Journal::default() }
    }

    fn look_at(&mut self, found: &Hops, ports: &[Port], now: u64) -> bool {
        self.egress.look(found, ports.to_vec(), &["eth0".to_owned()], &mut self.lab, &mut self.journal, now)
    }

    /// What becomes of the hop over eth1.
    fn hop(&mut self, ports: &[Port]) -> Result<Option<String>, String> {
        self.look_at(&found(), ports, 0);
        let Hops { mut hops, mut notes } = self.egress.judged(&found());
        hops.remove(&BACKEND).unwrap().map(|_| notes.remove(&BACKEND))
    }
}

#[test]
fn a_bridge_works_for_generic_programs_only() {
    let mut bench = Bench::new(Lab::new(Some("bridge"), Some(0)));
    assert_eq!(
        bench.hop(&[port("eth0", true)]),
        Err("eth1 (bridge) cannot send XDP frames: attach to eth1 instead of eth0, or set node.mode = \"generic\""
            .to_owned())
    );
    assert_eq!(bench.hop(&[port("eth0", false)]), Ok(None));
    assert_eq!(bench.hop(&[port("eth1", false)]), Ok(None));
    assert_eq!(bench.hop(&[]), Ok(None), "as long as nothing is attached nothing is known");
}

#[test]
fn a_hop_names_the_interfaces_it_does_not_work_from() {
    let mut bench = Bench::new(Lab::new(Some("bridge"), Some(0)));
    let note = bench.hop(&[port("eth0", true), port("eth1", false)]).unwrap().unwrap();
    assert!(note.starts_with("packets that come in over eth0 are lost: eth1 (bridge) cannot"), "{note}");
    assert_eq!(bench.egress.view(&bench.lab)[0].sends, "partly");
}

#[test]
fn lb_pass_leaves_a_minute_after_the_last_hop() {
    let mut bench = Bench::new(Lab::new(None, Some(NO_SEND)));
    assert_eq!(bench.hop(&[port("eth0", false)]), Ok(None));
    assert_eq!(bench.lab.tried, 0, "a generic program needs none");
    let native = [port("eth0", true)];
    assert_eq!(bench.hop(&native), Ok(None));
    assert!(!bench.look_at(&found(), &native, 1), "nothing changes any more");
    assert_eq!((bench.lab.tried, &bench.lab.passes[..]), (1, &["eth1".to_owned()][..]));
    let view = &bench.egress.view(&bench.lab)[0];
    assert_eq!((&*view.sends, view.program.as_deref(), view.dropped), ("yes", Some("lb_pass"), Some(5)));
    let none = Hops::default();
    bench.look_at(&none, &native, 1_000);
    bench.look_at(&none, &native, 60_000);
    bench.look_at(&found(), &native, 60_500);
    bench.look_at(&none, &native, 61_000);
    bench.look_at(&none, &native, 120_999);
    assert_eq!(bench.lab.passes.len(), 1, "the hop was back in between");
    bench.look_at(&none, &native, 121_000);
    assert!(bench.lab.passes.is_empty());
}

#[test]
fn a_refusing_card_is_named_and_a_new_one_is_tried() {
    let mut bench = Bench::new(Lab::new(None, Some(NO_SEND)));
    bench.lab.answer = Passing::Refused("Invalid argument".to_owned());
    let native = [port("eth0", true)];
    for _ in 0..3 {
        let why = bench.hop(&native).unwrap_err();
        assert!(why.contains("refuses lb_pass: Invalid argument: attach to eth1 instead of eth0"), "{why}");
    }
    assert_eq!(bench.lab.tried, 1);
    bench.lab.device.features = Some(NO_SEND & !0x20);
    bench.hop(&native).unwrap_err();
    assert_eq!(bench.lab.tried, 2);
    let mut bench = Bench::new(Lab::new(None, None));
    bench.lab.answer = Passing::NoXdp;
    assert!(bench.hop(&native).unwrap_err().contains("its driver has no XDP"));
}

#[test]
fn doubt_is_no_refusal() {
    let mut bench = Bench::new(Lab::new(None, None));
    bench.lab.answer = Passing::Refused("Invalid argument".to_owned());
    assert_eq!(bench.hop(&[port("eth0", true)]), Ok(None));
    assert_eq!(bench.egress.view(&bench.lab)[0].sends, "unknown");
}

#[test]
fn an_interface_that_we_attach_to_gets_no_lb_pass() {
    let mut bench = Bench::new(Lab::new(None, Some(NO_SEND)));
    let wanted = ["eth0".to_owned(), "eth1".to_owned()];
    let ports = vec![port("eth0", true)];
    bench.egress.look(&found(), ports, &wanted, &mut bench.lab, &mut bench.journal, 0);
    assert_eq!(bench.lab.tried, 0);
}

#[test]
fn a_bond_whose_ports_do_not_send_is_not_suggested() {
    for features in [NO_SEND, 0] {
        let mut bench = Bench::new(Lab::new(Some("bond"), Some(features)));
        bench.lab.device.program = true;
        let why = bench.hop(&[port("eth0", true)]).unwrap_err();
        assert!(why.starts_with("eth1 (bond) cannot send XDP frames"), "{why}");
        assert!(why.ends_with(": set node.mode = \"generic\""), "{why}");
    }
}

#[test]
fn a_hop_follows_the_ability_of_its_interface() {
    let mut bench = Bench::new(Lab::new(Some("bond"), Some(ALL)));
    let native = [port("eth0", true)];
    let hop = |bench: &Bench| bench.egress.judged(&found()).hops.remove(&BACKEND).unwrap().map(drop);
    assert_eq!(bench.hop(&native), Ok(None));
    bench.lab.device.features = Some(0);
    assert!(!bench.look_at(&found(), &native, 5_000), "one reading is none");
    assert!(hop(&bench).is_ok());
    bench.lab.device.features = Some(ALL);
    assert!(!bench.look_at(&found(), &native, 6_000));
    bench.lab.device.features = Some(0);
    assert!(!bench.look_at(&found(), &native, 7_000), "doubt begins once more");
    assert!(hop(&bench).is_ok());
    assert!(bench.look_at(&found(), &native, 8_500));
    assert!(hop(&bench).is_err());
    assert!(!bench.look_at(&found(), &native, 8_501), "it is no news any more");
    assert!(hop(&bench).is_err());
    bench.lab.device.features = Some(ALL);
    assert!(bench.look_at(&found(), &native, 8_502));
    assert!(hop(&bench).is_ok());
}

#[test]
fn what_an_interface_says_at_first_counts_at_once() {
    let mut bench = Bench::new(Lab::new(Some("bond"), Some(0)));
    assert!(bench.hop(&[port("eth0", true)]).is_err());
}
