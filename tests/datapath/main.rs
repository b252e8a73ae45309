//! Packets through the real programs by BPF_PROG_TEST_RUN: every test asserts verdict, bytes and counter deltas.
//! Needs root; nothing is attached or pinned.

mod forward;
