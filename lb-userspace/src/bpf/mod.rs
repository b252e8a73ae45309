//! What the agent asks of the kernel: loading the object, maps as memory, links, pins, and what the kernel can do. Nothing
//! here knows what a service is, and nothing decides what is written.

pub mod bpffs;
pub(crate) mod btf;
pub mod capabilities;
pub(crate) mod kernel_version;
pub mod link;
pub mod loader;
pub mod log;
pub mod map_shapes;
pub(crate) mod minimal_load;
pub(crate) mod mmap_array;
pub mod namespace;
pub mod object;
pub mod owner;
pub mod pin;
pub(crate) mod sys;
mod takeover;
pub mod xdp_netlink;
