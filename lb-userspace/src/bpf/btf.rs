//! The kernel's description of its own types (Documentation/bpf/btf.rst): the offset of a field in a structure and the size of
//! a structure, nothing else. aya's loader does not offer what it has read of it, so this parses the types a second time.

use std::{collections::HashMap, fs, io};

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

mod kind {
    pub(crate) const INT: u32 = 1;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const ENUM64: u32 = 19;
}

/// Why the offset of a field is not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("this kernel does not describe its types ({PATH}: {0})")]
    None(io::Error),
    #[error("{PATH} cannot be read: {0}")]
    Damaged(&'static str),
    #[error("this kernel's {0} is not known")]
    Unknown(String),
}

/// A structure or union: its size in bytes, and the place of its members in the description.
#[derive(Clone, Copy)]
struct Structure {
    size: u32,
    members: usize,
    count: u32,
    /// The upper byte of a member's offset is the size of a bit field.
    bit_fields: bool,
}

pub(crate) struct Types {
    bytes: Vec<u8>,
    strings: usize,
    /// Structures and unions by type number; types of another kind are not in it.
    structures: HashMap<u32, Structure>,
    by_name: HashMap<String, u32>,
}

impl Types {
    /// The types of the running kernel.
    pub(crate) fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(PATH).map_err(BtfError::None)?)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let damaged = BtfError::Damaged;
        let short = || damaged("it is cut short");
        if word(&bytes, 0).ok_or_else(short)? & 0xffff != u32::from(MAGIC) {
            return Err(damaged("it is not of this machine's byte order"));
        }
        let header = word(&bytes, 4).ok_or_else(short)? as usize;
        let field = |at| word(&bytes, at).map(|word| word as usize).ok_or_else(short);
        let (from, length, strings) = (header + field(8)?, field(12)?, header + field(16)?);
        let (mut structures, mut by_name) = (HashMap::new(), HashMap::new());
        let (mut at, end, mut number) = (from, from + length, 1);
        while at < end {
            let (name, info, size) = (field(at)?, field(at + 4)? as u32, field(at + 8)? as u32);
            let (count, kind) = (info & 0xffff, info >> 24 & 0x1f);
            at += 12;
            if matches!(kind, kind::STRUCT | kind::UNION) {
                let structure = Structure { size, members: at, count, bit_fields: info >> 31 != 0 };
                structures.insert(number, structure);
                let name = text(&bytes, strings + name);
                if kind == kind::STRUCT && !name.is_empty() {
                    by_name.entry(name.to_owned()).or_insert(number);
                }
            }
            at += match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count as usize,
                kind::ENUM | kind::FUNC_PROTO => 8 * count as usize,
                0 | 20.. => return Err(damaged("it has types of a kind that is not known")),
                _ => 0,
            };
            number += 1;
        }
        Ok(Self { bytes, strings, structures, by_name })
    }

    /// Bytes from the beginning of a structure to a field, also where the field is in an anonymous struct or union.
    pub(crate) fn offset(&self, structure: &str, field: &str) -> Result<u32, BtfError> {
        let unknown = || BtfError::Unknown(format!("{structure}.{field}"));
        let number = *self.by_name.get(structure).ok_or_else(unknown)?;
        self.bits(number, field, 8).filter(|bits| bits % 8 == 0).map(|bits| bits / 8).ok_or_else(unknown)
    }

    /// The size of a structure in bytes.
    pub(crate) fn size(&self, structure: &str) -> Result<u32, BtfError> {
        let found = self.by_name.get(structure).and_then(|number| self.structures.get(number));
        found.map(|found| found.size).ok_or_else(|| BtfError::Unknown(structure.to_owned()))
    }

    /// `depth` bounds the recursion, which a damaged description could make endless.
    fn bits(&self, number: u32, wanted: &str, depth: u32) -> Option<u32> {
        let structure = self.structures.get(&number)?;
        for member in 0..structure.count as usize {
            let at = structure.members + 12 * member;
            let name = text(&self.bytes, self.strings + word(&self.bytes, at)? as usize);
            let kind = word(&self.bytes, at + 4)?;
            let offset = word(&self.bytes, at + 8)?;
            let offset = if structure.bit_fields { offset & 0x00ff_ffff } else { offset };
            if name == wanted {
                return Some(offset);
            }
            if name.is_empty()
                && depth > 0
                && let Some(inside) = self.bits(kind, wanted, depth - 1)
            {
                return offset.checked_add(inside);
            }
        }
        None
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// The string that begins at this offset; empty where there is none.
fn text(bytes: &[u8], at: usize) -> &str {
    let bytes = bytes.get(at..).unwrap_or_default();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct outer { u32 a; union { u32 b; u32 c; }; }`, whose union is type 2.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0";
        let (outer, a, b, c) = (1, 7, 9, 11);
        let types: Vec<u32> = [
            [outer, kind::STRUCT << 24 | 2, 8].to_vec(),
            [a, 0, 0, 0, 2, 32].to_vec(),
            [0, kind::UNION << 24 | 2, 4].to_vec(),
            [b, 0, 0, c, 0, 0].to_vec(),
        ]
        .concat();
        let length = 4 * types.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length, length, strings.len() as u32].iter().chain(&types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_field_in_a_part_without_a_name_is_found() {
        let types = Types::parse(sample()).unwrap();
        assert_eq!(types.size("outer").unwrap(), 8);
        let offsets = ["a", "b", "c"].map(|field| types.offset("outer", field).unwrap());
        assert_eq!(offsets, [0, 4, 4]);
        assert_eq!(types.offset("outer", "d").unwrap_err().to_string(), "this kernel's outer.d is not known");
        assert!(types.offset("inner", "a").is_err());
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_no_panic(at in 0_usize..96, value: u8, cut in 0_usize..=108) {
            let mut bytes = sample();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            if let Ok(types) = Types::parse(bytes) {
                let _ = types.offset("outer", "c");
            }
        }
    }
}
