//! The Internet checksum (RFC 1071) over words as they lie in memory, and its incremental update (RFC 1624).
//! One's-complement sums do not depend on byte order, so nothing is swapped.

/// Sums 32-bit words of a header into a 64-bit accumulator; fold it with [`fold`].
#[inline(always)]
pub const fn sum<const N: usize>(words: &[u32; N]) -> u64 {
    let mut total = 0u64;
    let mut i = 0;
    while i < N {
        total += words[i] as u64;
        i += 1;
    }
    total
}

/// Folds an accumulator of less than 2⁴⁸ (65,536 words) to the 16-bit one's-complement sum.
///
/// The upper 16 bits of the product are the sum of the accumulator's three digits of 16 bits, plus the carry from the 16
/// bits below them. Those lower 16 bits hold the same sum, so the carry adds back what overflows at the top (end-around
/// carry).
#[inline(always)]
pub const fn fold(total: u64) -> u16 {
    (total.wrapping_mul(0x0001_0001_0001_0001) >> 48) as u16
}

/// The checksum field for an accumulated sum (the field itself counted as 0).
#[inline(always)]
pub const fn finish(total: u64) -> u16 {
    !fold(total)
}

/// The checksum after one 16-bit field changed from `old` to `new` (RFC 1624, equation 3). All three arguments are as
/// they lie in memory.
#[inline(always)]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + (!old) as u64 + new as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, 4.1, written as the RFC has it: 16-bit big-endian words, carry by carry.
    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            if total > 0xffff {
                total = (total & 0xffff) + 1;
            }
        }
        !(total as u16)
    }

    #[test]
    fn sums_at_every_edge_fold_as_carry_by_carry() {
        const DIGITS: [u64; 9] = [0, 1, 2, 3, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff];
        for high in DIGITS {
            for middle in DIGITS {
                for low in DIGITS {
                    let mut carried = high + middle + low;
                    while carried > 0xffff {
                        carried = (carried & 0xffff) + (carried >> 16);
                    }
                    let total = high << 32 | middle << 16 | low;
                    assert_eq!(u64::from(fold(total)), carried, "{total:x}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_fast_sum_equals_the_slow_one(bytes in any::<[u8; 20]>()) {
            let words: [u32; 5] =
                core::array::from_fn(|i| u32::from_ne_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()));
            prop_assert_eq!(finish(sum(&words)), slow(&bytes).to_be());
        }

        #[test]
        fn replacing_a_field_equals_summing_again(mut bytes in any::<[u8; 20]>(), new in any::<u16>()) {
            bytes[10] = 0;
            bytes[11] = 0;
            bytes[0] = 0x45; // a header is never all zero, where one's complement has two zeros
            let before = slow(&bytes).to_be();
            let old = u16::from_ne_bytes([bytes[4], bytes[5]]);
            bytes[4..6].copy_from_slice(&new.to_ne_bytes());
            prop_assert_eq!(replace(before, old, new), slow(&bytes).to_be());
        }
    }
}
