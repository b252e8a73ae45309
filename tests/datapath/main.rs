//! Packets through the real programs by BPF_PROG_TEST_RUN: every test asserts verdict, bytes and counter deltas, and
//! `lb_tests::world` checks the invariants of all packets with every packet. Needs root, else each test says that it was
//! skipped; no program is attached, and no pin appears where the host sees it.

mod backend_down;
mod balance;
mod clock;
mod decap;
mod distribution;
mod echo;
mod elsewhere;
mod encap;
mod extensions;
mod fragment;
mod golden;
mod hash_source;
mod history;
mod icmp;
mod icmp_slots;
mod instructions;
mod learning;
mod length;
mod log;
mod lookup;
mod martian;
mod no_backend;
mod owners;
mod passed;
mod pinned;
mod regress;
mod remembering;
mod resize;
mod scene;
mod service_cache;
mod slots;
mod too_big;
mod track_always;
mod traffic;
mod transmit;
mod unserved;
