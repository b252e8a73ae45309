//! What changed about next hops that were known before and still are: an operator who asks why packets go another way,
//! or why the MTU is smaller, finds the answer among the events. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lb_common::backend::Backend;

use crate::{
    config::words::plural,
    net::{Hop, Hops, Seed, Seeds},
};

/// What is known of the ways to backends, for a watcher that begins: what the kernel's routing said; before that, what
/// an agent before us wrote into the backends' records, by which packets go now.
pub(super) fn seeds(adopted: &Seeds, found: &Hops) -> Seeds {
    let mut seeds = adopted.clone();
    let found = found.hops.iter().filter_map(|(address, hop)| Some((address, hop.as_ref().ok()?)));
    seeds.extend(found.map(|(address, hop)| {
        (*address, Seed { interface: hop.interface, mac: hop.mac, local_mac: hop.local_mac })
    }));
    seeds
}

/// The way in a backend's record; `None` = the record has none.
pub(super) fn seed(record: &Backend) -> Option<Seed> {
    let (mac, local_mac) = (record.ethernet.first_chunk()?, record.ethernet.get(6..)?.first_chunk()?);
    (record.interface != 0).then_some(Seed { interface: record.interface, mac: *mac, local_mac: *local_mac })
}

/// A sentence for each change, with one of its addresses; addresses behind one router change together.
pub(super) fn changes(
    before: &HashMap<IpAddr, Result<Hop, String>>,
    after: &HashMap<IpAddr, Result<Hop, String>>,
) -> Vec<(IpAddr, String)> {
    let mut changes: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (address, hop) in after {
        if let (Some(Ok(before)), Ok(after)) = (before.get(address), hop)
            && let Some(what) = change(*address, before, after)
        {
            changes.entry(what).or_default().push(*address);
        }
    }
    let sentence = |(what, mut addresses): (String, Vec<IpAddr>)| {
        addresses.sort_unstable();
        let first = *addresses.first()?;
        let more = match addresses.len() - 1 {
            0 => String::new(),
            n => format!(", and for {}", plural(n as u64, "other address", "other addresses")),
        };
        Some((first, what + &more))
    };
    changes.into_iter().filter_map(sentence).collect()
}

/// The differences that matter to packets. The sentence does not name an address that is its own next hop, so that many
/// such changes become one.
fn change(address: IpAddr, before: &Hop, after: &Hop) -> Option<String> {
    let way = |hop: &Hop| match hop.via == address {
        true => format!("on the link of {}", hop.interface_name),
        false => format!("via {} on {}", hop.via, hop.interface_name),
    };
    let mac = |hop: &Hop| hop.mac.map(|byte| format!("{byte:02x}")).join(":");
    let pairs = [
        ((before.via, before.interface) != (after.via, after.interface), "way", way(before), way(after)),
        (before.mac != after.mac, "hardware address", mac(before), mac(after)),
        (before.mtu != after.mtu, "MTU", before.mtu.to_string(), after.mtu.to_string()),
    ];
    let said: Vec<String> = pairs
        .into_iter()
        .filter(|(differs, ..)| *differs)
        .map(|(_, what, before, after)| format!("{what} {before} became {after}"))
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(via: [u8; 4], mac: u8, mtu: u16) -> Result<Hop, String> {
        Ok(Hop {
            interface: 2,
            interface_name: "eth0".into(),
            via: via.into(),
            mac: [2, 0, 0, 0, 0, mac],
            local_mac: [2, 0, 0, 0, 0, 1],
            mtu,
            source: [10, 0, 0, 2].into(),
        })
    }

    fn table<const N: usize>(hops: [(u8, Result<Hop, String>); N]) -> HashMap<IpAddr, Result<Hop, String>> {
        hops.into_iter().map(|(n, hop)| (IpAddr::from([10, 0, 0, n]), hop)).collect()
    }

    #[test]
    fn a_change_of_many_addresses_is_one_event() {
        let before = table([
            (11, hop([10, 0, 0, 1], 7, 1500)),
            (12, hop([10, 0, 0, 1], 7, 1500)),
            (13, hop([10, 0, 0, 13], 13, 1500)),
            (14, Err("not resolved yet".into())),
            (15, hop([10, 0, 0, 15], 15, 1500)),
        ]);
        let after = table([
            (11, hop([10, 0, 0, 9], 9, 1500)),
            (12, hop([10, 0, 0, 9], 9, 1500)),
            (13, hop([10, 0, 0, 13], 13, 1400)),
            (14, hop([10, 0, 0, 14], 14, 1500)),
            (15, Err("no route".into())),
        ]);
        let said = changes(&before, &after);
        assert_eq!(
            said,
            [
                ([10, 0, 0, 13].into(), "MTU 1500 became 1400".to_owned()),
                (
                    [10, 0, 0, 11].into(),
                    "way via 10.0.0.1 on eth0 became via 10.0.0.9 on eth0, hardware address 02:00:00:00:00:07 became \
                     02:00:00:00:00:09, and for 1 other address"
                        .to_owned()
                ),
            ]
        );
        assert!(changes(&after, &after).is_empty());
    }
}
