//! The path that was probably meant, for the message of a 404.

use super::{
    route::is_name,
    routes::{ROUTES, Route},
};

/// The path of the table that looks most like this one, with the names that were given.
pub(super) fn suggest_path(segments: &[&str]) -> String {
    let mut segments = segments.to_vec();
    let versioned = |s: &&str| s.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
    if !segments.get(1).is_some_and(versioned) {
        segments.insert(1.min(segments.len()), "v1");
    }
    let cost = |route: &&Route| -> usize {
        let parts: Vec<&str> = route.path.split('/').collect();
        let pairs = (0..parts.len().max(segments.len())).map(|i| (parts.get(i), segments.get(i)));
        pairs
            .map(|pair| match pair {
                // A name costs a little, so that a misspelt word is not taken for one.
                (Some(part), Some(s)) if is_name(part) => 1 + usize::from(s.is_empty()) * 4,
                (Some(part), Some(s)) => distance(part, s),
                (Some(only), None) | (None, Some(only)) => only.chars().count().clamp(1, 8),
                (None, None) => 0,
            })
            .sum()
    };
    let Some(best) = ROUTES.iter().min_by_key(cost) else { return "/v1".into() };
    let part = |(i, part): (usize, &'static str)| match segments.get(i) {
        Some(given) if is_name(part) && !given.is_empty() => (*given).to_owned(),
        _ => part.to_owned(),
    };
    best.path.split('/').enumerate().map(part).collect::<Vec<_>>().join("/")
}

/// Edits from one to the other, over at most the first 64 characters of each: the sender chooses the length, and the
/// time is quadratic.
fn distance(a: &str, b: &str) -> usize {
    let cut = |text: &str| text.chars().take(64).collect::<String>();
    strsim::levenshtein(&cut(a), &cut(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_path_finds_the_one_that_was_meant() {
        for (given, meant) in [
            ("/v1/statu", "/v1/status"),
            ("/v2/status", "/v1/status"),
            ("/status", "/v1/status"),
            ("/v1/service/web", "/v1/services/web"),
            ("/v1/services/web/backend/web-1", "/v1/services/web/backends/web-1"),
            ("/v1/services/", "/v1/services"),
            ("/v1/config/aply", "/v1/config/apply"),
            ("/metrics", "/v1/metrics"),
        ] {
            let segments: Vec<&str> = given.split('/').collect();
            assert_eq!(suggest_path(&segments), meant, "{given}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_long_part_is_compared() {
        assert_eq!(distance(&"x".repeat(100_000), "status"), 64);
    }
}
