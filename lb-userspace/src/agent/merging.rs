//! What merges packets before the program sees them in the kernel's generic path, and the commands that end the merging.
//! Pure.

use crate::net::{Lower, offload::Offloads};

/// The kind of a virtual Ethernet cable, whose other end may hand over long segments.
const VETH: &str = "veth";

/// What to do about merged packets on an interface, given the devices below it; `None` = nothing merges. `suspected`:
/// merged packets have come in, so the advice also names devices that cannot be checked.
pub(super) fn advice(
    below: &[Lower],
    offloads: impl Fn(&str) -> Option<Offloads>,
    suspected: bool,
) -> Option<String> {
    let mut commands = Vec::new();
    for Lower { name, kind, far_end } in below {
        let Offloads { gro, lro, gro_hw, .. } = offloads(name).unwrap_or_default();
        // Other kinds receive through the devices below them, whatever their own setting says.
        let receives = kind.is_empty() || kind == VETH;
        let merging = [("gro", gro && receives), ("lro", lro), ("rx-gro-hw", gro_hw)];
        let merging: Vec<_> =
            merging.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name} off")).collect();
        if !merging.is_empty() {
            commands.push(format!("`ethtool -K {name} {}`", merging.join(" ")));
        }
        match far_end {
            Some(Some(far)) if offloads(far).is_some_and(|far| far.tso) => {
                commands.push(format!("`ethtool -K {far} tso off`"));
            }
            Some(None) if suspected => {
                commands
                    .push(format!("`ethtool -K` with `tso off` for the other end of {name}, where that is"));
            }
            _ => {}
        }
    }
    if commands.is_empty() {
        return None;
    }
    Some(format!(
        "packets are merged before the program sees them, and dropped as `merged` where they exceed the MTU; turn that \
         off: {}",
        commands.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(name: &str, kind: &str, far_end: Option<Option<&str>>) -> Lower {
        Lower { name: name.into(), kind: kind.into(), far_end: far_end.map(|far| far.map(str::to_owned)) }
    }

    const ALL: Offloads = Offloads { gro: true, lro: true, gro_hw: true, tso: true };

    #[test]
    fn ports_of_a_bridge_merge_and_the_bridge_does_not() {
        let below = [lower("br0", "bridge", None), lower("eth1", "", None), lower("tap0", "tun", None)];
        let of = |name: &str| match name {
            "br0" | "tap0" => Some(Offloads { gro: true, ..Offloads::default() }),
            _ => Some(ALL),
        };
        let advice = advice(&below, of, false).unwrap();
        assert!(advice.ends_with("off: `ethtool -K eth1 gro off lro off rx-gro-hw off`"), "{advice}");
    }

    #[test]
    fn a_peer_that_merges_is_named_or_suspected() {
        let below = [lower("veth0", "veth", Some(Some("c0"))), lower("veth1", "veth", Some(None))];
        let of = |name: &str| (name == "c0").then_some(ALL);
        let known = advice(&below, of, false).unwrap();
        assert!(known.ends_with("off: `ethtool -K c0 tso off`"), "{known}");
        let suspected = advice(&below, of, true).unwrap();
        assert!(suspected.ends_with("for the other end of veth1, where that is"), "{suspected}");
    }

    #[test]
    fn where_nothing_merges_there_is_nothing_to_do() {
        let quiet = |_: &str| Some(Offloads { tso: true, ..Offloads::default() });
        assert_eq!(advice(&[lower("eth0", "", None)], quiet, true), None);
        assert_eq!(advice(&[lower("gone", "", None)], |_| None, true), None);
    }
}
