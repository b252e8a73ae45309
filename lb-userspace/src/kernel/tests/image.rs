//! The whole content of running tables, saved and restored: a test can begin many times in the state that one history led to.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    backend::Backend,
    map::{NameRecord, Node},
    service::Service,
};

use super::Kernel;
use crate::tables::Tables;

/// The content of the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Image {
    node: Node,
    services: Vec<Service>,
    service_metas: Vec<NameRecord>,
    backends: Vec<Backend>,
    backend_metas: Vec<NameRecord>,
    slots: Vec<u64>,
    index: Vec<u64>,
    known: Vec<u64>,
    egress: Vec<u32>,
    pub(super) flows: Vec<u64>,
    clocks: Vec<u64>,
}

impl Image {
    pub(super) fn take(kernel: &Kernel) -> Self {
        let mut egress = kernel.egress().unwrap();
        egress.sort_unstable();
        Self {
            node: kernel.node().unwrap(),
            services: kernel.services().unwrap(),
            service_metas: kernel.service_metas().unwrap(),
            backends: kernel.backends().unwrap(),
            backend_metas: kernel.backend_metas().unwrap(),
            slots: words(kernel.slots()),
            index: words(kernel.index()),
            known: words(kernel.known()),
            egress,
            flows: words(kernel.flow_table().words()),
            clocks: words(kernel.elsewhere()),
        }
    }

    /// Whether an agent declared the maps valid.
    pub(super) fn is_valid(&self) -> bool {
        self.node.abi_version == lb_common::ABI_VERSION
    }

    /// Restores the content of the tables. Writes only what differs.
    pub(super) fn put_back(&self, kernel: &mut Kernel) {
        let now = Self::take(kernel);
        kernel.set_node(&self.node).unwrap();
        for (number, (record, now)) in (0..).zip(self.services.iter().zip(&now.services)) {
            if record != now {
                kernel.set_service(number, record).unwrap();
            }
        }
        for (number, (meta, now)) in (0..).zip(self.service_metas.iter().zip(&now.service_metas)) {
            if meta != now {
                kernel.set_service_meta(number, meta).unwrap();
            }
        }
        for (number, (record, now)) in (0..).zip(self.backends.iter().zip(&now.backends)) {
            if record != now {
                kernel.set_backend(number, record).unwrap();
            }
        }
        for (number, (meta, now)) in (0..).zip(self.backend_metas.iter().zip(&now.backend_metas)) {
            if meta != now {
                kernel.set_backend_meta(number, meta).unwrap();
            }
        }
        for (at, word) in (0..).zip(&self.known) {
            kernel.set_known(at, *word).unwrap();
        }
        let slots: Vec<_> = (0..).zip(self.slots.iter().copied()).collect();
        kernel.set_slots(&slots).unwrap();
        for (at, word) in (0..).zip(&self.index) {
            kernel.set_index(at, *word).unwrap();
        }
        for interface in now.egress.iter().filter(|interface| !self.egress.contains(interface)) {
            kernel.remove_egress(*interface).unwrap();
        }
        for interface in &self.egress {
            kernel.add_egress(*interface).unwrap();
        }
        put_words(kernel.flow_table().words(), &self.flows);
        put_words(kernel.elsewhere(), &self.clocks);
    }
}

fn words(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

fn put_words(places: &[AtomicU64], words: &[u64]) {
    places.iter().zip(words).for_each(|(place, word)| place.store(*word, Ordering::Relaxed));
}
