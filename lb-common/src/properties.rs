//! What holds for all inputs of the functions of this crate, file by file. Examples, and what is hard to state in
//! general, are in the files themselves. Also run under Miri (`cargo xtask test --tier miri`).

use core::array;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{
    Address,
    backend::Backend,
    balance::{self, Load},
    checksum,
    encap::{Inner, ip},
    hash::{self, Seed},
    is_v4, join, mapped,
    ring::{LENGTHS, MAX_BACKENDS, Ring, length_for},
    service::{self, Bucket, Service},
    slot::{self, MAX_BACKEND, PREVIOUS_RING, SINCE_STEP, Slot, Track},
    wire::{self, Ipv4, Ipv6, Tcp},
};

mod evidence;

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![any::<u32>().prop_map(mapped), any::<Address>()]
}

/// Few backends, so that the same ones meet again; now and then any.
fn owner() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..4, 0..=MAX_BACKEND]
}

/// A word as the agent writes it.
fn slot() -> impl Strategy<Value = Slot> {
    let learning = (owner(), prop_oneof![1_u32..4, Just(PREVIOUS_RING)], any::<u16>());
    prop_oneof![
        owner().prop_map(Slot::stable),
        owner().prop_map(Slot::remembering),
        learning
            .prop_filter("an owner is not its own previous one", |(current, previous, _)| current != previous)
            .prop_map(|(current, previous, since)| Slot::learning(current, previous, since)),
    ]
}

/// Mostly loads that occur in practice; now and then any that a map may hold.
fn load() -> impl Strategy<Value = Load> {
    let live = prop_oneof![-2_i64..20, any::<i64>()];
    let weight = prop_oneof![0_u16..5, any::<u16>()];
    (live, weight, any::<bool>()).prop_map(|(live, weight, full)| Load { live, weight, full })
}

fn track() -> impl Strategy<Value = Track> {
    prop::sample::select(std::vec![Track::OnChange, Track::Always, Track::Never])
}

// Addresses.
proptest! {
    #[test]
    fn only_a_mapped_address_is_an_ipv4_address(v4 in any::<u32>(), any in any::<Address>()) {
        prop_assert!(is_v4(&mapped(v4)));
        prop_assert_eq!(mapped(v4)[3], v4);
        prop_assert_eq!(is_v4(&any), any == mapped(any[3]));
    }

    #[test]
    fn joined_words_lie_in_memory_one_after_the_other(first in any::<u32>(), second in any::<u32>()) {
        let bytes = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
        prop_assert_eq!(&join(first, second).to_ne_bytes()[..], &bytes[..]);
    }
}

// Slots.
proptest! {
    #[test]
    fn fields_of_a_slot_are_what_they_were_made_of(current in 0..=MAX_BACKEND, previous in 1..=PREVIOUS_RING, since in 0_u16..0x8000) {
        let slot = Slot::learning(current, previous, since);
        prop_assert_eq!((slot.current(), slot.previous(), slot.since()), (current, previous, since));
        prop_assert!(slot.is_learning() && slot.is_tracked());
        prop_assert_eq!((Slot::stable(current).current(), Slot::stable(current).is_tracked()), (current, false));
    }

    #[test]
    fn any_64_bits_are_a_slot_that_can_be_changed(word in any::<u64>(), track in track(), new in owner(), dead in owner(), now in any::<u16>(), window in any::<u64>()) {
        let slot = Slot(word);
        let next = slot.next(track, new, |backend| backend != dead, now);
        prop_assert_eq!(next.current(), new);
        prop_assert!(!slot.end_learning().is_learning());
        prop_assert_eq!(slot.settle().current(), slot.current());
        prop_assert!(!slot.window_over(now, window) || slot.is_learning());
    }

    #[test]
    fn unknown_flows_stay_while_their_backend_lives(slot in slot(), new in owner(), dead in owner(), always in any::<bool>(), now in any::<u16>()) {
        let track = if always { Track::Always } else { Track::OnChange };
        let belonged = slot.owner_of_unknown();
        let next = slot.next(track, new, |backend| backend != dead, now);
        let stays = belonged != 0 && belonged != dead;
        prop_assert_eq!(next.owner_of_unknown(), if stays { belonged } else { new });
    }

    #[test]
    fn what_is_tracked_stays_so_until_it_is_settled(slot in slot(), track in track(), new in owner(), dead in owner(), now in any::<u16>()) {
        let next = slot.next(track, new, |backend| backend != dead, now);
        prop_assert!(next.is_tracked() || !slot.is_tracked());
        prop_assert!(next.is_tracked() || track != Track::Always);
    }

    #[test]
    fn a_change_made_twice_is_made_once(slot in slot(), track in track(), new in owner(), dead in owner(), now in any::<u16>(), later in any::<u16>()) {
        let once = slot.next(track, new, |backend| backend != dead, now);
        prop_assert_eq!(once.next(track, new, |backend| backend != dead, later), once);
    }

    #[test]
    fn a_running_window_goes_on(slot in slot(), new in owner(), now in any::<u16>()) {
        let next = slot.change(new, |_| true, now);
        if slot.is_learning() && next.is_learning() {
            prop_assert_eq!((next.previous(), next.since()), (slot.previous(), slot.since()));
        }
    }

    #[test]
    fn a_balanced_slot_learns_only_where_flows_may_exist(slot in slot(), before in any::<bool>(), new in owner(), dead in owner(), now in any::<u16>()) {
        let alive = |number| number != dead;
        let next = slot.next_balanced(before, new, alive, now);
        let unknown = slot.owner_of_unknown();
        let waits = (slot.is_learning() || !before) && unknown != 0 && (unknown == PREVIOUS_RING || alive(unknown));
        prop_assert!(next.is_tracked());
        prop_assert_eq!((next.current(), next.is_learning()), (new, waits));
        if waits {
            prop_assert_eq!(next.owner_of_unknown(), unknown);
        }
        if waits && slot.is_learning() {
            prop_assert_eq!(next.since(), slot.since(), "a window that runs goes on");
        }
    }

    #[test]
    fn a_change_of_a_balanced_slot_is_idempotent(slot in slot(), before in any::<bool>(), new in owner(), dead in owner(), now in any::<u16>(), later in any::<u16>()) {
        let once = slot.next_balanced(before, new, |number| number != dead, now);
        prop_assert_eq!(once.next_balanced(true, new, |number| number != dead, later), once);
    }

    #[test]
    fn a_window_is_over_exactly_after_its_time(begun in 0_u64..1 << 20, window in 0_u64..24 * 3600, passed in 0_u64..100_000) {
        let slot = Slot::learning(1, 2, slot::since(begun));
        let over = slot.window_over(slot::since(begun + passed), window);
        prop_assert!(!over || passed > window);
        prop_assert!(over || passed <= window + 2 * SINCE_STEP);
    }
}

// Rings.
proptest! {
    #[test]
    fn a_hash_falls_inside_the_ring_and_its_order_is_kept(
        offset in 0_u32..1 << 28, length in 1_u32..1 << 24, bits in any::<u8>(), a in any::<u64>(), b in any::<u64>(),
    ) {
        let ring = Ring::new(offset, length).with_source_prefix(bits);
        let (low, high) = (ring.slot(a.min(b)), ring.slot(a.max(b)));
        prop_assert!((offset..offset + length).contains(&low) && low <= high && high < offset + length);
    }

    #[test]
    fn fields_of_a_ring_are_what_it_was_made_of(offset in any::<u32>(), length in 0_u32..1 << 24, bits in any::<u8>(), to in any::<u32>()) {
        let ring = Ring::new(offset, length).with_source_prefix(bits);
        prop_assert_eq!((ring.offset(), ring.length(), ring.source_bits()), (offset, length, bits.into()));
        prop_assert_eq!(ring.hashes_sources(), bits != 0);
        prop_assert_eq!(ring.at_offset(to), Ring::new(to, length).with_source_prefix(bits));
        prop_assert_eq!(ring.with_source_prefix(0), Ring::new(offset, length));
    }

    #[test]
    fn a_ring_is_the_shortest_with_100_slots_a_backend(backends in 1..=MAX_BACKENDS) {
        let length = length_for(backends).unwrap();
        prop_assert!(u64::from(length) >= 100 * u64::from(backends));
        let shorter = LENGTHS.iter().filter(|shorter| **shorter < length).max();
        prop_assert!(shorter.is_none_or(|shorter| u64::from(*shorter) < 100 * u64::from(backends)));
    }
}

// Balancing, and the flow hash.
proptest! {
    #[test]
    fn turns_follow_each_other_round_the_ring(offset in 0_u32..1 << 24, length in 1_u32..1 << 24, given in 0_u64..u64::from(u32::MAX), cpu in 0_u32..1 << 16) {
        let ring = Ring::new(offset, length);
        let this = balance::turn(ring, given, cpu).unwrap() - offset;
        let next = balance::turn(ring, given + 1, cpu).unwrap() - offset;
        prop_assert!(this < length && next < length);
        // Turns are counted in 32 bits; once in four thousand million turns one is out of order.
        if (given as u32).checked_add(cpu).is_some_and(|at| at < u32::MAX) {
            prop_assert_eq!(next, (this + 1) % length);
            prop_assert_eq!(balance::turn(ring, given, cpu + 1).unwrap() - offset, next, "CPUs begin next to each other");
        }
    }

    #[test]
    fn a_larger_random_number_names_no_earlier_slot(offset in 0_u32..1 << 24, length in 1_u32..1 << 24, one in any::<u32>(), other in any::<u32>()) {
        let ring = Ring::new(offset, length);
        let (low, high) = (balance::any(ring, one.min(other)).unwrap(), balance::any(ring, one.max(other)).unwrap());
        prop_assert!(offset <= low && low <= high && high < offset + length);
    }

    #[test]
    fn the_second_candidate_has_another_owner(offset in 0_u32..1 << 24, runs in prop::collection::vec(1_u32..100_000, 2..12), first in any::<u32>(), random in any::<u32>()) {
        let mut runs = runs;
        runs.sort_unstable_by_key(|run| core::cmp::Reverse(*run));
        let ring = Ring::new(offset, runs.iter().sum());
        let owner = |slot: u32| {
            let ends = runs.iter().scan(offset, |end, run| { *end += run; Some(*end) });
            ends.take_while(|end| *end <= slot).count()
        };
        let first = balance::any(ring, first).unwrap();
        let second = balance::other(ring, first, runs[0], random).unwrap();
        prop_assert!(offset <= second && second < offset + ring.length());
        prop_assert_ne!(owner(first), owner(second));
    }

    #[test]
    fn the_second_candidate_always_lies_in_the_ring(offset in 0_u32..1 << 24, length in 1_u32..1 << 22, first in any::<u32>(), longest in any::<u32>(), random in any::<u32>()) {
        let ring = Ring::new(offset, length);
        let first = balance::any(ring, first).unwrap();
        let second = balance::other(ring, first, longest, random).unwrap();
        prop_assert!(offset <= second && second < offset + length);
    }

    #[test]
    fn loads_are_in_one_order(one in load(), two in load(), three in load()) {
        prop_assert!(one.is_at_most(two) || two.is_at_most(one));
        if one.is_at_most(two) && two.is_at_most(three) {
            prop_assert!(one.is_at_most(three));
        }
    }

    #[test]
    fn fewer_flows_or_more_weight_is_never_heavier(load in load(), fewer in 0_i64..1 << 40, more in any::<u16>()) {
        let lighter = Load { live: load.live.saturating_sub(fewer), weight: load.weight.saturating_add(more), ..load };
        prop_assert!(lighter.is_at_most(load), "{:?} and {:?}", lighter, load);
        let none_is_none = Load { live: load.live.max(0), weight: load.weight.max(1), ..load };
        prop_assert!(none_is_none.is_at_most(load));
        prop_assert!(load.is_at_most(none_is_none));
    }

    #[test]
    fn an_ipv4_hash_is_that_of_the_mapped_addresses(seed in any::<[u64; 2]>(), source in any::<u32>(), destination in any::<u32>(), ports in any::<u32>(), protocol in any::<u8>()) {
        let seed = Seed(seed);
        let mapped = hash::flow(&seed, &mapped(source), &mapped(destination), ports, protocol);
        prop_assert_eq!(mapped, hash::flow_v4(&seed, source, destination, ports, protocol));
    }

    #[test]
    fn flows_that_differ_in_one_field_differ_in_their_hash(seed in any::<[u64; 2]>(), source in any::<u32>(), destination in any::<u32>(), ports in any::<u32>(), other in 1_u32..) {
        let seed = Seed(seed);
        let one = hash::flow_v4(&seed, source, destination, ports, 6);
        // Each step is a bijection of the word that it takes in, so these hashes are never equal.
        prop_assert_ne!(one, hash::flow_v4(&seed, source ^ other, destination, ports, 6));
        prop_assert_ne!(one, hash::flow_v4(&seed, source, destination ^ other, ports, 6));
        prop_assert_ne!(one, hash::flow_v4(&seed, source, destination, ports ^ other, 6));
        prop_assert_ne!(one, hash::flow_v4(&seed, source, destination, ports, 17));
    }
}

proptest! {
    #[test]
    fn clients_of_one_network_meet_and_only_they(seed in any::<[u64; 2]>(), one in any::<[u8; 16]>(), other in any::<[u8; 16]>(), bits in 1_u32..=128, kept in 0_u32..=128) {
        let seed = Seed(seed);
        let words = |bytes: u128| -> Address { array::from_fn(|i| ((bytes >> (96 - 32 * i)) as u32).to_be()) };
        // The second address shares the first `kept` bits with the first one.
        let mask = u128::MAX.checked_shl(128 - kept).unwrap_or(0);
        let one = u128::from_be_bytes(one);
        let other = one & mask | u128::from_be_bytes(other) & !mask;
        let network = |address: u128| address & u128::MAX << (128 - bits);
        let same = network(one) == network(other);
        let hash = |address: u128| hash::source_v6(&seed, &words(address), bits);
        // Different networks have the same hash as rarely as any two hashes are equal: never in a lifetime of tests.
        prop_assert_eq!(hash(one) == hash(other), same);
        let v4 = |address: u128| hash::source_v4(&seed, ((address >> 96) as u32).to_be(), bits.min(32));
        let same = (network(one) ^ network(other)) >> 96 == 0;
        prop_assert_eq!(v4(one) == v4(other), same);
    }
}

// Services and their index.
proptest! {
    #[test]
    fn a_service_is_found_by_its_own_key_only(own in address(), other in address(), port in any::<u16>(), protocol in any::<u8>(), key in any::<u32>()) {
        let own_key = service::port_protocol(port, protocol);
        let record = Service { address: own, port_protocol: own_key, ..Service::default() };
        prop_assert!(record.is(&own, own_key) && record.has_address(&own));
        prop_assert_eq!(record.is(&other, key), other == own && key == own_key);
        prop_assert_eq!(record.has_address(&other), other == own);
        prop_assert_eq!((own_key as u16, (own_key >> 16) as u8), (port, protocol));
    }

    #[test]
    fn one_bit_in_an_address_makes_it_another(own in any::<Address>(), word in 0_usize..4, bit in 0..32) {
        let record = Service { address: own, ..Service::default() };
        let mut other = own;
        other[word] ^= 1_u32 << bit;
        prop_assert!(!record.has_address(&other));
    }

    #[test]
    fn a_word_of_the_index_leads_back_to_its_service(hash in any::<u64>(), other in any::<u64>(), number in 0..u32::MAX - 1) {
        let word = Bucket::word(hash, number);
        prop_assert_eq!(Bucket::service(word), number);
        prop_assert!(word != Bucket::EMPTY && word != Bucket::TOMBSTONE && Bucket::tag_matches(word, hash));
        prop_assert_eq!(Bucket::tag_matches(word, other), hash >> 32 == other >> 32);
    }

    #[test]
    fn every_key_has_its_home_in_the_index(services in 0_u32..1 << 24, address in address(), key in any::<u32>()) {
        let buckets = service::buckets_for(services);
        prop_assert!(buckets.is_power_of_two() && buckets >= services.saturating_mul(2) && buckets >= 16);
        prop_assert!(service::home_bucket(service::hash(&address, key), buckets - 1) < buckets);
    }
}

// Backends.
proptest! {
    #[test]
    fn the_words_of_an_ethernet_header_are_its_bytes(ethernet in any::<[u8; 14]>()) {
        let (first, last) = Backend { ethernet, ..Backend::default() }.ethernet_words();
        prop_assert_eq!(first.to_ne_bytes(), array::from_fn::<u8, 8, _>(|i| ethernet[i]));
        prop_assert_eq!(last.to_ne_bytes(), array::from_fn::<u8, 8, _>(|i| ethernet[i + 6]));
    }

    #[test]
    fn flags_of_a_backend_are_apart(flags in any::<u8>()) {
        let backend = Backend { flags, ..Backend::default() };
        let read = u8::from(backend.is_alive()) * Backend::ALIVE
            + u8::from(backend.is_draining()) * Backend::DRAINING
            + u8::from(backend.is_failing()) * Backend::FAILING;
        prop_assert_eq!(read, flags & (Backend::ALIVE | Backend::DRAINING | Backend::FAILING));
    }
}

// Checksums and outer headers.
proptest! {
    #[test]
    fn a_folded_sum_is_the_sum_modulo_ffff(total in 0_u64..1 << 47) {
        let folded = u64::from(checksum::fold(total));
        prop_assert_eq!(folded % 0xffff, total % 0xffff);
        prop_assert_eq!(folded == 0, total == 0);
    }

    #[test]
    fn an_outer_ipv6_header_is_template_and_packet_fields(source in any::<[u8; 12]>(), destination in any::<Address>(), bits in 0_u8..=32, length in 0_u16..=65_400, class in any::<u8>(), hash in any::<u64>(), next in any::<u8>(), more in 0_u16..100) {
        let words = |i: usize| u32::from_ne_bytes([source[i * 4], source[i * 4 + 1], source[i * 4 + 2], source[i * 4 + 3]]);
        let template = ip::template_v6(&[words(0), words(1), words(2), 0], &destination);
        let (a, b, c, d, e) = ip::outer_v6(&template, bits, Inner::new(length, class), next, more, hash);
        let bytes: Vec<u8> = [a, b, c, d, e].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let payload = length + more;
        prop_assert_eq!((first >> 28, first >> 20 & 0xff, first & 0xf_ffff), (6, u32::from(class), hash as u32 & 0xf_ffff));
        prop_assert_eq!(&bytes[4..8], &[(payload >> 8) as u8, payload as u8, next, ip::TTL]);
        prop_assert_eq!(&bytes[8..20], &source[..]);
        let spread = if bits == 32 { hash as u32 } else { hash as u32 & ((1 << bits) - 1) };
        prop_assert_eq!(&bytes[20..24], &spread.to_be_bytes());
        let destination: Vec<u8> = destination.iter().flat_map(|word| word.to_ne_bytes()).collect();
        prop_assert_eq!(&bytes[24..], &destination[..]);
    }
}

// Headers on the wire.
proptest! {
    #[test]
    fn ports_come_back(source in any::<u16>(), destination in any::<u16>()) {
        let word = wire::ports(source, destination);
        prop_assert_eq!((wire::source_port(word), wire::destination_port(word)), (source, destination));
        prop_assert_eq!(&word.to_ne_bytes()[..], &[source.to_be_bytes(), destination.to_be_bytes()].concat()[..]);
    }

    #[test]
    fn fields_of_an_ipv4_header_are_those_of_rfc_791(bytes in any::<[u8; 20]>()) {
        // SAFETY: 20 bytes, of which every pattern is a header.
        let header: Ipv4 = unsafe { bytes.as_ptr().cast::<Ipv4>().read_unaligned() };
        prop_assert_eq!(header.version(), bytes[0] >> 4);
        prop_assert_eq!(header.header_length(), usize::from(bytes[0] & 0x0f) * 4);
        let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
        prop_assert_eq!(header.is_fragment(), fragment & 0x2000 != 0 || fragment & 0x1fff != 0);
    }

    #[test]
    fn fields_of_an_ipv6_header_are_those_of_rfc_8200(bytes in any::<[u8; 40]>()) {
        // SAFETY: 40 bytes, of which every pattern is a header.
        let header: Ipv6 = unsafe { bytes.as_ptr().cast::<Ipv6>().read_unaligned() };
        prop_assert_eq!(header.version(), bytes[0] >> 4);
        prop_assert_eq!(header.traffic_class(), bytes[0] << 4 | bytes[1] >> 4);
    }

    #[test]
    fn the_length_of_a_tcp_header_is_that_of_rfc_9293(bytes in any::<[u8; 20]>()) {
        // SAFETY: 20 bytes, of which every pattern is a header.
        let header: Tcp = unsafe { bytes.as_ptr().cast::<Tcp>().read_unaligned() };
        prop_assert_eq!(header.header_length(), usize::from(bytes[12] >> 4) * 4);
    }
}
