//! A foreign XDP program, pinned and attached as another tool would do it.

use std::{
    fs::remove_file,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        raw::c_char,
    },
    path::Path,
};

use anyhow::Result;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

use crate::world::World;

/// `r0 = XDP_PASS; exit`.
const PASS: [(u8, i32); 2] = [(0xb7, 2), (0x95, 0)];

/// Attaches such a program to an interface, under this name.
pub(crate) fn attach(world: &World, interface: &str, name: &str) -> Result<()> {
    let program = load(name)?;
    let pin = Path::new("/sys/fs/bpf/stranger");
    // SAFETY: all bits 0 is what bpf(2) asks of unused parts.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = c"/sys/fs/bpf/stranger".as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr)?;
    world.ip(&format!("link set dev {interface} xdp pinned {}", pin.display()))?;
    Ok(remove_file(pin)?)
}

fn load(name: &str) -> Result<OwnedFd> {
    let code = PASS.map(|(code, immediate)| {
        // SAFETY: a plain C struct.
        let mut instruction: bpf_insn = unsafe { std::mem::zeroed() };
        instruction.code = code;
        instruction.imm = immediate;
        instruction
    });
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
    attr.__bindgen_anon_3.insns = code.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = code.len() as u32;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    // SAFETY: the member the kernel reads; the name has room for 15 bytes and its end.
    let place = unsafe { &mut attr.__bindgen_anon_3.prog_name };
    for (to, from) in place.iter_mut().zip(name.bytes().take(15)) {
        *to = from as c_char;
    }
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> Result<i32> {
    // SAFETY: `attr` lives through the call, and so does what its pointers lead to.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(i32::try_from(result)?)
}
