//! "Did you mean …?"

/// The candidate nearest to `word`, if it is near enough for a typing error: at most one edit in three characters, rounded up.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // No key is longer than that, and computing the distance takes quadratic time.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let most = word.chars().count().div_ceil(3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean x?)`, or nothing.
pub(super) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"))
}

/// The number of edits from one word to the other: insert, delete, replace, swap neighbours; upper and lower case are the same.
fn distance(a: &str, b: &str) -> usize {
    strsim::osa_distance(&a.to_lowercase(), &b.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["interval", "fast_interval", "timeout", "weight"];

    #[test]
    fn a_slip_is_recognised() {
        assert_eq!(nearest("wieght", KEYS), Some("weight"));
        assert_eq!(nearest("time_out", KEYS), Some("timeout"));
        assert_eq!(nearest("Interval", KEYS), Some("interval"));
    }

    #[test]
    fn another_word_is_no_slip() {
        assert_eq!(nearest("colour", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
        assert_eq!(nearest(&"x".repeat(100_000), KEYS), None);
    }

    #[test]
    fn swapped_neighbours_count_once() {
        assert_eq!(distance("ab", "BA"), 1);
    }
}
