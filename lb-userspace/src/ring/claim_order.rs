//! In which order the backends claim slots.
//!
//! A backend of weight w takes its k-th turn at the time (k + phase) / w, the phase being a fraction taken from its
//! name's hash. So turns are spread in proportion to the weights at every moment, not in rounds over all backends,
//! and two backends take their turns in the same order whichever others there are: that is what keeps disruption low.

/// The number of the backend at each turn, in order. `phases` are fractions times 2³².
pub(super) fn claim_order(
    weights: &[u16],
    quotas: &[u32],
    phases: &[u32],
) -> impl ExactSizeIterator<Item = u32> {
    let mut keys = Vec::with_capacity(quotas.iter().map(|&quota| quota as usize).sum());
    for (number, ((&weight, &quota), &phase)) in (0u64..).zip(weights.iter().zip(quotas).zip(phases)) {
        let phase = f64::from(phase) / (1u64 << 32) as f64;
        for turn in 0..quota {
            // A positive f64 sorts like its bits. Its last 24 bits (of 52; ring lengths have 22) make way for the
            // backend's number, so that one word is sorted, ties included, as fast as words can be. IEEE 754
            // rounds every one of these operations exactly, so all machines agree.
            let time = (f64::from(turn) + phase) / f64::from(weight);
            keys.push((time.to_bits() & !NUMBER) | number);
        }
    }
    keys.sort_unstable();
    keys.into_iter().map(|key| (key & NUMBER) as u32)
}

/// Room for [`lb_common::slot::MAX_BACKEND`].
const NUMBER: u64 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = 1 << 31;

    #[test]
    fn equal_weights_take_turns_one_after_the_other() {
        let order: Vec<u32> = claim_order(&[5, 5, 5], &[2, 2, 2], &[HALF, 0, HALF + HALF / 2]).collect();
        assert_eq!(order, [1, 0, 2, 1, 0, 2]);
    }

    #[test]
    fn twice_the_weight_takes_two_turns_for_one() {
        let order: Vec<u32> = claim_order(&[2, 1], &[4, 2], &[HALF, HALF]).collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn the_order_of_two_does_not_depend_on_a_third() {
        let (weights, phases) = ([300, 70, 9], [17, 1 << 20, 1 << 30]);
        let without: Vec<u32> = claim_order(&weights[..2], &[300, 70], &phases[..2]).collect();
        let with: Vec<u32> =
            claim_order(&weights, &[300, 70, 9], &phases).filter(|&number| number < 2).collect();
        assert_eq!(without, with);
    }
}
