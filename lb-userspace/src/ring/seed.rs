//! The key of the flow hash and of the rings, from the configuration's seed string.

use lb_common::hash::Seed;
use siphasher::sip128::SipHasher24;

/// 128 bits made from a seed string of any length, the same on every machine.
pub fn seed(text: &str) -> Seed {
    // The key is fixed: what is secret is the text. It spells the project's name so that no other program has it.
    let hash = SipHasher24::new_with_key(b"lb: seed string.").hash(text.as_bytes());
    Seed([hash.h1, hash.h2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_gives_the_same_seed_everywhere() {
        assert_eq!(seed("site-a"), Seed([0x3716_b806_ac19_60e6, 0xef31_4a20_b2b4_0447]));
    }

    #[test]
    fn different_texts_give_different_seeds() {
        assert_ne!(seed("site-a"), seed("site-b"));
        assert_ne!(seed(""), seed("\0"));
    }
}
