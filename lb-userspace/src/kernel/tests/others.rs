//! The smaller programs and clocks.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{counter::Counter, encap::Kind};

use super::*;
use crate::{
    bpf::xdp_netlink::program_on,
    config::spec::AttachMode,
    tables::Tables,
    tools::decap::{self, At, DecapError, Detached},
};

const AT: At<'static> = At { interface: "lbt0", instance: "main" };

#[test]
fn the_clock_ticks_as_often_a_second_as_it_says() {
    isolated("the_clock_ticks", |world| {
        let kernel = world.open().0;
        let mut measured = Vec::new();
        // Another process may run between reading the clock and reading the jiffies, so one measurement is not enough.
        for _ in 0..50 {
            let (begin, first) = (Instant::now(), kernel.jiffies().unwrap());
            std::thread::sleep(Duration::from_millis(300));
            let (last, elapsed) = (kernel.jiffies().unwrap(), begin.elapsed());
            let rate = (last.now - first.now) as f64 / elapsed.as_secs_f64();
            let nearest = [100.0f64, 250.0, 300.0, 1000.0]
                .into_iter()
                .min_by(|a, b| (a - rate).abs().total_cmp(&(b - rate).abs()));
            if nearest == Some(first.hz as f64) {
                return;
            }
            measured.push(rate);
        }
        panic!("measured {measured:?}");
    });
}

#[test]
fn waiting_for_packets_under_way_ends() {
    isolated("waiting_for_packets", |world| {
        let mut kernel = world.open().0;
        kernel.barrier().unwrap();
    });
}

#[test]
fn decapsulation_is_attached_renewed_counted_and_taken_off() {
    isolated("decapsulation", |world| {
        veth("lbt0");
        let index = nix::net::if_::if_nametoindex("lbt0").unwrap();
        let base = world.base();
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert!(matches!(decap::stats(&base, AT), Err(DecapError::NotAttached(_))));
        assert!(matches!(
            decap::attach(&base, AT, &[], &[Kind::Ipip], AttachMode::Auto),
            Err(DecapError::NoAddress)
        ));
        let first = addresses(&["10.0.0.11", "2001:db8::b"]);
        assert!(!decap::attach(&base, AT, &first, &[Kind::Ipip], AttachMode::Auto).unwrap().replaced);
        let stats = decap::stats(&base, AT).unwrap();
        assert_eq!(stats.addresses, first);
        assert_eq!(stats.counters.len(), 4);
        assert_eq!(stats.counters[0].0, Counter::Decapsulated);
        let second = addresses(&["10.0.0.12", "2001:db8::b"]);
        assert!(decap::attach(&base, AT, &second, &[Kind::Ipip], AttachMode::Auto).unwrap().replaced);
        assert_eq!(decap::stats(&base, AT).unwrap().addresses, second);
        assert!(program_on(index).unwrap().is_some());
        assert_eq!(decap::detach(&base, AT).unwrap(), Detached::TakenOff);
        assert_eq!(decap::detach(&base, AT).unwrap(), Detached::Nothing);
        assert_eq!(program_on(index).unwrap(), None);
    });
}
