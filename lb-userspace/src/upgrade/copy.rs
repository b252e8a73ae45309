//! Fills new maps with the content of the old ones: first everything, while packets use the old maps; then, when packets use
//! the new maps, the flow records that came in between.

use std::{collections::HashMap, sync::atomic::Ordering};

use lb_common::{
    ABI_VERSION,
    flow::{Key, Record},
    map::Node,
    wire::protocol,
};

use super::{content::Content, error::MigrateError, source::Old};
use crate::{
    kernel::Kernel,
    reconcile::{
        Evictions, apply, known,
        service_cache::{self, CachedService},
        service_index,
    },
    tables::{FlowTable, Tables},
};

/// `PENDING` first: so a flow that moves to `FLOWS` meanwhile is met at least once.
const TABLES: [FlowTable; 2] = [FlowTable::Pending, FlowTable::Confirmed];

/// Fills the maps of `kernel`, which no packet uses yet. The version comes after everything that it makes valid; the front of
/// the index comes after the version, because packets that find their service in front do not check the version. Returns the
/// time at which copying the flow records began, in the lower half of jiffies.
pub(super) fn fill(kernel: &mut Kernel, content: &Content, old: &dyn Old) -> Result<u32, MigrateError> {
    for interface in &content.egress {
        if let Err(error) = kernel.add_egress(*interface) {
            // The interface may be gone meanwhile; the agent will be notified of that.
            log::warn!("{error}");
        }
    }
    let known = known::plan(kernel.known(), content.entries().iter().map(|entry| entry.address));
    for operation in known.set {
        apply::execute(kernel, &mut Evictions::default(), &operation)?;
    }
    let places = content.rings();
    for (&from, to) in &places {
        let from = lb_common::ring::Ring(from).offset();
        for i in 0..to.length() {
            kernel.set_slot(to.offset() + i, old.slot(from + i).0)?;
        }
    }
    for (number, record, meta) in &content.backends {
        kernel.set_backend_meta(*number, meta)?;
        kernel.set_backend(*number, record)?;
    }
    for (number, record, meta) in &content.services {
        kernel.set_service_meta(*number, meta)?;
        kernel.set_service(*number, &Content::placed(record, &places))?;
    }
    let words: Vec<u64> = kernel.index().iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let index = service_index::plan(&words, &content.entries());
    let index = index.map_err(|_| MigrateError::DoesNotFit(vec!["the service index is full".to_owned()]))?;
    for (at, word) in index.additions {
        kernel.set_index(at, word)?;
    }
    let since = kernel.jiffies()?.now as u32;
    for table in TABLES {
        old.flows(table, &mut |keys, records| kernel.put_flows(table, keys, records))?;
    }
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
    for (counter, value) in old.counters()? {
        kernel.put_counter(counter, value)?;
    }
    let index_mask = kernel.sizes().buckets.max(1) - 1;
    let entries = content.entries();
    let udp = entries.iter().filter(|entry| entry.port_protocol >> 16 == u32::from(protocol::UDP));
    let udp_ports = Node::bits_of(udp.map(|entry| entry.port_protocol as u16));
    let node = Node { abi_version: 0, index_mask, udp_ports, ..content.node };
    kernel.set_node(&node)?;
    kernel.set_node(&Node { abi_version: ABI_VERSION, ..node })?;
    fill_service_cache(kernel, &content.cached_services(&places), &node)?;
    Ok(since)
}

/// Fills the front of the index from the services' records: the older versions do not have this table.
fn fill_service_cache(
    kernel: &mut Kernel,
    services: &[CachedService],
    node: &Node,
) -> Result<(), MigrateError> {
    for operation in service_cache::plan(&kernel.service_cache()?, services, node.seed).open {
        apply::execute(kernel, &mut Evictions::default(), &operation)?;
    }
    Ok(())
}

/// Copies the records that packets wrote into the old maps since `since`, in the lower half of jiffies (`None`: at any time),
/// where the new maps have no younger record. The caller makes sure that no packet uses the old maps any more.
pub(crate) fn rest(kernel: &mut Kernel, old: &dyn Old, since: Option<u32>) -> Result<(), MigrateError> {
    let recent = |table| {
        let mut recent = HashMap::<Key, Record>::new();
        let mut note = |keys: &[Key], records: &[Record]| {
            let is_recent = |record: &Record| {
                since.is_none_or(|since| record.last_seen.wrapping_sub(since).cast_signed() >= 0)
            };
            let all = keys.iter().zip(records).filter(|(_, record)| is_recent(record));
            recent.extend(all.map(|(key, record)| (*key, *record)));
            Ok(())
        };
        old.flows(table, &mut note).map(|()| recent)
    };
    let begun = recent(FlowTable::Pending)?;
    let mut only_begun: HashMap<Key, Record> = begun.clone();
    old.flows(FlowTable::Confirmed, &mut |keys, _| {
        for key in keys {
            only_begun.remove(key);
        }
        Ok(())
    })?;
    // A SYN ended one flow and began another: the record of the first flow was copied before and must go.
    for (key, record) in &only_begun {
        kernel.forget_flow_before(FlowTable::Confirmed, key, record.last_seen)?;
    }
    for (table, records) in
        [(FlowTable::Pending, begun), (FlowTable::Confirmed, recent(FlowTable::Confirmed)?)]
    {
        for (key, record) in &records {
            kernel.put_younger_flow(table, key, record)?;
        }
    }
    Ok(())
}
