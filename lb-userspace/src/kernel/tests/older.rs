//! Maps of an older build of the same version, which did not have all maps yet.

use std::fs;

use lb_common::{map::name, slot::since};
use nix::net::if_::if_nametoindex;

use super::{
    kill::{send, send_through},
    migrate::{assert_clean, assert_kept, attached, lived, open_with, pins, records},
    *,
};
use crate::{bpf::xdp_netlink::program_on, config::spec::AttachMode, reconcile::Reconciler};

#[test]
fn derived_maps_may_be_missing_and_nothing_moves() {
    isolated("derived_maps_may_be_missing_and_nothing_moves", |world| {
        veth("lbt0");
        let (mut kernel, wanted, flows) = lived(world);
        kernel.attach("lbt0", AttachMode::Auto).unwrap();
        let recorded = records(&kernel);
        drop(kernel);
        for map in [
            name::SVC_FRONT,
            name::LIVE,
            name::SLOT_ELSEWHERE,
            name::BK_SERVICE,
            name::KNOWN,
            name::HOST,
            name::INGRESS,
        ] {
            fs::remove_file(pins(world).map(map)).unwrap();
        }
        let before = program_on(if_nametoindex("lbt0").unwrap()).unwrap();
        let (mut kernel, opened) = open_with(world, LIMITS).unwrap();
        assert_eq!(opened, Opened { adopted: true, warnings: vec![] });
        assert_ne!(program_on(if_nametoindex("lbt0").unwrap()).unwrap(), before, "swapped in its link");
        assert_eq!(records(&kernel), recorded);
        assert_kept(&flows, "through the new program", |packet| send(&mut kernel, packet));
        assert_kept(&flows, "through the interface's", |packet| send_through(&attached("lbt0"), packet));
        assert_clean(world);
        let mut agent = Reconciler::new(kernel).unwrap();
        assert_eq!(agent.plan(&wanted, since(16)).unwrap().operations, []);
    });
}
