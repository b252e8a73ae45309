//! The tables of a world as a walked program asks them: through the kernel's own look-ups, so that the walk finds what
//! packets find.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData};
use aya_obj::{
    Object,
    generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_map_type},
};
use lb_common::{flow_table, map::name, service_cache};
use lb_userspace::bpf::object::OBJECT;

use super::walk::Tables;
use crate::world::World;

/// The object's program and its tables, under the same numbers.
pub(super) struct Program<'a> {
    pub(super) instructions: Vec<bpf_insn>,
    world: &'a World,
    names: HashMap<u32, String>,
    constants: HashMap<u32, Vec<u8>>,
}

impl<'a> Program<'a> {
    /// The program as the agent and the tests load it, before the verifier changes it.
    pub(super) fn of(world: &'a World, program: &str) -> Result<Self> {
        let mut object = Object::parse(OBJECT).context("the object")?;
        let service_cache = sizes(table(world, name::SVC_FRONT)?)?.entries;
        let shift = service_cache::shift_for(service_cache).to_ne_bytes();
        let buckets = sizes(table(world, name::FLOWS)?)?.entries.to_ne_bytes();
        let globals: HashMap<&str, (&[u8], bool)> = [
            (aya_log::LEVEL, (&[0u8][..], true)),
            (service_cache::SHIFT, (&shift[..], true)),
            (flow_table::BUCKETS, (&buckets[..], true)),
        ]
        .into();
        object.patch_map_data(globals)?;
        let maps: Vec<_> = (1u32..).zip(object.maps.clone()).collect();
        let text = object.functions.keys().map(|(section, _)| *section).collect();
        let numbered = maps.iter().map(|(number, (name, map))| (name.as_str(), *number as i32, map));
        object.relocate_maps(numbered, &text)?;
        object.relocate_calls(&text)?;
        let program = object.programs.get(program).with_context(|| format!("no program {program}"))?;
        let function =
            object.functions.get(&program.function_key()).context("a program without a function")?;
        Ok(Self {
            instructions: function.instructions.clone(),
            world,
            names: maps.iter().map(|(number, (name, _))| (*number, name.clone())).collect(),
            constants: maps.iter().map(|(number, (_, map))| (*number, map.data().to_vec())).collect(),
        })
    }

    fn name(&self, table: u32) -> Result<&str> {
        self.names.get(&table).map(String::as_str).with_context(|| format!("no table {table}"))
    }
}

impl Tables for Program<'_> {
    fn sizes(&self, table: u32) -> Result<(usize, usize)> {
        let sizes = sizes(self::table(self.world, self.name(table)?)?)?;
        Ok((sizes.key, sizes.value))
    }

    fn look_up(&self, table: u32, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let map = self::table(self.world, self.name(table)?)?;
        let sizes = sizes(map)?;
        // A per-CPU map has a value for each CPU; the walk is on the first CPU.
        let all = if sizes.for_each_cpu {
            sizes.value.next_multiple_of(8) * aya::util::nr_cpus().map_err(|(_, e)| e)?
        } else {
            sizes.value
        };
        let mut value = vec![0u8; all];
        let found = look_up(map, key, &mut value)?;
        value.truncate(sizes.value);
        Ok(found.then_some(value))
    }

    fn constants(&self, table: u32) -> Result<&[u8]> {
        self.constants.get(&table).map(Vec::as_slice).with_context(|| format!("no constants {table}"))
    }
}

struct SizesOf {
    key: usize,
    value: usize,
    entries: u32,
    for_each_cpu: bool,
}

fn sizes(map: &MapData) -> Result<SizesOf> {
    let info = map.info()?;
    let kind = info.map_type()?;
    let for_each_cpu = kind as u32 == bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    Ok(SizesOf { key, value, entries: info.max_entries(), for_each_cpu })
}

fn table<'a>(world: &'a World, name: &str) -> Result<&'a MapData> {
    let map = world.ebpf.map(name).with_context(|| format!("no map {name}"))?;
    match map {
        Map::Array(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data) => Ok(data),
        other => anyhow::bail!("{name}: a map of a kind that packets do not ask: {other:?}"),
    }
}

/// Whether the map has this key; `value` then holds the whole value.
fn look_up(map: &MapData, key: &[u8], value: &mut [u8]) -> Result<bool> {
    // SAFETY: all zeros is a value of each of the union's fields.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: all of the union was zeroed, and these are the fields of the command.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    element.key = key.as_ptr() as u64;
    element.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    let command = bpf_cmd::BPF_MAP_LOOKUP_ELEM as libc::c_long;
    // SAFETY: the kernel reads `key` and writes `value`, which have the sizes of the map's keys and of all its values.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of_val(&attr)) };
    if answer == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        error => Err(error).context("looking into a map"),
    }
}
