//! What a configuration needs of its host, as questions. The checker asks them through [`OnHost`]; `host` answers them for the
//! host that this process runs on.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::spec::Spec;

/// The questions to the host. A refusal continues the key's name: `socket_group` + ` "x" is not a group of this host`.
pub trait OnHost {
    fn interface(&self, name: &str) -> bool;

    fn group(&self, _name: &str) -> Result<(), String> {
        Ok(())
    }

    fn state_directory(&self, _path: &Path) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self, _address: SocketAddr) -> Result<(), String> {
        Ok(())
    }

    /// Whether a file has certificates that can serve as roots.
    fn certificates(&self, _file: &Path) -> Result<(), String> {
        Ok(())
    }

    /// Whether a service may have an address.
    fn listen(&self, _address: IpAddr) -> Result<(), String> {
        Ok(())
    }
}

/// A function that knows the interfaces only; every other question is answered with yes.
impl<F: Fn(&str) -> bool> OnHost for F {
    fn interface(&self, name: &str) -> bool {
        self(name)
    }
}

/// For a change at run time: only what the change adds is asked, so that a change is not refused because of something that is
/// in force already and unrelated.
pub struct Added<'a> {
    pub host: &'a dyn OnHost,
    pub in_force: &'a Spec,
}

impl OnHost for Added<'_> {
    /// Always true: `[node]` is not changed at run time.
    fn interface(&self, _name: &str) -> bool {
        true
    }

    fn certificates(&self, file: &Path) -> Result<(), String> {
        let mut checks = self.in_force.services.iter().filter_map(|service| service.health.as_ref());
        let known =
            checks.any(|health| health.probe.tls().is_some_and(|tls| tls.ca.as_deref() == Some(file)));
        if known { Ok(()) } else { self.host.certificates(file) }
    }

    fn listen(&self, address: IpAddr) -> Result<(), String> {
        let known = self.in_force.services.iter().any(|service| service.listen.address == address);
        if known { Ok(()) } else { self.host.listen(address) }
    }
}
