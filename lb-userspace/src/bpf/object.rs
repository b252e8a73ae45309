//! The XDP programs, as the build script made them.

/// The ELF object with `lb_xdp`, `lb_decap`, `lb_clock` and `lb_pass`, aligned for the loader.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));
