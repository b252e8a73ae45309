//! Fills new maps with the content of the old ones: first everything, while packets use the old maps; then, when packets use
//! the new maps, the flow records that came in between.

use std::sync::atomic::Ordering;

use lb_common::{
    ABI_VERSION,
    map::{Node, name},
    ring::Ring,
    wire::protocol,
};

use super::{content::Content, error::MigrateError, source::Old};
use crate::{
    fault::{self, Kind},
    kernel::Kernel,
    reconcile::{
        apply, known,
        service_cache::{self, CachedService},
        service_index,
    },
    tables::{TableError, Tables},
};

/// What filling new maps came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    /// When copying the flow records began, in the lower half of jiffies.
    pub(super) began: u32,
    /// Flow records that were lost, since they or others for them found no place.
    pub(super) lost: u64,
}

/// Fills the maps of `kernel`, which no packet uses yet. The version comes after everything that it makes valid; the front of
/// the index comes after the version, because packets that find their service in front do not check the version.
pub(super) fn fill(kernel: &mut Kernel, content: &Content, old: &dyn Old) -> Result<Filled, MigrateError> {
    for interface in &content.egress {
        if let Err(error) = kernel.add_egress(*interface) {
            // The interface may be gone meanwhile; the agent will be notified of that.
            log::warn!("{error}");
        }
    }
    fill_known(kernel, content)?;
    let places = content.rings();
    for (&from, to) in &places {
        let from = Ring(from).offset();
        let words: Vec<_> = (0..to.length()).map(|i| (to.offset() + i, old.slot(from + i).0)).collect();
        kernel.set_slots(&words)?;
    }
    for (number, record, meta) in &content.backends {
        kernel.set_backend_meta(*number, meta)?;
        kernel.set_backend(*number, record)?;
    }
    for (number, record, meta) in &content.services {
        kernel.set_service_meta(*number, meta)?;
        kernel.set_service(*number, &Content::placed(record, &places))?;
    }
    fill_index(kernel, content)?;
    let began = kernel.jiffies()?.now as u32;
    fault::point(Kind::Map).map_err(unwritten)?;
    let lost = {
        let mut flows = kernel.flows_for_writing(began);
        old.flows().copy(content, &mut flows)?;
        flows.lost()
    };
    // As late as possible: traffic that is counted from here until the program is swapped is lost from the counts.
    for (number, ..) in &content.backends {
        kernel.put_backend_tally(*number, &old.backend_tally(*number)?)?;
    }
    for (number, ..) in &content.services {
        let tally = old.service_tally(*number)?;
        if old.counts_services() {
            kernel.put_service_total(*number, &tally)?;
        } else {
            kernel.put_service_tally(*number, &tally)?;
        }
    }
    fill_counters(kernel, old)?;
    let index_mask = kernel.sizes().buckets.max(1) - 1;
    let entries = content.entries();
    let udp = entries.iter().filter(|entry| entry.port_protocol >> 16 == u32::from(protocol::UDP));
    let udp_ports = Node::bits_of(udp.map(|entry| entry.port_protocol as u16));
    let node = Node { abi_version: 0, index_mask, udp_ports, ..content.node };
    kernel.set_node(&node)?;
    kernel.set_node(&Node { abi_version: ABI_VERSION, ..node })?;
    fill_service_cache(kernel, &content.cached_services(&places), &node)?;
    Ok(Filled { began, lost })
}

/// Sets the bits of the services' addresses.
pub(super) fn fill_known(kernel: &mut Kernel, content: &Content) -> Result<(), MigrateError> {
    let known = known::plan(kernel.known(), content.entries().iter().map(|entry| entry.address));
    for operation in known.set {
        apply::execute(kernel, &operation)?;
    }
    Ok(())
}

/// Fills the index, which is empty.
pub(super) fn fill_index(kernel: &mut Kernel, content: &Content) -> Result<(), MigrateError> {
    let words: Vec<u64> = kernel.index().iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let index = service_index::plan(&words, &content.entries());
    let index = index.map_err(|_| MigrateError::DoesNotFit(vec!["the service index is full".to_owned()]))?;
    for (at, word) in index.additions {
        kernel.set_index(at, word)?;
    }
    Ok(())
}

/// Fills the front of the index from the services' records: the older versions do not have this table.
pub(super) fn fill_service_cache(
    kernel: &mut Kernel,
    services: &[CachedService],
    node: &Node,
) -> Result<(), MigrateError> {
    for operation in service_cache::plan(&kernel.service_cache()?, services, node.seed).open {
        apply::execute(kernel, &operation)?;
    }
    Ok(())
}

/// Writes what the old map has counted behind what packets count in the new one. May be done again.
pub(super) fn fill_counters(kernel: &mut Kernel, old: &dyn Old) -> Result<(), MigrateError> {
    for (counter, value) in old.counters()? {
        kernel.put_carried(counter, value)?;
    }
    Ok(())
}

/// Copies the records that packets wrote into the old maps since `since`, in the lower half of jiffies (`None`: at any time),
/// where the new maps have no younger record, and what the old maps have counted in the end. The caller makes sure that no
/// packet uses the old maps any more. Returns how many records were lost.
pub(crate) fn rest(
    kernel: &mut Kernel,
    content: &Content,
    old: &dyn Old,
    since: Option<u32>,
) -> Result<u64, MigrateError> {
    let now = kernel.jiffies()?.now as u32;
    fault::point(Kind::Map).map_err(unwritten)?;
    let lost = {
        let mut flows = kernel.flows_for_writing(now);
        old.flows().rest(content, &mut flows, since)?;
        flows.lost()
    };
    fill_counters(kernel, old)?;
    // The old maps may not say when records sent packets elsewhere than to their slots' owners.
    kernel.note_elsewhere(Ring::new(0, kernel.sizes().slots))?;
    Ok(lost)
}

fn unwritten(source: std::io::Error) -> TableError {
    TableError::Map { map: name::FLOWS, action: "writing the records".to_owned(), source }
}
