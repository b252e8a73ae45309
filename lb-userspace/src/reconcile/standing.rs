//! One number for where flows go by the slot words that run, also flows that no record names yet. Nodes with equal rings may
//! still treat flows differently that began before a change.

use std::collections::BTreeMap;

use lb_common::slot::PREVIOUS_RING;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::{Reconciler, mirror::Mirror, slot};
use crate::tables::Tables;

impl<T: Tables> Reconciler<T> {
    /// The fingerprint of every slot's owner and owner of unknown flows. It is equal on nodes that treat new flows and unknown
    /// flows alike. Backends count by their addresses, since each node numbers them by itself.
    pub fn standing(&self) -> u64 {
        let mirror: &Mirror = self.mirror();
        let services: BTreeMap<_, _> = mirror
            .present()
            .map(|(number, record, _)| ((record.address, record.port_protocol), (number, record)))
            .collect();
        let mut hasher = SipHasher24::new_with_key(b"lb: standing....");
        let mut word = |word: u64| std::hash::Hasher::write_u64(&mut hasher, word);
        for ((address, port_protocol), (_, record)) in services {
            address.iter().for_each(|part| word(u64::from(*part)));
            word(u64::from(port_protocol));
            word(u64::from(record.ring.length()));
            for (_, slot) in slot::words(self.tables().slots(), record.ring) {
                for owner in [slot.current(), slot.owner_of_unknown()] {
                    word(identity(mirror, owner));
                }
            }
        }
        hasher.finish128().h1
    }
}

/// A number for the address of a backend.
fn identity(mirror: &Mirror, owner: u32) -> u64 {
    if owner == 0 || owner == PREVIOUS_RING {
        return u64::from(owner);
    }
    let address = mirror.backend_metas.get(owner as usize).map_or([0; 4], |meta| meta.address);
    address
        .iter()
        .fold(1, |sum, part| (sum ^ u64::from(*part)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23))
}
