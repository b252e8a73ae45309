//! The attempts of one probe. A lost packet must not look like a dead backend: TCP sends a lost SYN again after a second, which
//! is longer than the usual timeout, so a probe that hears nothing asks again over a connection of its own while the first one
//! goes on waiting. The first answer counts, whatever it is: a refusal is believed at once, silence when the time is over.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::sleep,
};

use super::{Budget, Failure};
use crate::health::said::Words;

/// Parts of the timeout at whose ends a further attempt may begin. As long as no connection is there each of them begins one;
/// over a connection TCP repeats what is lost by itself, and so as not to double the work of a slow server only each second one
/// does.
const PARTS: u32 = 6;
const CONNECTED_PARTS: u32 = 2;

/// What an attempt tells the others of its probe while it goes on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    connected: AtomicBool,
    words: Mutex<Words>,
}

impl Progress {
    pub(super) fn connected(&self) {
        self.connected.store(true, Ordering::Relaxed);
    }

    /// What the backend says of itself. Its attempt ends with it.
    pub(super) fn says(&self, words: Words) {
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    pub(super) fn words(self) -> Words {
        self.words.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Answer(Result<(), Failure>),
    /// The time was over: in which phase (higher = later), and in words.
    Silence(u8, String),
}

struct Attempt<'a, F> {
    future: Pin<Box<F>>,
    _place: Option<SemaphorePermit<'a>>,
}

/// The first answer of attempts that `attempt` makes. Further ones than the first take a place of `spare` each; none = one
/// attempt.
pub(super) async fn first_answer<F>(
    budget: Budget,
    spare: Option<&Semaphore>,
    progress: &Progress,
    attempt: impl Fn() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Outcome>,
{
    let mut running = vec![Attempt { future: Box::pin(attempt()), _place: None }];
    let mut silence: Option<(u8, String)> = None;
    let mut not_asked = None;
    let part = (budget.timeout / PARTS).max(Duration::from_millis(1));
    let mut parts = 0;
    let mut pause = Box::pin(sleep(part));
    loop {
        let ended = poll_fn(|context| {
            for at in 0..running.len() {
                if let Poll::Ready(outcome) = running[at].future.as_mut().poll(context) {
                    drop(running.swap_remove(at));
                    return Poll::Ready(Some(outcome));
                }
            }
            if running.is_empty() {
                return Poll::Ready(None);
            }
            match spare.is_some() && parts + 1 < PARTS && pause.as_mut().poll(context).is_ready() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await;
        match ended {
            // This host's trouble with a further attempt says nothing of the others.
            Some(Outcome::Answer(Err(Failure::LocalError(why)))) => not_asked = Some(why),
            Some(Outcome::Answer(answer)) => return answer,
            Some(Outcome::Silence(phase, words)) => {
                if silence.as_ref().is_none_or(|(reached, _)| *reached < phase) {
                    silence = Some((phase, words));
                }
            }
            None if running.is_empty() => {
                return Err(match (silence, not_asked) {
                    (Some((_, words)), _) => Failure::Backend(words),
                    (None, why) => Failure::LocalError(why.unwrap_or_default()),
                });
            }
            None => {
                parts += 1;
                pause.as_mut().reset(tokio::time::Instant::now() + part);
                let wanted = !progress.is_connected() || parts % CONNECTED_PARTS == 0;
                if let Some(Ok(place)) = spare.filter(|_| wanted).map(Semaphore::try_acquire) {
                    running.push(Attempt { future: Box::pin(attempt()), _place: Some(place) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::wait::LIMIT;

    /// Short, so that a further attempt comes soon. How late it comes is not asserted.
    const TIMEOUT: Duration = Duration::from_millis(60);

    /// Attempts by number, from 1, with the number of those made so far; the answer, and how many were made.
    async fn asked<'a, F: Future<Output = Outcome>>(
        spare: usize,
        connected: bool,
        made: &'a AtomicU32,
        each: impl Fn(u32, &'a AtomicU32) -> F,
    ) -> (Result<(), Failure>, u32) {
        let (spare, progress) = (Semaphore::new(spare), Progress::default());
        if connected {
            progress.connected();
        }
        let attempt = || each(made.fetch_add(1, Ordering::Relaxed) + 1, made);
        let answer = first_answer(Budget::new(TIMEOUT), Some(&spare), &progress, attempt);
        let answer = tokio::time::timeout(LIMIT, answer).await.expect("an answer");
        (answer, made.load(Ordering::Relaxed))
    }

    /// Waits until so many attempts were made.
    async fn until(made: &AtomicU32, number: u32) {
        while made.load(Ordering::Relaxed) < number {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn timed_out() -> Outcome {
        Outcome::Silence(0, "connect timed out".into())
    }

    #[tokio::test]
    async fn a_lost_attempt_is_repeated() {
        let made = AtomicU32::new(0);
        let each =
            |n, _: &AtomicU32| async move { if n < 3 { pending().await } else { Outcome::Answer(Ok(())) } };
        assert_eq!(asked(9, false, &made, each).await, (Ok(()), 3));
    }

    #[tokio::test]
    async fn a_refusal_is_believed_although_others_still_wait() {
        let refused = || Err(Failure::Backend("connection refused".into()));
        let made = AtomicU32::new(0);
        let each = |n, _: &AtomicU32| async move {
            if n < 2 { pending().await } else { Outcome::Answer(refused()) }
        };
        assert_eq!(asked(9, false, &made, each).await, (refused(), 2));
    }

    #[tokio::test]
    async fn silence_counts_after_the_last_attempt() {
        let made = AtomicU32::new(0);
        let each = |n, made| async move {
            until(made, 3).await;
            Outcome::Silence(u8::from(n == 2), format!("silence {n}"))
        };
        let (answer, made) = asked(9, false, &made, each).await;
        assert_eq!(answer, Err(Failure::Backend("silence 2".into())));
        assert!((3..=PARTS).contains(&made), "{made}");
    }

    #[tokio::test]
    async fn a_slow_server_is_asked_less_often() {
        for (connected, most) in [(false, PARTS), (true, 1 + (PARTS - 1) / CONNECTED_PARTS)] {
            let made = AtomicU32::new(0);
            let each = |_, made| async move {
                until(made, most).await;
                // Longer than all parts of the timeout.
                sleep(3 * TIMEOUT).await;
                timed_out()
            };
            assert_eq!(asked(9, connected, &made, each).await.1, most, "connected: {connected}");
        }
    }

    #[tokio::test]
    async fn where_no_place_is_spare_one_attempt_has_to_do() {
        let made = AtomicU32::new(0);
        let each = |_, _: &AtomicU32| async {
            sleep(3 * TIMEOUT).await;
            timed_out()
        };
        let (answer, made) = asked(0, false, &made, each).await;
        assert_eq!((answer, made), (Err(Failure::Backend("connect timed out".into())), 1));
    }

    #[tokio::test]
    async fn a_local_error_does_not_end_the_first_attempt() {
        let made = AtomicU32::new(0);
        let each = |n, made| async move {
            match n {
                1 => {
                    until(made, 3).await;
                    Outcome::Answer(Ok(()))
                }
                2 => Outcome::Answer(Err(Failure::LocalError("no free local port".into()))),
                _ => pending().await,
            }
        };
        assert_eq!(asked(9, false, &made, each).await.0, Ok(()));
        let made = AtomicU32::new(0);
        let each = |_, _: &AtomicU32| async { Outcome::Answer(Err(Failure::LocalError("no socket".into()))) };
        let (answer, made) = asked(9, false, &made, each).await;
        assert_eq!((answer, made), (Err(Failure::LocalError("no socket".into())), 1));
    }
}
