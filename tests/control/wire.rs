//! Raw frames, sent out of an interface of the test's own.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

/// An interface out of which the test sends frames.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    /// Opens the interface in the network namespace of this thread.
    pub(crate) fn on(interface: &str) -> Result<Self> {
        let index = if_nametoindex(interface).with_context(|| format!("interface {interface}"))?;
        // SAFETY: no pointers are passed. Protocol 0: nothing is received.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(socket >= 0, "a packet socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: all zeroes is a value of this struct of numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // SAFETY: the address is a whole sockaddr_ll of the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        ensure!(bound == 0, "binding to {interface}: {}", io::Error::last_os_error());
        Ok(Self(socket))
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = nix::unistd::write(&self.0, frame).context("sending a frame")?;
        ensure!(sent == frame.len(), "{sent} of {} bytes were sent", frame.len());
        Ok(())
    }
}
