//! Executes a program for one packet, an instruction at a time, by linux/bpf.h and the kernel's
//! Documentation/bpf/standardization/instruction-set.rst. An instruction that it does not know ends the walk: it never guesses.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::generated::bpf_insn;

use super::memory::Memory;

/// Room in front of a frame under BPF_PROG_TEST_RUN (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
const STACK: usize = 512;
/// linux/bpf.h: `BPF_PSEUDO_CALL`.
const OWN_FUNCTION: u8 = 1;
/// An upper bound: no program of ours executes as many instructions for a packet.
const MOST: u64 = 1_000_000;

/// The tables that a program asks, by the number that the program's instructions have for them.
pub(super) trait Tables {
    /// The sizes of a key and of a value, in bytes.
    fn sizes(&self, table: u32) -> Result<(usize, usize)>;
    fn look_up(&self, table: u32, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The whole content of a table of constants.
    fn constants(&self, table: u32) -> Result<&[u8]>;
}

/// The result of a walk.
pub(super) struct Walked {
    /// The XDP action.
    pub(super) action: u32,
    pub(super) frame: Vec<u8>,
    /// The number of executed instructions; an instruction that loads 64 bits counts once.
    pub(super) executed: u64,
    /// The calls among them that look something up.
    pub(super) look_ups: u64,
}

pub(super) struct Walk<'a, T> {
    program: &'a [bpf_insn],
    tables: &'a T,
    memory: Memory,
    registers: [u64; 11],
    context: u64,
    packet: u64,
    /// Where the frame begins and ends.
    data: u64,
    end: u64,
    ingress: u32,
    /// Values that the program has looked up, written or deleted so far.
    values: HashMap<(u32, Vec<u8>), Option<u64>>,
    constants: HashMap<u32, u64>,
    /// The calls of the program's own functions that have not returned.
    callers: Vec<Caller>,
    executed: u64,
    look_ups: u64,
}

/// What a function of the program finds again after a call of another one.
struct Caller {
    /// The instruction after the call.
    next: usize,
    /// r6 to r10.
    kept: [u64; 5],
}

impl<'a, T: Tables> Walk<'a, T> {
    pub(super) fn new(program: &'a [bpf_insn], tables: &'a T, frame: &[u8], ingress: u32) -> Self {
        let mut memory = Memory::default();
        // An empty region: the walk answers loads from it by the meaning of the field.
        let context = memory.add(Vec::new());
        let packet = memory.add([&[0; HEADROOM], frame].concat());
        let stack = memory.add(vec![0; STACK]);
        let mut registers = [0; 11];
        (registers[1], registers[10]) = (context, stack + STACK as u64);
        let data = packet + HEADROOM as u64;
        Self {
            program,
            tables,
            memory,
            registers,
            context,
            packet,
            data,
            end: data + frame.len() as u64,
            ingress,
            values: HashMap::new(),
            constants: HashMap::new(),
            callers: Vec::new(),
            executed: 0,
            look_ups: 0,
        }
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Result<Walked> {
        let mut at = 0;
        loop {
            let next = self.step(at).with_context(|| format!("instruction {at}"))?;
            ensure!(self.executed < MOST, "no end after {MOST} instructions");
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        let frame = self.memory.bytes(self.data, (self.end - self.data) as usize)?.to_vec();
        let Self { registers, executed, look_ups, .. } = self;
        Ok(Walked { action: registers[0] as u32, frame, executed, look_ups })
    }

    /// Executes one instruction. Returns the place of the next one; `None` = the program has ended.
    fn step(&mut self, at: usize) -> Result<Option<usize>> {
        let insn = *self.program.get(at).context("behind the end of the program")?;
        self.executed += 1;
        let (dst, src) = (usize::from(insn.dst_reg()), usize::from(insn.src_reg()));
        ensure!(dst <= 10 && src <= 10, "there is no such register");
        let offset = i64::from(insn.off) as u64;
        let size = [4, 2, 1, 8][usize::from(insn.code >> 3 & 3)];
        match insn.code & 7 {
            0 => {
                ensure!(insn.code == 0x18, "operation {:#x}", insn.code);
                let upper = self.program.get(at + 1).context("half of an instruction")?.imm;
                self.registers[dst] = self.constant(insn, upper)?;
                return Ok(Some(at + 2));
            }
            1 => {
                let address = self.registers[src].wrapping_add(offset);
                let value = self.load(address, size)?;
                self.registers[dst] = match insn.code & 0xe0 {
                    0x60 => value,
                    0x80 => extend(value, 8 * size as u32)?,
                    _ => bail!("operation {:#x}", insn.code),
                };
            }
            class @ (2 | 3) => {
                let address = self.registers[dst].wrapping_add(offset);
                let value = if class == 2 { i64::from(insn.imm) as u64 } else { self.registers[src] };
                match insn.code & 0xe0 {
                    0x60 => self.memory.store(address, size, value)?,
                    0xc0 if class == 3 => self.atomic(insn.imm, address, size, src)?,
                    _ => bail!("operation {:#x}", insn.code),
                }
            }
            4 | 7 => self.registers[dst] = arithmetic(insn, self.registers[dst], self.operand(insn))?,
            _ => return self.jump(insn, at),
        }
        Ok(Some(at + 1))
    }

    /// The second operand: a register, or the immediate of the instruction.
    fn operand(&self, insn: bpf_insn) -> u64 {
        if insn.code & 8 != 0 {
            self.registers[usize::from(insn.src_reg())]
        } else {
            i64::from(insn.imm) as u64
        }
    }

    fn jump(&mut self, insn: bpf_insn, at: usize) -> Result<Option<usize>> {
        let to = |distance: i64| {
            usize::try_from(at as i64 + 1 + distance).map(Some).context("a jump in front of the program")
        };
        match insn.code {
            0x05 => return to(insn.off.into()),
            0x06 => return to(insn.imm.into()),
            0x95 => return Ok(self.callers.pop().map(|caller| self.give_back(&caller))),
            0x85 if insn.src_reg() == OWN_FUNCTION => {
                let kept = [6, 7, 8, 9, 10].map(|register| self.registers[register]);
                self.callers.push(Caller { next: at + 1, kept });
                self.registers[10] = self.memory.add(vec![0; STACK]) + STACK as u64;
                return to(insn.imm.into());
            }
            0x85 => {
                ensure!(insn.src_reg() == 0, "a call of a function that is not the kernel's");
                self.registers[0] = self.call(insn.imm)?;
                return Ok(Some(at + 1));
            }
            _ => {}
        }
        let (mut a, mut b) = (self.registers[usize::from(insn.dst_reg())], self.operand(insn));
        if insn.code & 7 == 6 {
            // Compared as 32 bits, with the sign where the comparison is signed.
            (a, b) = (i64::from(a as i32) as u64, i64::from(b as i32) as u64);
        }
        let unsigned = |x: u64| if insn.code & 7 == 6 { u64::from(x as u32) } else { x };
        let (ua, ub, sa, sb) = (unsigned(a), unsigned(b), a as i64, b as i64);
        let taken = match insn.code & 0xf0 {
            0x10 => ua == ub,
            0x20 => ua > ub,
            0x30 => ua >= ub,
            0x40 => ua & ub != 0,
            0x50 => ua != ub,
            0x60 => sa > sb,
            0x70 => sa >= sb,
            0xa0 => ua < ub,
            0xb0 => ua <= ub,
            0xc0 => sa < sb,
            0xd0 => sa <= sb,
            _ => bail!("operation {:#x}", insn.code),
        };
        if taken { to(insn.off.into()) } else { Ok(Some(at + 1)) }
    }

    /// Returns from a function of the program.
    fn give_back(&mut self, caller: &Caller) -> usize {
        self.registers[6..].copy_from_slice(&caller.kept);
        caller.next
    }

    /// A 64-bit load: a number, a table, or a place in a table of constants.
    fn constant(&mut self, insn: bpf_insn, upper: i32) -> Result<u64> {
        /// linux/bpf.h: `BPF_PSEUDO_MAP_FD`, `BPF_PSEUDO_MAP_VALUE`.
        const TABLE: u8 = 1;
        const VALUE: u8 = 2;
        match insn.src_reg() {
            0 => Ok(u64::from(upper as u32) << 32 | u64::from(insn.imm as u32)),
            TABLE => Ok(u64::from(insn.imm as u32)),
            VALUE => {
                let table = insn.imm as u32;
                let first = match self.constants.get(&table) {
                    Some(first) => *first,
                    None => {
                        let first = self.memory.add(self.tables.constants(table)?.to_vec());
                        *self.constants.entry(table).or_insert(first)
                    }
                };
                Ok(first.wrapping_add(i64::from(upper) as u64))
            }
            other => bail!("a constant of kind {other}"),
        }
    }

    /// Loads from memory, or from `struct xdp_md` (linux/bpf.h).
    fn load(&mut self, address: u64, size: usize) -> Result<u64> {
        match address.wrapping_sub(self.context) {
            0 if size == 4 => Ok(self.data),
            4 if size == 4 => Ok(self.end),
            12 if size == 4 => Ok(self.ingress.into()),
            field @ 0..32 => bail!("field {field} of the context"),
            _ => self.memory.load(address, size),
        }
    }

    fn atomic(&mut self, kind: i32, address: u64, size: usize, src: usize) -> Result<()> {
        ensure!(matches!(size, 4 | 8), "an atomic operation on {size} bytes");
        let (was, operand) = (self.memory.load(address, size)?, self.registers[src]);
        let is = match kind & !1 {
            0x00 => was.wrapping_add(operand),
            0x40 => was | operand,
            0x50 => was & operand,
            0xa0 => was ^ operand,
            0xe0 => operand,
            0xf0 => {
                let expected =
                    if size == 4 { u64::from(self.registers[0] as u32) } else { self.registers[0] };
                self.registers[0] = was;
                if was == expected { operand } else { was }
            }
            _ => bail!("atomic operation {kind:#x}"),
        };
        if kind & 1 != 0 && kind != 0xf1 {
            self.registers[src] = was;
        }
        self.memory.store(address, size, is)
    }

    /// Calls one of the kernel's functions, by its number in linux/bpf.h.
    fn call(&mut self, function: i32) -> Result<u64> {
        let [_, first, second, third, ..] = self.registers;
        match function {
            1 => self.look_up(first as u32, second),
            // bpf_map_update_elem; `third` is the address of the value.
            2 => {
                let (key_size, value_size) = self.tables.sizes(first as u32)?;
                let key = self.memory.bytes(second, key_size)?.to_vec();
                let value = self.memory.bytes(third, value_size)?.to_vec();
                let value = self.memory.add(value);
                self.values.insert((first as u32, key), Some(value));
                Ok(0)
            }
            3 => {
                let (key_size, _) = self.tables.sizes(first as u32)?;
                let key = self.memory.bytes(second, key_size)?.to_vec();
                self.values.insert((first as u32, key), None);
                Ok(0)
            }
            // bpf_get_prandom_u32, bpf_get_smp_processor_id: any value will do.
            7 | 8 => Ok(0),
            // bpf_redirect
            23 => Ok(4),
            // bpf_xdp_adjust_head
            44 => {
                let moved = self.data.wrapping_add(i64::from(second as i32) as u64);
                // The kernel needs 40 bytes (`struct xdp_frame`) and an Ethernet header.
                ensure!(moved >= self.packet + 40 && moved + 14 <= self.end, "no room in front of the frame");
                self.data = moved;
                Ok(0)
            }
            // bpf_redirect_map
            51 => Ok(4),
            // bpf_jiffies64
            118 => Ok(1 << 32),
            _ => bail!("function {function} of the kernel"),
        }
    }

    fn look_up(&mut self, table: u32, key: u64) -> Result<u64> {
        self.look_ups += 1;
        let (size, _) = self.tables.sizes(table)?;
        let key = (table, self.memory.bytes(key, size)?.to_vec());
        if let Some(known) = self.values.get(&key) {
            return Ok(known.unwrap_or(0));
        }
        let found = self.tables.look_up(table, &key.1)?.map(|value| self.memory.add(value));
        self.values.insert(key, found);
        Ok(found.unwrap_or(0))
    }
}

/// Extends a number of `bits` bits with its sign.
fn extend(value: u64, bits: u32) -> Result<u64> {
    ensure!(matches!(bits, 8 | 16 | 32), "a sign at bit {bits}");
    Ok(((value << (64 - bits)) as i64 >> (64 - bits)) as u64)
}

fn arithmetic(insn: bpf_insn, a: u64, b: u64) -> Result<u64> {
    let wide = insn.code & 7 == 7;
    let (code, bits) = (insn.code & 0xf0, if wide { 64 } else { 32 });
    let (a, b) = if wide || code == 0xd0 { (a, b) } else { (u64::from(a as u32), u64::from(b as u32)) };
    let result = match (code, insn.off) {
        (0x00, 0) => a.wrapping_add(b),
        (0x10, 0) => a.wrapping_sub(b),
        (0x20, 0) => a.wrapping_mul(b),
        (0x30, 0) => a.checked_div(b).unwrap_or(0),
        (0x40, 0) => a | b,
        (0x50, 0) => a & b,
        (0x60, 0) => a << (b & (bits - 1)),
        (0x70, 0) => a >> (b & (bits - 1)),
        (0x80, 0) => a.wrapping_neg(),
        (0x90, 0) => a.checked_rem(b).unwrap_or(a),
        (0xa0, 0) => a ^ b,
        (0xb0, 0) => b,
        (0xb0, 8 | 16 | 32) => extend(b, insn.off as u32)?,
        (0xc0, 0) if wide => (a as i64 >> (b & 63)) as u64,
        (0xc0, 0) => (a as i32 >> (b & 31)) as u64,
        (0xd0, 0) => return swap(insn, a),
        _ => bail!("operation {:#x}", insn.code),
    };
    Ok(if wide { result } else { u64::from(result as u32) })
}

/// To big endian, to little endian, or swapped. The walk assumes a little-endian machine.
fn swap(insn: bpf_insn, value: u64) -> Result<u64> {
    let swaps = insn.code & 7 == 7 || insn.code & 8 != 0;
    Ok(match (insn.imm, swaps) {
        (16, true) => u64::from((value as u16).swap_bytes()),
        (32, true) => u64::from((value as u32).swap_bytes()),
        (64, true) => value.swap_bytes(),
        (16, false) => u64::from(value as u16),
        (32, false) => u64::from(value as u32),
        (64, false) => value,
        (bits, _) => bail!("a swap of {bits} bits"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One table with a value of 8 bytes for a key of 4 bytes; it has key 7 only.
    struct One;

    impl Tables for One {
        fn sizes(&self, _: u32) -> Result<(usize, usize)> {
            Ok((4, 8))
        }
        fn look_up(&self, _: u32, key: &[u8]) -> Result<Option<Vec<u8>>> {
            Ok((key == [7, 0, 0, 0]).then(|| 5u64.to_le_bytes().to_vec()))
        }
        fn constants(&self, _: u32) -> Result<&[u8]> {
            Ok(&[1, 2, 3, 4])
        }
    }

    fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
        let mut insn = bpf_insn { code, _bitfield_align_1: [], _bitfield_1: Default::default(), off, imm };
        insn.set_dst_reg(dst);
        insn.set_src_reg(src);
        insn
    }

    const EXIT: [u8; 1] = [0x95];

    fn walk(program: &[bpf_insn]) -> Result<Walked> {
        let end = [insn(EXIT[0], 0, 0, 0, 0)];
        Walk::new(&[program, &end].concat(), &One, &[9; 20], 3).run()
    }

    #[test]
    fn arithmetic_wraps_and_32_bits_clear_the_upper_half() {
        let walked = walk(&[insn(0xb7, 0, 0, 0, -1), insn(0x04, 0, 0, 0, 2)]).unwrap();
        assert_eq!((walked.action, walked.executed), (1, 3));
        // -8 >> 1 as a signed number, then compared with 4 as an unsigned number.
        let program = [
            insn(0xb7, 0, 0, 0, -8),
            insn(0xc7, 0, 0, 0, 1),
            insn(0x25, 0, 0, 1, 4),
            insn(0xb7, 0, 0, 0, 77),
        ];
        let walked = walk(&program).unwrap();
        assert_eq!((walked.action as i32, walked.executed), (-4, 4), "the jump is taken");
    }

    #[test]
    fn signed_and_unsigned_jumps_of_32_bits_differ() {
        for (code, taken) in [(0x26, true), (0x66, false)] {
            let program = [
                insn(0xb4, 1, 0, 0, -1),
                insn(0xb7, 0, 0, 0, 1),
                insn(code, 1, 0, 1, 0),
                insn(0xb7, 0, 0, 0, 2),
            ];
            assert_eq!(walk(&program).unwrap().action == 1, taken, "{code:#x}");
        }
    }

    #[test]
    fn a_function_of_the_program_gives_registers_back() {
        let program = [
            insn(0xb7, 6, 0, 0, 40),
            insn(0xb7, 1, 0, 0, 2),
            insn(0x7b, 10, 6, -8, 0),
            insn(0x85, 0, OWN_FUNCTION, 0, 3),
            insn(0x79, 1, 10, -8, 0),
            insn(0x0f, 0, 1, 0, 0),
            insn(EXIT[0], 0, 0, 0, 0),
            // The function: its own stack, and another value in r6.
            insn(0xbf, 6, 1, 0, 0),
            insn(0x7b, 10, 6, -8, 0),
            insn(0x79, 0, 10, -8, 0),
        ];
        assert_eq!(walk(&program).unwrap().action, 42);
    }

    #[test]
    fn values_are_looked_up_once_and_keep_what_is_written() {
        let program = [
            insn(0x62, 10, 0, -4, 7),
            insn(0x18, 1, 1, 0, 0),
            insn(0x00, 0, 0, 0, 0),
            insn(0xbf, 2, 10, 0, 0),
            insn(0x07, 2, 0, 0, -4),
            insn(0x85, 0, 0, 0, 1),
            insn(0xb7, 3, 0, 0, 4),
            insn(0xdb, 0, 3, 0, 0),
            insn(0x79, 0, 0, 0, 0),
        ];
        let walked = walk(&program).unwrap();
        assert_eq!((walked.action, walked.look_ups, walked.executed), (9, 1, 9));
    }

    #[test]
    fn what_is_not_known_or_outside_ends_the_walk() {
        assert!(walk(&[insn(0x85, 0, 0, 0, 999)]).is_err(), "a function");
        assert!(walk(&[insn(0x61, 0, 1, 8, 0)]).is_err(), "a field of the context");
        assert!(walk(&[insn(0x79, 0, 10, 0, 0)]).is_err(), "above the stack");
        assert!(walk(&[insn(0x05, 0, 0, -1, 0)]).is_err(), "no end");
        assert!(walk(&[insn(0xff, 0, 0, 0, 0)]).is_err(), "an operation");
    }

    #[test]
    fn the_head_moves_within_the_room_in_front() {
        let grow = |by: i32| [insn(0xb7, 2, 0, 0, by), insn(0x85, 0, 0, 0, 44)];
        let walked = walk(&grow(-20)).unwrap();
        assert_eq!((walked.frame.len(), &walked.frame[20..]), (40, &[9; 20][..]));
        assert!(walk(&grow(-250)).is_err());
    }
}
