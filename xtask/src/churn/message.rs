//! What client and servers say to each other, over TCP and UDP alike: a request that no two connections share, and an
//! answer that holds it whole behind the identity of who answers.

use std::time::Duration;

/// Bytes of a request.
pub(super) const REQUEST: usize = 32;
/// Bytes of an answer.
pub(super) const ANSWER: usize = REQUEST + IDENTITY;

const IDENTITY: usize = 8;
const MAGIC: u32 = 0x6c62_6368;
/// Of a request that is to be answered later.
const LATER: u32 = 0x6c62_6c61;

/// Who answered: a backend, and which of its lives (a server that was killed and started again is another one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity {
    /// By the lab's numbers.
    pub(super) backend: u8,
    pub(super) life: u32,
}

/// The request number `number` of a connection: its own bytes to the last, so that an answer to somebody else, to
/// another request, or with a byte changed does not pass for its answer.
pub(super) fn request(connection: u64, number: u64) -> [u8; REQUEST] {
    made(MAGIC, connection, number)
}

/// A request that is answered after `delay`, in two halves a second apart, whatever the client closes meanwhile.
pub(super) fn later(connection: u64, delay: Duration) -> [u8; REQUEST] {
    made(LATER, connection, u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

/// How long the answer to a request is to wait; `None` = it is to be answered at once.
pub(super) fn delay(request: &[u8]) -> Option<Duration> {
    let later = request.get(..4)? == LATER.to_be_bytes();
    let delay = request.get(12..20)?.try_into().ok()?;
    later.then(|| Duration::from_millis(u64::from_be_bytes(delay)))
}

fn made(magic: u32, connection: u64, number: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&magic.to_be_bytes());
    bytes[4..12].copy_from_slice(&connection.to_be_bytes());
    bytes[12..20].copy_from_slice(&number.to_be_bytes());
    let mut state = (connection ^ number.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut bytes[20..] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_be_bytes()[2];
    }
    bytes
}

/// The number of a request that is one.
pub(super) fn number(request: &[u8]) -> Option<u64> {
    let magic = request.get(..4)? == MAGIC.to_be_bytes();
    let number = request.get(12..20)?.try_into().ok()?;
    magic.then(|| u64::from_be_bytes(number))
}

/// The answer to a request, whatever it is.
pub(super) fn answer(identity: Identity, request: &[u8]) -> Vec<u8> {
    let Identity { backend, life } = identity;
    let mut bytes = Vec::with_capacity(ANSWER);
    bytes.extend(u32::from(backend).to_be_bytes());
    bytes.extend(life.to_be_bytes());
    bytes.extend(request);
    bytes
}

/// Who answered, and to what; `None` = that is no answer.
pub(super) fn read(answer: &[u8]) -> Option<(Identity, &[u8])> {
    let (identity, request) = answer.split_at_checked(IDENTITY)?;
    let (backend, life) = identity.split_at_checked(4)?;
    let backend = u32::from_be_bytes(backend.try_into().ok()?);
    let life = u32::from_be_bytes(life.try_into().ok()?);
    let identity = Identity { backend: u8::try_from(backend).ok()?, life };
    (request.len() == REQUEST).then_some((identity, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_who_and_to_what() {
        let identity = Identity { backend: 3, life: 9 };
        let asked = request(77, 5);
        let bytes = answer(identity, &asked);
        assert_eq!(bytes.len(), ANSWER);
        assert_eq!(read(&bytes), Some((identity, asked.as_slice())));
        assert_eq!(number(&asked), Some(5));
    }

    #[test]
    fn requests_differ_between_connections_and_numbers() {
        assert_ne!(request(1, 1)[20..], request(1, 2)[20..]);
        assert_ne!(request(1, 1)[20..], request(2, 1)[20..]);
    }

    #[test]
    fn a_request_for_later_says_how_much_and_no_other_one_does() {
        let delay = Duration::from_millis(65_000);
        assert_eq!(super::delay(&later(7, delay)), Some(delay));
        assert_eq!(super::delay(&request(7, 65_000)), None);
        assert_eq!(number(&later(7, delay)), None);
    }

    #[test]
    fn what_is_too_short_or_of_another_kind_is_nothing() {
        assert_eq!(read(&[0; ANSWER - 1]), None);
        assert_eq!(read(&[0xff; ANSWER]), None);
        assert_eq!(number(&[0; REQUEST]), None);
    }
}
