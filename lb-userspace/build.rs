//! Builds the XDP programs and leaves the object in `OUT_DIR`, where `bpf::object` embeds it.

#[path = "build/bpf.rs"]
mod bpf;

fn main() {
    bpf::build("lb-ebpf", &[]);
}
