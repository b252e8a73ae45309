//! Whether an interface can send what a program in a driver hands it. Pure. A program in the generic path sends over any
//! interface, by the way of ordinary packets.
//!
//! Doubt is no reason to refuse: only what certainly cannot work is.

use super::device::{Device, feature};

/// What an interface can do with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ability {
    Sends,
    /// It cannot be known. What is lost is counted.
    Unknown,
    /// Only, as far as can be known, while an XDP program is on it: any will do.
    WantsProgram,
    /// It does not.
    Cannot(Reason),
}

/// Why not, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub why: String,
    /// What can be done where the interface is, in the imperative; `None` = nothing there.
    pub way_out: Option<String>,
}

/// Kinds of virtual devices that never could, for kernels that do not say what a device can do.
const NEVER: [&str; 20] = [
    "bareudp",
    "batadv",
    "bridge",
    "dummy",
    "erspan",
    "geneve",
    "gretap",
    "hsr",
    "ifb",
    "ip6gretap",
    "ipvlan",
    "ipvtap",
    "macsec",
    "macvlan",
    "macvtap",
    "nlmon",
    "team",
    "vlan",
    "vrf",
    "vxlan",
];

/// Drivers that announce that they send, and do so only while a program is on the card.
const ANNOUNCE_TOO_MUCH: [&str; 1] = ["mlx5_core"];

/// Of a frame that came in over another interface and is redirected to this one.
pub fn redirected(device: &Device) -> Ability {
    let kind = device.kind.as_deref();
    match device.features {
        Some(features) if features & feature::SEND != 0 => {
            let driver = device.driver.as_deref().unwrap_or_default();
            let wants = ANNOUNCE_TOO_MUCH.contains(&driver) && !device.program;
            if wants { Ability::WantsProgram } else { Ability::Sends }
        }
        Some(_) if kind == Some("veth") => cannot_over_veth(device),
        Some(features) if features & feature::BASIC == 0 => cannot(device, ""),
        Some(_) if device.program && kind == Some("bond") => {
            cannot(device, ", since not all of its ports do")
        }
        Some(_) if device.program => cannot(device, ", not even while an XDP program is on it"),
        Some(_) => Ability::WantsProgram,
        None => without_features(device, kind),
    }
}

/// What was known of kernels before 6.3, which do not say what a device can do.
fn without_features(device: &Device, kind: Option<&str>) -> Ability {
    match kind {
        Some("veth") => match device.far_end.as_ref().and_then(|end| end.program) {
            Some(true) => Ability::Sends,
            // GRO there does as well (since 5.13), and we cannot see it.
            Some(false) | None => Ability::Unknown,
        },
        Some("tun") => Ability::Sends,
        Some(kind) if NEVER.contains(&kind) => cannot(device, ""),
        // A bond has it from its ports: trying tells.
        Some("bond") | None if device.program => Ability::Sends,
        Some("bond") | None => Ability::WantsProgram,
        Some(_) => Ability::Unknown,
    }
}

/// Of a frame that came in over this interface and is sent back by the program in its driver.
pub fn sent_back(device: &Device) -> Ability {
    match device.kind.as_deref() {
        // The program runs on a port of the bond and hands the frame to the bond.
        Some("bond") => redirected(device),
        Some("veth") => match device.far_end.as_ref().and_then(|end| end.program) {
            Some(true) => Ability::Sends,
            Some(false) => {
                let far = far_end(device);
                Ability::Cannot(Reason {
                    why: format!(
                        "{} cannot send XDP frames back: {far} takes them only while it has an XDP program",
                        named(device)
                    ),
                    way_out: Some("put one there (`lb_pass`, see lb-userspace/doc/egress.md)".to_owned()),
                })
            }
            None => Ability::Unknown,
        },
        _ => Ability::Sends,
    }
}

fn cannot_over_veth(device: &Device) -> Ability {
    let far = far_end(device);
    let name = device.far_end.as_ref().and_then(|end| end.name.as_deref()).unwrap_or("IT");
    Ability::Cannot(Reason {
        why: format!(
            "{} cannot send XDP frames: {far} takes them only while it has GRO or an XDP program",
            named(device)
        ),
        way_out: Some(format!("turn GRO on there (`ethtool -K {name} gro on`)")),
    })
}

fn cannot(device: &Device, more: &str) -> Ability {
    let why = format!("{} cannot send XDP frames{more}", named(device));
    Ability::Cannot(Reason { why, way_out: None })
}

/// After `lb_pass` was refused with this error.
pub fn without_program(device: &Device, refusal: Option<&str>) -> Ability {
    match (refusal, device.features) {
        // A driver that takes no program sends no frames of one either.
        (None, _) => cannot(device, ": its driver has no XDP"),
        (Some(why), Some(features)) if features & feature::SEND == 0 => {
            let more = format!(": its driver wants an XDP program for that, and refuses lb_pass: {why}");
            cannot(device, &more)
        }
        (Some(_), _) => Ability::Unknown,
    }
}

fn far_end(device: &Device) -> String {
    let Some(end) = &device.far_end else { return "its far end".to_owned() };
    let place = if end.elsewhere { ", in another network namespace" } else { "" };
    match &end.name {
        Some(name) => format!("its far end ({name}{place})"),
        None => format!("its far end{}", place.replacen(", ", " ", 1)),
    }
}

fn named(device: &Device) -> String {
    match device.kind.as_deref().or(device.driver.as_deref()) {
        Some(what) => format!("{} ({what})", device.name),
        None => device.name.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::net::device::FarEnd;

    const ALL: u64 = 0x7f;
    const NO_SEND: u64 = ALL & !feature::SEND;

    pub(crate) fn device(kind: Option<&str>, driver: &str, features: Option<u64>) -> Device {
        Device {
            name: "eth1".to_owned(),
            kind: kind.map(str::to_owned),
            driver: Some(driver.to_owned()),
            features,
            program: false,
            far_end: None,
        }
    }

    fn veth(features: Option<u64>, program: Option<bool>) -> Device {
        let far_end = Some(FarEnd { name: Some("eth9".to_owned()), program, elsewhere: true });
        Device { far_end, ..device(Some("veth"), "veth", features) }
    }

    fn why(ability: Ability) -> String {
        match ability {
            Ability::Cannot(reason) => reason.why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_device_announces_counts() {
        assert_eq!(redirected(&device(Some("tun"), "tun", Some(ALL))), Ability::Sends);
        assert_eq!(redirected(&device(None, "ixgbe", Some(ALL))), Ability::Sends);
        assert_eq!(
            why(redirected(&device(Some("bridge"), "bridge", Some(0)))),
            "eth1 (bridge) cannot send XDP frames"
        );
        assert_eq!(why(redirected(&device(None, "e1000e", Some(0)))), "eth1 (e1000e) cannot send XDP frames");
    }

    #[test]
    fn a_card_that_sends_only_with_a_program_wants_one() {
        for driver in ["ixgbe", "virtio_net"] {
            assert_eq!(redirected(&device(None, driver, Some(NO_SEND))), Ability::WantsProgram);
        }
        assert_eq!(redirected(&device(None, "mlx5_core", Some(ALL))), Ability::WantsProgram);
        let with = Device { program: true, ..device(None, "mlx5_core", Some(ALL)) };
        assert_eq!(redirected(&with), Ability::Sends);
        let with = Device { program: true, ..device(None, "other", Some(NO_SEND)) };
        assert!(why(redirected(&with)).contains("not even while"));
    }

    #[test]
    fn a_kernel_without_feature_flags_leaves_doubt() {
        for kind in NEVER {
            assert!(matches!(redirected(&device(Some(kind), kind, None)), Ability::Cannot(_)), "{kind}");
        }
        assert_eq!(redirected(&device(None, "ixgbe", None)), Ability::WantsProgram);
        assert_eq!(redirected(&device(Some("bond"), "bonding", None)), Ability::WantsProgram);
        assert_eq!(redirected(&device(Some("tun"), "tun", None)), Ability::Sends);
        assert_eq!(redirected(&device(Some("news"), "news", None)), Ability::Unknown);
        assert_eq!(redirected(&veth(None, Some(false))), Ability::Unknown);
        assert_eq!(redirected(&veth(None, Some(true))), Ability::Sends);
    }

    #[test]
    fn the_far_end_of_a_veth_decides_and_is_named() {
        assert_eq!(redirected(&veth(Some(ALL), Some(false))), Ability::Sends, "GRO is on there");
        assert_eq!(
            why(redirected(&veth(Some(NO_SEND), Some(false)))),
            "eth1 (veth) cannot send XDP frames: its far end (eth9, in another network namespace) takes them only \
             while it has GRO or an XDP program"
        );
        assert_eq!(sent_back(&veth(Some(ALL), Some(true))), Ability::Sends);
        assert!(why(sent_back(&veth(Some(ALL), Some(false)))).contains("only while it has an XDP program"));
        assert_eq!(sent_back(&veth(Some(ALL), None)), Ability::Unknown);
    }

    #[test]
    fn what_is_sent_back_over_a_bond_is_redirected() {
        assert!(matches!(sent_back(&device(Some("bond"), "bonding", Some(0))), Ability::Cannot(_)));
        assert_eq!(sent_back(&device(None, "ixgbe", Some(NO_SEND))), Ability::Sends);
    }

    #[test]
    fn only_a_driver_without_xdp_cannot_send() {
        let silent = device(None, "r8169", None);
        assert!(why(without_program(&silent, None)).ends_with("its driver has no XDP"));
        assert_eq!(without_program(&silent, Some("Invalid argument")), Ability::Unknown);
        let card = device(None, "ixgbe", Some(NO_SEND));
        assert!(
            why(without_program(&card, Some("Invalid argument")))
                .ends_with("refuses lb_pass: Invalid argument")
        );
    }
}
