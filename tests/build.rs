//! Builds the benchmarks' object: the rig and the floors.

#[path = "../lb-userspace/build/bpf.rs"]
mod bpf;

fn main() {
    bpf::build("lb-bench", &["bench"]);
}
