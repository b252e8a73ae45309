//! Waiting for a state in the tests of this crate. The limit only ends what would wait for ever: it is generous, for a
//! machine may be slow and have other work.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long at most.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Looks until it is so; what a look finds instead is said when the limit is reached.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    let mut seen = "nothing".to_owned();
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(other)) => seen = other,
            Err(_) => panic!("{what}: not within {limit:?}; last seen: {seen}"),
        }
        if Instant::now() >= deadline {
            panic!("{what}: not within {limit:?}; last seen: {seen}");
        }
        sleep(Duration::from_millis(2)).await;
    }
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_as_soon_as_it_is_so() {
        let mut looks = 0;
        let found = until("three looks", LIMIT, async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks}")) }
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "it is up: not within 1ms; last seen: it is down")]
    async fn what_was_seen_last_is_said() {
        until::<()>("it is up", Duration::from_millis(1), async || Err("it is down".to_owned())).await;
    }
}
