//! What fits as soon as numbers and rings of removed things are free, and does not fit yet. Numbers are given again only
//! when no packet can name them any more, so a backend that takes the place of another one has to wait where all numbers
//! are taken. Decides and writes nothing.

use std::{collections::HashSet, sync::atomic::AtomicU64};

use lb_common::{map::Meta, service::Service};

use super::{
    assign::{self, matched},
    desired::{self, Desired},
    mirror::Mirror,
};

/// New things that there is no number or no ring for, as places in [`Desired`], in ascending order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacking {
    /// With all their backends, which are not named in `backends`.
    pub services: Vec<usize>,
    /// Service and backend.
    pub backends: Vec<(usize, usize)>,
}

/// What to leave out of `desired` for now so that the rest fits. `None` = everything fits already, or to leave new things
/// out does not help, or they will never fit.
pub(super) fn lacking(mirror: &Mirror, slots: &[AtomicU64], desired: &Desired, now: u16) -> Option<Lacking> {
    if !assign::check(mirror, desired).is_empty() {
        return None;
    }
    let is = assign::distribute(mirror, slots, desired, now);
    if is.others || is.lacking == Lacking::default() {
        return None;
    }
    let will_be = assign::distribute(&without_the_rest(mirror, desired), slots, desired, now);
    will_be.refusals.is_empty().then_some(is.lacking)
}

/// The tables when everything is gone from them that is not in `desired`, and no packet can name it any more.
fn without_the_rest(mirror: &Mirror, desired: &Desired) -> Mirror {
    let mut later = mirror.clone();
    let (mut services, mut backends) = (HashSet::new(), HashSet::new());
    let wanted = |record| {
        let listen = desired::listen(record)?;
        desired.services.iter().find(|service| service.listen == listen)
    };
    for (number, record, _) in mirror.present() {
        let Some(service) = wanted(record) else { continue };
        services.insert(number);
        let own: Vec<u32> = mirror
            .used_backends()
            .filter(|backend| mirror.backend_metas[*backend as usize].service == number)
            .collect();
        backends.extend(matched(mirror, &own, &service.backends).into_iter().flatten());
    }
    for (number, meta) in (0u32..).zip(&mut later.service_metas) {
        if !services.contains(&number) {
            *meta = Meta::FREE;
            later.services[number as usize] = Service::default();
        }
    }
    for (number, meta) in (0u32..).zip(&mut later.backend_metas).skip(1) {
        if !backends.contains(&number) {
            *meta = Meta::FREE;
        }
    }
    later
}
