//! `lb_pass` on an interface: it passes every packet. A veth end takes frames from its peer's XDP_TX only while it has an XDP
//! program; only test laboratories need that.

use std::{io, os::fd::AsFd};

use nix::net::if_::if_nametoindex;

use crate::bpf::{
    capabilities,
    loader::LoadError,
    minimal_load,
    xdp_netlink::{self, Mode},
};

/// Why `lb_pass` is not attached.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("interface {0}: there is no such interface")]
    NoInterface(String),
    #[error("interface {interface}: {source}")]
    Attach { interface: String, source: io::Error },
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Attaches `lb_pass` in the driver. It stays until [`detach`], or until the interface is removed. Where an XDP program is
/// attached already, that program is enough and nothing changes.
pub fn attach(interface: &str) -> Result<(), PassError> {
    let (index, failed) = find(interface)?;
    if xdp_netlink::program_on(index).map_err(&failed)?.is_some() {
        return Ok(());
    }
    capabilities::raise_locked_memory();
    let mut ebpf = minimal_load::load(&[], &[])?;
    let program = minimal_load::program(&mut ebpf, "lb_pass")?;
    let loaded = program.fd().map_err(|error| LoadError::Load(error.to_string()))?;
    xdp_netlink::attach(index, loaded.as_fd(), Mode::Native).map_err(&failed)
}

/// Takes off the program that [`attach`] put there.
pub fn detach(interface: &str) -> Result<(), PassError> {
    let (index, failed) = find(interface)?;
    xdp_netlink::detach(index, Mode::Native).map_err(failed)
}

fn find(interface: &str) -> Result<(u32, impl Fn(io::Error) -> PassError), PassError> {
    let index = if_nametoindex(interface).map_err(|_| PassError::NoInterface(interface.into()))?;
    let interface = interface.to_owned();
    Ok((index, move |source| PassError::Attach { interface: interface.clone(), source }))
}
