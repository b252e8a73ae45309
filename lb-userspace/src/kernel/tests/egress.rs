//! `lb_pass` on interfaces that packets leave by, and the programs that count losses: attached, kept, adopted and taken off.

use nix::net::if_::if_nametoindex;

use super::{attach::valid, *};
use crate::{
    bpf::{
        pin::PinDirectory,
        xdp_netlink::{Mode, program_on},
    },
    config::spec::AttachMode,
    kernel::{self, egress::Passing},
    tools::xdp_pass,
};

fn id_on(interface: &str) -> Option<u32> {
    let index = if_nametoindex(interface).unwrap();
    program_on(index).unwrap().map(|present| present.program)
}

#[test]
fn lb_pass_outlives_the_agent_until_detach() {
    isolated("lb_pass_outlives_the_agent_until_detach", |world| {
        veth("lbt0");
        let mut kernel = valid(world);
        assert_eq!(kernel.put_pass("lbt0").unwrap(), Passing::Ours);
        let before = id_on("lbt0").unwrap();
        drop(kernel);
        let (mut kernel, _) = world.open();
        assert_eq!(kernel.put_pass("lbt0").unwrap(), Passing::Ours);
        assert_eq!((id_on("lbt0"), kernel.passes().unwrap()), (Some(before), vec!["lbt0".to_owned()]));
        kernel.take_pass("lbt0").unwrap();
        assert_eq!((id_on("lbt0"), kernel.passes().unwrap()), (None, vec![]));
        kernel.take_pass("lbt0").unwrap();
        kernel.put_pass("lbt0").unwrap();
        drop(kernel);
        kernel::detach(&world.options().pins).unwrap();
        assert_eq!((id_on("lbt0"), exists(&world.options().pins)), (None, false));
    });
}

#[test]
fn a_foreign_program_is_kept_and_no_xdp_is_reported() {
    isolated("a_foreign_program_is_kept_and_no_xdp_is_reported", |world| {
        veth("lbt0");
        xdp_pass::attach("lbt0").unwrap();
        let theirs = id_on("lbt0");
        let (mut kernel, _) = world.open();
        assert_eq!(kernel.put_pass("lbt0").unwrap(), Passing::Others);
        assert_eq!(kernel.put_pass("lo").unwrap(), Passing::NoXdp);
        assert!(kernel.put_pass("lbt9").is_err());
        kernel.take_pass("lbt0").unwrap();
        assert_eq!((id_on("lbt0"), kernel.passes().unwrap()), (theirs, vec![]));
    });
}

#[test]
fn a_recreated_interface_gets_lb_pass_again() {
    isolated("a_recreated_interface_gets_lb_pass_again", |world| {
        veth("lbt0");
        let (mut kernel, _) = world.open();
        kernel.put_pass("lbt0").unwrap();
        run("ip link del lbt0");
        veth("lbt0");
        assert_eq!(id_on("lbt0"), None);
        assert_eq!(kernel.put_pass("lbt0").unwrap(), Passing::Ours);
        assert!(id_on("lbt0").is_some());
        run("ip link del lbt0");
        kernel.take_pass("lbt0").unwrap();
        assert!(kernel.passes().unwrap().is_empty());
    });
}

#[test]
fn the_balancer_takes_the_place_of_lb_pass_in_its_link() {
    isolated("the_balancer_takes_the_place_of_lb_pass", |world| {
        veth("lbt0");
        let (mut kernel, _) = world.open();
        kernel.put_pass("lbt0").unwrap();
        let pass = id_on("lbt0");
        let attached = kernel.attach("lbt0", AttachMode::Auto).unwrap();
        assert_eq!((attached.mode, attached.replaced), (Mode::Native, true));
        assert_ne!(id_on("lbt0"), pass);
        assert!(kernel.passes().unwrap().is_empty());
        assert_eq!(kernel.running_mode("lbt0"), Some(Mode::Native));
        kernel.detach("lbt0").unwrap();
        assert_eq!((id_on("lbt0"), kernel.running_mode("lbt0")), (None, None));
    });
}

#[test]
fn losses_are_counted_once_across_restarts() {
    isolated("losses_are_counted_once_across_restarts", |world| {
        let mut kernel = valid(world);
        if let Err(error) = kernel.count_losses() {
            assert!(error.to_string().contains("does not describe its types"), "{error}");
            return;
        }
        let pins = PinDirectory::new(world.options().pins);
        let link = |tracepoint| crate::bpf::sys::open_pin(&pins.loss(tracepoint)).unwrap();
        let program = |tracepoint| {
            use std::os::fd::AsFd as _;
            crate::bpf::sys::program_in_link(link(tracepoint).as_fd()).unwrap()
        };
        let tracepoints = ["xdp_devmap_xmit", "xdp_redirect_err", "xdp_exception", "xdp_bulk_tx"];
        let before = tracepoints.map(program);
        assert!(kernel.losses().unwrap().read().unwrap().is_empty());
        drop(kernel);
        let (mut kernel, _) = world.open();
        kernel.count_losses().unwrap();
        assert_eq!(tracepoints.map(program), before, "the same programs go on");
        drop(kernel);
        kernel::detach(pins.path()).unwrap();
        assert!(!exists(pins.path()));
    });
}
