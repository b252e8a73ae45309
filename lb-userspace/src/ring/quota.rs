//! How many slots each backend gets: exactly in proportion to the weights, by the method of the largest remainder
//! (Hamilton's), and never none for a backend with a weight while there are slots enough.

/// The slots of each backend; they add up to `length`. Weights are positive, in the order of the names, which decides
/// between equal remainders.
pub(super) fn quotas(weights: &[u16], length: u32) -> Vec<u32> {
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let share = |weight: u16| u64::from(weight) * u64::from(length);
    let mut quotas: Vec<u32> = weights.iter().map(|&weight| (share(weight) / total) as u32).collect();
    let given: u64 = quotas.iter().map(|&quota| u64::from(quota)).sum();
    let left = (u64::from(length) - given) as usize;
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&place| std::cmp::Reverse(share(weights[place]) % total));
    for &place in &order[..left] {
        quotas[place] += 1;
    }
    spare_one_for_each(&mut quotas, length);
    quotas
}

/// A weight that is small against the others still means some traffic: such backends get one slot from the largest.
fn spare_one_for_each(quotas: &mut [u32], length: u32) {
    let without: Vec<usize> = (0..quotas.len()).filter(|&place| quotas[place] == 0).collect();
    if without.is_empty() || quotas.len() > length as usize {
        return;
    }
    let mut order: Vec<usize> = (0..quotas.len()).collect();
    order.sort_by_key(|&place| std::cmp::Reverse(quotas[place]));
    let mut givers = order.iter().cycle();
    for place in without {
        // There are at least as many slots as backends, so some backend has two.
        for &giver in givers.by_ref() {
            if quotas[giver] > 1 {
                quotas[giver] -= 1;
                quotas[place] = 1;
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_differ_by_at_most_one_slot() {
        let quotas = quotas(&[7; 3], 251);
        assert_eq!(quotas, [84, 84, 83]);
    }

    #[test]
    fn a_tiny_weight_gets_a_slot() {
        let mut weights = vec![1000; 99];
        weights.push(1);
        let quotas = quotas(&weights, 251);
        assert_eq!(quotas[99], 1);
        assert_eq!(quotas.iter().sum::<u32>(), 251);
    }

    #[test]
    fn more_backends_than_slots_still_add_up() {
        assert_eq!(quotas(&[1; 10], 7).iter().sum::<u32>(), 7);
    }

    proptest! {
        #[test]
        fn quotas_add_up_within_a_slot_of_the_exact_share(
            weights in prop::collection::vec(1u16..=1000, 1..100), length in 10_000u32..100_000,
        ) {
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let quotas = quotas(&weights, length);
            prop_assert_eq!(quotas.iter().sum::<u32>(), length);
            let raised = quotas.iter().zip(&weights)
                .filter(|&(&q, &w)| q == 1 && f64::from(w) / total * f64::from(length) < 1.0).count() as f64;
            for (&quota, &weight) in quotas.iter().zip(&weights) {
                let exact = f64::from(weight) / total * f64::from(length);
                prop_assert!((f64::from(quota) - exact).abs() < 1.0 + raised, "{} for {}", quota, exact);
                prop_assert!(quota > 0);
            }
        }
    }
}
