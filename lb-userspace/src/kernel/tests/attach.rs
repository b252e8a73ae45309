//! Attaching, replacing in place, falling back and refusing.

use lb_common::encap::Kind;
use nix::net::if_::if_nametoindex;

use super::*;
use crate::{
    bpf::{
        link::AttachError,
        pin::PinDirectory,
        xdp_netlink::{Mode, program_on},
    },
    config::spec::AttachMode,
    tools::{
        decap::{self, At, DecapError, Detached},
        xdp_pass,
    },
    upgrade::error::OpenError,
};

/// A kernel half with valid maps, which the next agent adopts.
pub(super) fn valid(world: &World) -> Kernel {
    use crate::tables::Tables;
    let (mut kernel, _) = world.open();
    let node = lb_common::map::Node { abi_version: lb_common::ABI_VERSION, ..Default::default() };
    kernel.set_node(&node).unwrap();
    kernel
}

#[test]
fn a_restart_replaces_the_program_in_place() {
    isolated("a_restart_replaces_the_program_in_place", |world| {
        veth("lbt0");
        let index = if_nametoindex("lbt0").unwrap();
        let mut kernel = valid(world);
        let attached = kernel.attach("lbt0", AttachMode::Auto).unwrap();
        assert_eq!((attached.index, attached.mode, attached.replaced), (index, Mode::Native, false));
        assert_eq!(attached.note, None);
        drop(kernel);
        let before = program_on(index).unwrap().unwrap();
        assert_eq!(before.mode, Mode::Native);
        let (mut kernel, opened) = world.open();
        assert!(opened.adopted);
        let attached = kernel.attach("lbt0", AttachMode::Auto).unwrap();
        assert_eq!((attached.mode, attached.replaced), (Mode::Native, true));
        let after = program_on(index).unwrap().unwrap();
        assert_ne!(after.program, before.program);
        assert_eq!(kernel.attached(), [("lbt0".to_owned(), index)]);
        // The same agent may attach again.
        assert!(kernel.attach("lbt0", AttachMode::Native).unwrap().replaced);
        let note = kernel.attach("lbt0", AttachMode::Generic).unwrap().note.unwrap();
        assert!(note.contains("lbd --detach"), "{note}");
        kernel.detach("lbt0").unwrap();
        assert_eq!(program_on(index).unwrap(), None);
        kernel.detach("lbt0").unwrap();
    });
}

#[test]
fn without_native_mode_auto_falls_back_and_says_why() {
    isolated("without_native_mode", |world| {
        let mut kernel = valid(world);
        let error = kernel.attach("lo", AttachMode::Native).unwrap_err();
        assert!(matches!(error, AttachError::Refused { mode: Mode::Native, .. }), "{error}");
        assert!(error.to_string().contains("node.mode = \"auto\""), "{error}");
        let attached = kernel.attach("lo", AttachMode::Auto).unwrap();
        assert_eq!(attached.mode, Mode::Generic);
        assert!(attached.note.unwrap().contains("the driver refuses native mode"));
    });
}

#[test]
fn an_interface_that_comes_back_gets_a_new_link() {
    isolated("an_interface_that_comes_back", |world| {
        veth("lbt0");
        let mut kernel = valid(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        run("ip link del lbt0");
        assert_eq!(kernel.attached(), [("lbt0".to_owned(), 0)]);
        assert!(matches!(kernel.attach("lbt0", AttachMode::Auto), Err(AttachError::NoInterface)));
        veth("lbt0");
        let attached = kernel.attach("lbt0", AttachMode::Auto).unwrap();
        assert!(!attached.replaced);
        assert_eq!(kernel.attached(), [("lbt0".to_owned(), attached.index)]);
        // The same across a restart of the agent.
        drop(kernel);
        run("ip link del lbt0");
        veth("lbt0");
        let mut kernel = world.open().0;
        assert!(!kernel.attach("lbt0", AttachMode::Auto).unwrap().replaced);
    });
}

#[test]
fn a_pin_follows_the_name_of_the_interface_not_its_number() {
    isolated("a_pin_follows_the_name", |world| {
        veth("lbt0");
        let mut kernel = valid(world);
        let before = kernel.attach("lbt0", AttachMode::Auto).unwrap().index;
        run("ip link set lbt0 down");
        run("ip link set lbt0 name other");
        run("ip link add lbt0 type veth peer name otherp");
        let after = kernel.attach("lbt0", AttachMode::Auto).unwrap();
        assert!(!after.replaced && after.index != before);
        assert_eq!(program_on(before).unwrap(), None, "the renamed one is let go");
    });
}

#[test]
fn a_program_of_somebody_else_is_named_and_left_alone() {
    isolated("a_program_of_somebody_else", |world| {
        veth("lbt0");
        let index = if_nametoindex("lbt0").unwrap();
        xdp_pass::attach("lbt0").unwrap();
        xdp_pass::attach("lbt0").unwrap();
        let theirs = program_on(index).unwrap().unwrap();
        let mut kernel = valid(world);
        for mode in [AttachMode::Auto, AttachMode::Native, AttachMode::Generic] {
            let error = kernel.attach("lbt0", mode).unwrap_err();
            assert!(
                matches!(&error, AttachError::Taken { id, name, .. }
                if *id == theirs.program && name == "lb_pass"),
                "{error}"
            );
        }
        assert_eq!(program_on(index).unwrap(), Some(theirs));
        xdp_pass::detach("lbt0").unwrap();
        kernel.attach("lbt0", AttachMode::Native).unwrap();
        assert!(matches!(xdp_pass::attach("nope"), Err(xdp_pass::PassError::NoInterface(_))));
    });
}

#[test]
fn names_with_dots_can_be_pinned() {
    isolated("names_with_dots", |world| {
        veth("lbt0");
        run("ip link set lbt0 down");
        run("ip link set lbt0 name lbt0.7");
        let mut kernel = valid(world);
        kernel.attach("lbt0.7", AttachMode::Auto).unwrap();
        assert!(kernel.attach("lbt0.7", AttachMode::Auto).unwrap().replaced);
    });
}

/// Runs `work` in a network namespace of its own that has an interface of the same name and number. Returns its result.
fn elsewhere<T: Send>(index: u32, work: impl FnOnce() -> T + Send) -> T {
    let enter = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        veth("lbt0");
        assert_eq!(if_nametoindex("lbt0").unwrap(), index, "the same number");
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

#[test]
fn pins_used_by_another_namespace_are_refused() {
    isolated("pins_used_by_another_namespace_are_refused", |world| {
        veth("lbt0");
        let index = if_nametoindex("lbt0").unwrap();
        let mut kernel = valid(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        let pins = PinDirectory::new(world.options().pins);
        let link = std::fs::read_link(pins.path().join("netns")).unwrap();
        let refused = || {
            let error = open(&world.options()).map(drop).unwrap_err();
            assert!(matches!(error, OpenError::OtherNamespace(_)), "{error}");
            error.to_string()
        };
        let error = elsewhere(index, refused);
        assert!(error.contains(&link.display().to_string()) && error.contains("--detach --force"), "{error}");
        // Pins of an older version have no record: the link shows the owner.
        std::fs::remove_file(pins.path().join("netns")).unwrap();
        let error = elsewhere(index, refused);
        assert!(error.contains("an earlier version"), "{error}");
        assert!(program_on(index).unwrap().is_some());
        assert!(kernel.attach("lbt0", AttachMode::Auto).unwrap().replaced);
        assert!(world.open().1.adopted, "and here they are ours");
        assert_eq!(std::fs::read_link(pins.path().join("netns")).unwrap(), link, "recorded again");
    });
}

#[test]
fn unused_pins_of_another_namespace_are_adopted() {
    isolated("unused_pins_of_another_namespace_are_adopted", |world| {
        veth("lbt0");
        let index = if_nametoindex("lbt0").unwrap();
        valid(world).attach("lbt0", AttachMode::Auto).unwrap();
        run("ip link del lbt0");
        let taken = || {
            let (mut kernel, opened) = world.open();
            assert!(opened.adopted, "what it says goes on");
            assert!(!kernel.attach("lbt0", AttachMode::Auto).unwrap().replaced);
            opened.warnings
        };
        let warnings = elsewhere(index, taken);
        assert!(warnings.iter().any(|warning| warning.contains("taken over from another")), "{warnings:?}");
    });
}

#[test]
fn an_interface_moved_to_another_namespace_is_named() {
    isolated("an_interface_moved_to_another_namespace_is_named", |world| {
        veth("lbt0");
        let mut kernel = valid(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        moved_away("lbt0", || {
            run("ip link add lbt0 type veth peer name lbt9");
            let error = kernel.attach("lbt0", AttachMode::Auto).unwrap_err();
            assert!(matches!(error, AttachError::OtherNamespace { .. }), "{error}");
            assert!(world.open().1.adopted, "the pins are ours all the same");
        });
    });
}

#[test]
fn decapsulation_of_another_namespace_is_untouched() {
    isolated("decapsulation_of_another_namespace_is_untouched", |world| {
        veth("lbt0");
        let (index, base) = (if_nametoindex("lbt0").unwrap(), world.base());
        let at = |instance| At { interface: "lbt0", instance };
        let (theirs, ours) = (["10.0.0.11".parse().unwrap()], ["10.0.0.12".parse().unwrap()]);
        decap::attach(&base, at("main"), &theirs, &[Kind::Ipip], AttachMode::Auto).unwrap();
        elsewhere(index, || {
            let error = decap::attach(&base, at("main"), &ours, &[Kind::Ipip], AttachMode::Auto).unwrap_err();
            assert!(
                matches!(error, DecapError::Other(_)) && error.to_string().contains("--instance"),
                "{error}"
            );
            assert!(matches!(decap::stats(&base, at("main")), Err(DecapError::Other(_))));
            assert!(matches!(decap::detach(&base, at("main")), Err(DecapError::Other(_))));
            decap::attach(&base, at("b"), &ours, &[Kind::Ipip], AttachMode::Auto).unwrap();
            assert_eq!(decap::stats(&base, at("b")).unwrap().addresses, ours);
            assert_eq!(decap::detach(&base, at("b")).unwrap(), Detached::TakenOff);
        });
        assert_eq!(decap::stats(&base, at("main")).unwrap().addresses, theirs);
        run("ip link del lbt0");
        assert!(matches!(decap::stats(&base, at("main")), Err(DecapError::Gone(_))));
        assert_eq!(decap::detach(&base, at("main")).unwrap(), Detached::Rests);
    });
}
