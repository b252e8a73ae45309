//! Weighted rendezvous hashing: every backend draws for every slot, the best draw owns it (Thaler and Ravishankar, "Using
//! Name-Based Mappings to Increase Hit Rates", IEEE/ACM Trans. Networking 6(1), 1998; with weights: Schindelhauer and
//! Schomaker, "Weighted Distributed Hash Tables", SPAA 2005). A slot's owner is decided among its own draws, so that
//! no change ever moves a slot between two backends that stay as they are. The price: shares are as uneven as chance.
//!
//! The draws are exponential: the one of a backend of weight w is smaller the larger w is, and the smallest owns the
//! slot. Drawing for every pair would be 10¹⁰ draws for 10,000 backends and a million slots. So the draws are made in
//! the order of their size instead: a backend's hits on slots come like the clicks of a counter, at exponential
//! distances, each on a slot taken at random. Its first hit on a slot is the draw that it has for that slot, and when
//! every slot was hit by some backend all later hits are of no interest. That is about ln(length) + 1 hits for a slot,
//! however many backends there are.

use lb_common::hash::Seed;
use siphasher::sip128::SipHasher24;

/// Draws of one backend, in the order of their times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    state: u64,
    step: u64,
    /// When the next hit comes, for a weight of 1; it does not depend on the weight, so that the hits of a backend
    /// whose weight grows all come earlier, and it only gains slots.
    time: f64,
}

impl Draws {
    pub(super) fn new(seed: &Seed, name: &str) -> Self {
        let hash = SipHasher24::new_with_keys(seed.0[0], seed.0[1]).hash(name.as_bytes());
        let mut hits = Self { state: hash.h1, step: hash.h2 | 1, time: 0.0 };
        hits.time = hits.distance();
        hits
    }

    /// 64 random bits: a counter whose every value is mixed, with a step of the backend's own.
    #[inline]
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(self.step);
        let mut x = self.state;
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^ (x >> 32)
    }

    /// Exponentially distributed with mean 1.
    #[inline]
    fn distance(&mut self) -> f64 {
        // 53 bits and a half: never 0, of which there is no logarithm, and never 1.
        let uniform = ((self.random() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -logarithm(uniform)
    }

    /// The slot of the next hit; the one after it is drawn.
    #[inline]
    fn hit(&mut self, length: u32) -> u32 {
        let slot = (((self.random() >> 32) * u64::from(length)) >> 32) as u32;
        self.time += self.distance();
        slot
    }
}

/// The natural logarithm of a normal number in (0, 1), to nine digits or more. The one of the standard library may differ
/// in its last bit from machine to machine, and rings must not; additions, products and quotients are the same
/// everywhere (IEEE 754).
#[inline]
fn logarithm(x: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    let bits = x.to_bits();
    // x = mantissa × 2^exponent, the mantissa in [1, 2); then around 1, where the series is short.
    let mut exponent = ((bits & EXPONENT) >> 52) as f64 - 1023.0;
    let mut mantissa = f64::from_bits((bits & !EXPONENT) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    // ln m = 2 artanh((m − 1) / (m + 1)); |z| is at most 0.172, so what is left out is below 10⁻¹⁰.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let y = z * z;
    let series =
        1.0 + y * (1.0 / 3.0 + y * (1.0 / 5.0 + y * (1.0 / 7.0 + y * (1.0 / 9.0 + y * (1.0 / 11.0)))));
    exponent * std::f64::consts::LN_2 + 2.0 * z * series
}

/// The number of the owner of each slot. `weights` are positive and not empty; ties go to the lower number.
pub(super) fn populate(mut hits: Vec<Draws>, weights: &[u16], length: u32) -> Vec<u32> {
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    // One word to a slot: the time of its earliest hit, whose last bits make way for the backend's number. Positive
    // numbers sort like their bits.
    let mut first = vec![u64::MAX; length as usize];
    let mut free = length;
    // Of slots hit in rounds before this one. A bit each, so that most hits need not touch `first`.
    let mut owned = vec![0u64; (length as usize).div_ceil(64)];
    let mut horizon = 0.0;
    while free > 0 {
        // One more hit for each slot, on average. The horizon decides nothing but when to look whether all is done: in
        // units of what is left of a time in a key, all hits of a round are later than all hits of the one before.
        horizon += f64::from(length) / total;
        let end = horizon.to_bits() & !NUMBER;
        for (number, (hits, &weight)) in (0u64..).zip(hits.iter_mut().zip(weights)) {
            let weight = f64::from(weight);
            loop {
                let time = (hits.time / weight).to_bits() & !NUMBER;
                if time >= end {
                    break;
                }
                let slot = hits.hit(length) as usize;
                if owned[slot / 64] >> (slot % 64) & 1 == 0 {
                    free -= u32::from(first[slot] == u64::MAX);
                    first[slot] = first[slot].min(time | number);
                }
            }
        }
        for (bits, slots) in owned.iter_mut().zip(first.chunks(64)) {
            *bits = (0..).zip(slots).map(|(at, key)| u64::from(*key != u64::MAX) << at).fold(0, |a, b| a | b);
        }
    }
    first.into_iter().map(|key| (key & NUMBER) as u32).collect()
}

/// Room for [`lb_common::slot::MAX_BACKEND`].
const NUMBER: u64 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_logarithm_has_nine_correct_digits(x in 1e-17..1.0) {
            prop_assert!((logarithm(x) - x.ln()).abs() <= 1e-9 * x.ln().abs(), "{}", x);
        }
    }

    #[test]
    fn draws_hit_all_slots_once_per_unit_of_time() {
        let mut hits = Draws::new(&Seed([1, 2]), "a");
        let mut met = [0u32; 16];
        for _ in 0..16_000 {
            met[hits.hit(16) as usize] += 1;
        }
        assert!((15_500.0..16_500.0).contains(&hits.time), "{}", hits.time);
        assert!(met.iter().all(|hits| (850..1150).contains(hits)), "{met:?}");
    }
}
