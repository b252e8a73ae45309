//! Bytes that tests send around and compare with what arrives.

/// So many bytes, the same ones at each call. No two pieces of them are alike, so that a piece in a wrong place is noticed.
pub fn unlike(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_pieces_are_alike_and_each_call_gives_the_same() {
        let bytes = unlike(100_003);
        assert_eq!((bytes.len(), &bytes), (100_003, &unlike(100_003)));
        let pieces: HashSet<&[u8]> = bytes.chunks_exact(8).collect();
        assert_eq!(pieces.len(), 100_003 / 8);
        assert_eq!(unlike(10), bytes[..10]);
    }
}
