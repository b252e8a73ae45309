//! Addresses of services: to which of them this host would send packets on that no service takes. Fed with what the
//! kernel answers; no sockets here.

use std::{collections::BTreeSet, net::IpAddr};

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Services {
    addresses: BTreeSet<IpAddr>,
    /// Routes may have changed since they were looked up.
    stale: bool,
    /// Those that a route leads on; `None` = not looked up yet.
    onward: Option<BTreeSet<IpAddr>>,
    to_tell: bool,
}

impl Services {
    /// Replaces the set.
    pub(super) fn track(&mut self, addresses: &[IpAddr]) {
        self.addresses = addresses.iter().copied().collect();
        self.stale = true;
    }

    /// Routes to such addresses may have changed. Returns whether any is to be looked up.
    pub(super) fn distrust(&mut self, concerned: impl Fn(IpAddr) -> bool) -> bool {
        self.stale |= self.addresses.iter().any(|ip| concerned(*ip));
        self.stale
    }

    /// The addresses to look up.
    pub(super) fn stale(&self) -> Vec<IpAddr> {
        if self.stale { self.addresses.iter().copied().collect() } else { Vec::new() }
    }

    /// Takes in what became of the addresses that were looked up; those in `onward` are forwarded.
    pub(super) fn looked_up(&mut self, addresses: &[IpAddr], onward: &BTreeSet<IpAddr>) {
        if !self.stale {
            return;
        }
        self.stale = false;
        let onward: BTreeSet<IpAddr> = addresses.iter().filter(|ip| onward.contains(ip)).copied().collect();
        self.to_tell |= Some(&onward) != self.onward.as_ref();
        self.onward = Some(onward);
    }

    pub(super) fn has_news(&self) -> bool {
        self.to_tell
    }

    /// Those that are forwarded, if that has changed.
    pub(super) fn news(&mut self) -> Option<BTreeSet<IpAddr>> {
        if std::mem::take(&mut self.to_tell) { self.onward.clone() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_are_reported_when_that_changes() {
        let mut services = Services::default();
        let all: Vec<IpAddr> = ["203.0.113.10", "2001:db8::10"].map(|ip| ip.parse().unwrap()).into();
        assert!(!services.distrust(|_| true));
        services.track(&all);
        assert_eq!(services.stale(), all);
        services.looked_up(&all, &BTreeSet::from([all[0]]));
        assert_eq!((services.stale(), services.news()), (vec![], Some(BTreeSet::from([all[0]]))));
        assert!(!services.distrust(|ip| ip != all[0] && ip != all[1]));
        assert!(services.distrust(|ip| ip == all[1]));
        services.looked_up(&all, &BTreeSet::from([all[0]]));
        assert_eq!(services.news(), None);
        // A route that ends its packets here was added, then all services went.
        services.distrust(|_| true);
        services.looked_up(&all, &BTreeSet::new());
        assert_eq!(services.news(), Some(BTreeSet::new()));
        services.track(&[]);
        services.looked_up(&[], &BTreeSet::new());
        assert!(!services.has_news());
    }
}
