//! Frames that `lb_xdp` counted as forwarded and the kernel lost behind the program: the kernel frees frames that an
//! interface does not take, and reports that at tracepoints only. Here is what the programs at these tracepoints count,
//! and what they have to know of the kernel.

use crate::pod;

/// Where a frame was lost, and why: the key of the map of losses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Loss {
    /// Number of the interface that should have sent the frame.
    pub interface: u32,
    /// The kernel's error number, or [`Loss::FULL`] or [`Loss::NOT_SENT`].
    pub error: u32,
}

impl Loss {
    /// The interface took some frames of a bulk and had no room for the rest.
    pub const FULL: u32 = 0;
    /// The driver, or the generic path, did not send it and gives no error number.
    pub const NOT_SENT: u32 = u32::MAX;
}

/// Offsets in bytes inside structures of the running kernel. The agent reads them from the kernel's type information
/// (BTF), because they differ from build to build, and writes them before it loads the programs; for the programs they
/// are constant.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offsets {
    /// `net_device.ifindex`.
    pub device_number: u32,
    /// `net_device.nd_net`, a pointer.
    pub device_namespace: u32,
    /// `net_device.xdp_state`, the entry of native mode: its program, where that is attached without a link.
    pub device_program: u32,
    /// `net_device.xdp_state`, the entry of native mode: its link.
    pub device_link: u32,
    /// `bpf_xdp_link.link.prog`.
    pub link_program: u32,
    /// `bpf_prog.aux`.
    pub program_more: u32,
    /// `bpf_prog_aux.id`.
    pub more_id: u32,
    /// `net.ns.inum`.
    pub namespace_inode: u32,
    /// Our network namespace: the number of its inode.
    pub our_namespace: u32,
    /// Which argument of the tracepoint `xdp_redirect_err` is the target, counted from 0: 5, since kernel 5.13 it is 6.
    pub target_argument: u32,
}

/// Name of the global variable in the object.
pub const OFFSETS: &str = "LOSS_OFFSETS";

pod!(Loss, Offsets);

const _: () = {
    assert!(size_of::<Loss>() == 8);
    assert!(size_of::<Offsets>() == 40);
};
