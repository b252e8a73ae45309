//! Waiting for a state. A limit is only there to end what would wait for ever: it is no measure of anything, so it is
//! generous, for a machine may be slow and have other work. What was seen last is said when it is reached.

use std::{
    env,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Names another limit in seconds, for programs that are started on a machine whose processor is emulated.
pub const VARIABLE: &str = "LB_WAIT_LIMIT";

/// Seconds of [`limit`].
static SECONDS: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(seconds(env::var(VARIABLE).ok())));

/// What [`VARIABLE`] says; a value that is not a number of seconds is as none.
fn seconds(given: Option<String>) -> u64 {
    given.and_then(|text| text.parse().ok()).filter(|&seconds| seconds > 0).unwrap_or(60)
}

/// How long to wait at most for something that must happen.
pub fn limit() -> Duration {
    Duration::from_secs(SECONDS.load(Ordering::Relaxed))
}

/// Another limit, for a machine whose processor is emulated.
pub fn set_limit(limit: Duration) {
    SECONDS.store(limit.as_secs(), Ordering::Relaxed);
}

/// What a look found: what was waited for, or in words what is there instead.
pub type Look<T> = Result<T, String>;

/// Looks until it is so.
///
/// # Errors
/// A look failed, which ends the waiting at once; or the limit was reached, and the error says what was seen last.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        match look()? {
            Ok(found) => return Ok(found),
            Err(seen) if started.elapsed() >= limit => {
                bail!("{what}: not within {}; last seen: {seen}", crate::ui::duration(limit));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A look of which an error only means that it is not so yet.
pub fn attempt<T>(result: Result<T>) -> Result<Look<T>> {
    Ok(result.map_err(|error| format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn it_ends_as_soon_as_it_is_so() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(60), || {
            looks += 1;
            Ok(if looks == 3 { Ok(looks) } else { Err(format!("{looks}")) })
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn another_limit_is_a_number_of_seconds() {
        assert_eq!(seconds(Some("400".to_owned())), 400);
        for none in [None, Some("0"), Some(""), Some("soon")] {
            assert_eq!(seconds(none.map(str::to_owned)), 60, "{none:?}");
        }
    }

    #[test]
    fn what_was_seen_last_is_said() {
        let error = until::<()>("it is up", Duration::ZERO, || Ok(Err("it is down".to_owned()))).unwrap_err();
        assert_eq!(error.to_string(), "it is up: not within 0 ms; last seen: it is down");
        let failed = attempt::<()>(Err(anyhow!("no answer")));
        assert_eq!(failed.unwrap(), Err("no answer".to_owned()));
    }

    #[test]
    fn a_look_that_fails_ends_it_at_once() {
        let error = until::<()>("x", Duration::from_secs(60), || bail!("it has died")).unwrap_err();
        assert_eq!(error.to_string(), "it has died");
    }
}
