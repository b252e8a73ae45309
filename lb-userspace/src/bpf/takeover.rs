//! `lbd --force`: frees an interface that already has a program of ours, from another instance or attached by hand. Foreign
//! programs are never touched.

use std::{io, os::fd::AsFd as _};

use super::{
    sys::{self, XdpLinkInfo},
    xdp_netlink::{self, Present},
};

/// Program names that only this software uses.
const OURS: [&str; 3] = ["lb_xdp", "lb_decap", "lb_pass"];

/// Whether a program of this name is one of ours.
pub(crate) fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
}

/// Takes a program of ours off an interface, no matter which process holds it there. Until the next program is attached,
/// packets go to the host's own stack.
pub(crate) fn free(interface: u32, present: Present) -> io::Result<()> {
    let wanted = XdpLinkInfo { program: present.program, interface };
    match sys::find_xdp_link(wanted)? {
        Some(link) => sys::detach_link(link.as_fd()),
        None => xdp_netlink::detach(interface, present.mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_ours() {
        assert!(is_ours("lb_xdp") && is_ours("lb_pass"));
        assert!(!is_ours("xdp_root") && !is_ours("lb_xdp2") && !is_ours(""));
    }
}
