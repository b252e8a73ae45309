//! One number that says whether two nodes send flows to the same backends.

use std::net::IpAddr;

use siphasher::sip128::SipHasher24;

/// The fingerprint of one service's ring. `backends` are the name and address of each entry, in the order in which
/// `owners` counts them (from 1; 0 = none). Entries that own nothing and the order of entries make no difference.
pub fn fingerprint(service: &str, backends: &[(&str, IpAddr)], owners: &[u32]) -> u64 {
    let mut used = vec![false; backends.len()];
    for &owner in owners {
        if let Some(used) = owner.checked_sub(1).and_then(|place| used.get_mut(place as usize)) {
            *used = true;
        }
    }
    let mut order: Vec<usize> = (0..backends.len()).filter(|&place| used[place]).collect();
    order.sort_unstable_by_key(|&place| backends[place]);
    let mut numbers = vec![0u32; backends.len() + 1];
    let mut bytes = Vec::with_capacity(owners.len() * 4 + order.len() * 32);
    push(&mut bytes, service.as_bytes());
    for (number, &place) in (1..).zip(&order) {
        numbers[place + 1] = number;
        let (name, address) = backends[place];
        push(&mut bytes, name.as_bytes());
        push(&mut bytes, address.to_string().as_bytes());
    }
    for &owner in owners {
        let number = numbers.get(owner as usize).copied().unwrap_or(0);
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    hash(&bytes)
}

/// The fingerprint of all rings from those of each, in any order.
pub fn combine(fingerprints: impl IntoIterator<Item = u64>) -> u64 {
    let mut all: Vec<u64> = fingerprints.into_iter().collect();
    all.sort_unstable();
    let bytes: Vec<u8> = all.iter().flat_map(|fingerprint| fingerprint.to_le_bytes()).collect();
    hash(&bytes)
}

/// With its length in front, so that no two lists of strings run together.
fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn hash(bytes: &[u8]) -> u64 {
    SipHasher24::new_with_key(b"lb: fingerprint.").hash(bytes).h1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends() -> [(&'static str, IpAddr); 3] {
        ["a", "b", "c"].map(|name| (name, IpAddr::from([10, 0, 0, name.as_bytes()[0]])))
    }

    #[test]
    fn order_and_empty_entries_make_no_difference() {
        let [a, b, c] = backends();
        let one = fingerprint("web", &[a, b, c], &[1, 3, 3]);
        assert_eq!(one, fingerprint("web", &[c, a], &[2, 1, 1]));
    }

    #[test]
    fn owner_address_and_name_make_a_difference() {
        let [a, b, c] = backends();
        let one = fingerprint("web", &[a, b, c], &[1, 2, 3]);
        assert_ne!(one, fingerprint("web", &[a, b, c], &[1, 2, 2]));
        assert_ne!(one, fingerprint("web", &[a, b, ("c", b.1)], &[1, 2, 3]));
        assert_ne!(one, fingerprint("web", &[a, b, ("d", c.1)], &[1, 2, 3]));
        assert_ne!(one, fingerprint("dns", &[a, b, c], &[1, 2, 3]));
        assert_ne!(one, fingerprint("web", &[], &[0, 0, 0]));
    }

    #[test]
    fn all_rings_together_do_not_depend_on_their_order() {
        assert_eq!(combine([1, 2, 3]), combine([3, 1, 2]));
        assert_ne!(combine([1, 2]), combine([1, 2, 2]));
        assert_ne!(combine([]), combine([0]));
    }
}
