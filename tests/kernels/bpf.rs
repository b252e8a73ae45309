//! Loads a program by hand. The crate that loads our programs elsewhere keeps the verifier's log of an accepted program to
//! itself, and on kernels before 5.16 only this log has the number of instructions that the verifier walked through.

use std::{
    collections::HashMap,
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use aya_obj::{
    EbpfSectionKind, Function, Object, ProgramSection,
    generated::{bpf_attr, bpf_cmd, bpf_prog_type},
};
use lb_common::{
    flow_table::buckets_for,
    map::size,
    service_cache::{entries_for, shift_for},
};

/// Statistics only (`BPF_LOG_STATS`, since kernel 5.2), or every instruction.
const STATISTICS: u32 = 4;
const EVERYTHING: u32 = 1;

/// Entries of a map, at most: their number does not matter to the verifier, and a guest has little memory. The log's ring
/// buffer wants a power of two of at least a page.
const MOST: u32 = 1 << 17;

/// An object whose maps exist; no program is loaded.
pub(crate) struct Prepared {
    object: Object,
    /// The object's types. With them the verifier goes through each function once, as in the agent; without them it goes
    /// through a function at each call.
    types: OwnedFd,
    _maps: Vec<MapData>,
}

fn bpf(command: bpf_cmd, attribute: &mut bpf_attr) -> io::Result<i64> {
    let pointer = &raw mut *attribute;
    // SAFETY: the attribute lives through the call, and so does what our callers make it point to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, pointer, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain C structs; all bits 0 is what bpf(2) asks of unused parts.
    unsafe { std::mem::zeroed() }
}

/// Makes the maps; `level` is the level of the programs' own log.
pub(crate) fn prepare(object: &[u8], level: u8) -> Result<Prepared> {
    let mut object = Object::parse(object)?;
    // The values as the agent writes them for the default limits.
    let shift = shift_for(entries_for(size::SERVICES)).to_ne_bytes();
    let buckets = buckets_for(size::FLOWS).to_ne_bytes();
    object.patch_map_data(HashMap::from([
        (aya_log::LEVEL, (&[level][..], true)),
        ("FRONT_SHIFT", (&shift[..], true)),
        ("FLOW_BUCKETS", (&buckets[..], true)),
    ]))?;
    let features = aya::features().btf().context("the kernel knows no types (BTF)")?;
    let types = object.fixup_and_sanitize_btf(features)?.context("the object has no types (BTF)")?;
    let types = load_types(&types.to_bytes()).context("loading the object's types")?;
    let mut made = Vec::new();
    for (name, declared) in object.maps.drain() {
        let kind = declared.section_kind();
        // The map is made from its numbers alone: the BTF ids of its types mean nothing without the BTF.
        let (kind_number, flags) = (declared.map_type(), declared.map_flags());
        let (key, value, entries) =
            (declared.key_size(), declared.value_size(), declared.max_entries().min(MOST));
        let plain = aya_obj::Map::new_from_params(kind_number, key, value, entries, flags);
        let map = MapData::create(plain, &name, None).with_context(|| format!("map {name}"))?;
        if matches!(kind, EbpfSectionKind::Rodata | EbpfSectionKind::Data) {
            fill(&map, declared.data(), kind == EbpfSectionKind::Rodata)
                .with_context(|| format!("map {name}"))?;
        }
        made.push((name, declared, map));
    }
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    let places =
        made.iter().map(|(name, declared, map)| (name.as_str(), map.fd().as_fd().as_raw_fd(), declared));
    object.relocate_maps(places, &sections)?;
    object.relocate_calls(&sections)?;
    Ok(Prepared { object, types, _maps: made.into_iter().map(|(_, _, map)| map).collect() })
}

fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attribute = zeroed();
    attribute.__bindgen_anon_7.btf = types.as_ptr() as u64;
    attribute.__bindgen_anon_7.btf_size = types.len() as u32;
    descriptor(bpf(bpf_cmd::BPF_BTF_LOAD, &mut attribute)?)
}

fn descriptor(number: i64) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Writes a section's content. The verifier knows the content of a frozen map, and leaves out code that it makes unreachable.
fn fill(map: &MapData, content: &[u8], freeze: bool) -> io::Result<()> {
    let key = 0u32;
    let fd = map.fd().as_fd().as_raw_fd().cast_unsigned();
    let mut attribute = zeroed();
    attribute.__bindgen_anon_2.map_fd = fd;
    attribute.__bindgen_anon_2.key = &raw const key as u64;
    attribute.__bindgen_anon_2.__bindgen_anon_1.value = content.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attribute)?;
    if freeze {
        let mut attribute = zeroed();
        attribute.__bindgen_anon_2.map_fd = fd;
        bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attribute)?;
    }
    Ok(())
}

impl Prepared {
    /// Names of the programs, sorted.
    pub(crate) fn programs(&self) -> Vec<String> {
        let mut names: Vec<String> = self.object.programs.keys().cloned().collect();
        names.sort();
        names
    }

    /// Loads a program and unloads it again. Returns how many instructions the verifier walked through, or why it refused the
    /// program.
    pub(crate) fn verify(&self, name: &str) -> Result<u64> {
        let program = self.object.programs.get(name).context("no such program")?;
        let function = self.object.functions.get(&program.function_key()).context("it has no code")?;
        let kind = match program.section {
            ProgramSection::RawTracePoint => bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT,
            _ => bpf_prog_type::BPF_PROG_TYPE_XDP,
        };
        let load = |level, room| load(kind, function, &self.types, &program.license, level, room);
        let (outcome, log) = load(STATISTICS, 1 << 16);
        if let Err(error) = outcome {
            let (_, log) = load(EVERYTHING, 1 << 24);
            let lines: Vec<&str> = log.lines().collect();
            bail!("{error}: {}", lines[lines.len().saturating_sub(8)..].join(" | "));
        }
        processed(&log).with_context(|| format!("the verifier said no number: {log}"))
    }
}

fn load(
    kind: bpf_prog_type,
    function: &Function,
    types: &OwnedFd,
    license: &CString,
    level: u32,
    room: usize,
) -> (io::Result<OwnedFd>, String) {
    let mut log = vec![0u8; room];
    let instructions = &function.instructions;
    // Lives until after the call.
    let functions = function.func_info.func_info_bytes();
    let mut attribute = zeroed();
    attribute.__bindgen_anon_3.prog_type = kind as u32;
    attribute.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    attribute.__bindgen_anon_3.insn_cnt = instructions.len() as u32;
    attribute.__bindgen_anon_3.license = license.as_ptr() as u64;
    attribute.__bindgen_anon_3.prog_btf_fd = types.as_raw_fd().cast_unsigned();
    attribute.__bindgen_anon_3.func_info = functions.as_ptr() as u64;
    attribute.__bindgen_anon_3.func_info_cnt = function.func_info.len() as u32;
    attribute.__bindgen_anon_3.func_info_rec_size = function.func_info_rec_size as u32;
    attribute.__bindgen_anon_3.log_level = level;
    attribute.__bindgen_anon_3.log_size = log.len() as u32;
    attribute.__bindgen_anon_3.log_buf = log.as_mut_ptr() as u64;
    let outcome = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attribute).and_then(descriptor);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    (outcome, String::from_utf8_lossy(&log[..end]).into_owned())
}

/// The number in `processed 1234 insns (limit 1000000) …`.
fn processed(log: &str) -> Option<u64> {
    let rest = log.split("processed ").nth(1)?;
    rest.split(' ').next()?.parse().ok()
}
