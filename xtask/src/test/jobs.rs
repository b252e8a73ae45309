//! The jobs of a run, several at a time: those that mostly wait side by side, those that compute in what processors there are.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    report::Outcome,
    screen::{Log, Screen},
    tier::Tier,
};
use crate::{children, ui};

/// What a job does with the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// It takes all it gets.
    Computes,
    /// Mostly it waits: for connections, probes, the time of a scenario.
    Waits,
}

/// A tier, or a part of it that runs by itself.
pub(super) struct Job<'a> {
    pub(super) tier: Tier,
    /// The part; `None` = all of it.
    pub(super) part: Option<String>,
    pub(super) load: Load,
    pub(super) work: Box<dyn FnOnce(&Log<'_>) -> Outcome + Send + 'a>,
}

impl Job<'_> {
    /// Over its output.
    pub(super) fn title(&self) -> String {
        match &self.part {
            Some(part) => format!("{}: {part}", self.tier.name()),
            None => self.tier.name().to_owned(),
        }
    }
}

/// So many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) all: usize,
    /// Of those that compute.
    pub(super) computing: usize,
    /// Begin no other tier after a failure.
    pub(super) fail_fast: bool,
}

impl Limits {
    /// For a machine with so many processors; `jobs` in all where that is given.
    pub(super) fn new(processors: usize, jobs: Option<usize>, fail_fast: bool) -> Self {
        let all = jobs.unwrap_or(processors).max(1);
        // A job that computes has threads for two processors, most of the time.
        let computing = (processors / 2).clamp(1, all);
        // The first failure is to be the first in order, too.
        if fail_fast { Self { all: 1, computing: 1, fail_fast } } else { Self { all, computing, fail_fast } }
    }
}

/// What came of a job.
pub(super) struct Done {
    pub(super) tier: Tier,
    pub(super) outcome: Outcome,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

struct State<'a> {
    waiting: Vec<Option<Job<'a>>>,
    running: Vec<(Tier, Load)>,
    done: Vec<Option<Done>>,
    failed: Option<Tier>,
    panic: Option<Box<dyn Any + Send>>,
}

impl State<'_> {
    /// The next job in order that the limits allow: `None` when nothing is left to begin, `Some(None)` when one has to
    /// end before.
    fn next(&self, limits: Limits) -> Option<Option<usize>> {
        if self.panic.is_some() {
            return None;
        }
        let wanted = |job: &Job<'_>| !limits.fail_fast || self.failed.is_none_or(|tier| tier == job.tier);
        let left = || {
            let jobs = self.waiting.iter().enumerate();
            jobs.filter_map(|(number, job)| Some((number, job.as_ref()?))).filter(|(_, job)| wanted(job))
        };
        left().next()?;
        let computing = self.running.iter().filter(|(_, load)| *load == Load::Computes).count();
        let has_room = |load| load == Load::Waits || computing < limits.computing;
        let room = self.running.len() < limits.all;
        Some(left().find(|(_, job)| room && has_room(job.load)).map(|(number, _)| number))
    }
}

/// Runs all of them; what came of each that was begun, in their order.
///
/// # Panics
/// A job panicked: all others are ended first.
pub(super) fn run(jobs: Vec<Job<'_>>, limits: Limits, screen: &Screen) -> Vec<Done> {
    let count = jobs.len();
    let state = Mutex::new(State {
        waiting: jobs.into_iter().map(Some).collect(),
        running: Vec::new(),
        done: (0..count).map(|_| None).collect(),
        failed: None,
        panic: None,
    });
    let ended = Condvar::new();
    thread::scope(|scope| {
        for _ in 0..limits.all.min(count) {
            scope.spawn(|| work(&state, &ended, limits, screen));
        }
    });
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(payload) = state.panic {
        panic::resume_unwind(payload);
    }
    state.done.into_iter().flatten().collect()
}

fn lock<'a, 'b>(state: &'a Mutex<State<'b>>) -> MutexGuard<'a, State<'b>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(state: &Mutex<State<'_>>, ended: &Condvar, limits: Limits, screen: &Screen) {
    loop {
        let (number, Job { tier, load, work, .. }) = {
            let mut state = lock(state);
            loop {
                match state.next(limits) {
                    None => return,
                    Some(Some(number)) => {
                        let Some(job) = state.waiting[number].take() else { continue };
                        state.running.push((job.tier, job.load));
                        break (number, job);
                    }
                    Some(None) => state = ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        let began = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            let log = screen.begin(number);
            let outcome = work(&log);
            children::stay_if_ending();
            log.line(&ui::dim(&closing(&outcome, began.elapsed())));
            outcome
        }));
        let mut state = lock(state);
        if let Some(at) = state.running.iter().position(|running| *running == (tier, load)) {
            state.running.remove(at);
        }
        match outcome {
            Ok(outcome) => {
                if outcome.failed > 0 {
                    state.failed.get_or_insert(tier);
                }
                state.done[number] = Some(Done { tier, outcome, began, ended: Instant::now() });
            }
            Err(payload) => {
                state.panic.get_or_insert(payload);
                drop(state);
                children::end_all();
            }
        }
        ended.notify_all();
    }
}

/// The last line of a job's block.
fn closing(outcome: &Outcome, time: Duration) -> String {
    let Outcome { passed, failed, skipped, processor, .. } = outcome;
    let (time, processor) = (ui::duration(time), ui::duration(*processor));
    format!(
        "{passed} passed, {failed} failed, {} skipped in {time}, {processor} of processor time",
        skipped.len()
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn job<'a>(tier: Tier, load: Load, work: impl FnOnce() -> Outcome + Send + 'a) -> Job<'a> {
        Job { tier, part: None, load, work: Box::new(move |_| work()) }
    }

    fn play(jobs: Vec<Job<'_>>, limits: Limits) -> Vec<(Tier, Outcome)> {
        let screen = Screen::new(jobs.iter().map(Job::title), Box::new(|_| ()));
        run(jobs, limits, &screen).into_iter().map(|done| (done.tier, done.outcome)).collect()
    }

    #[test]
    fn jobs_that_wait_run_side_by_side_and_results_keep_their_order() {
        let all = &Barrier::new(3);
        let jobs = [3, 1, 2].map(|passed| {
            job(Tier::Churn, Load::Waits, move || {
                all.wait();
                Outcome::passed(passed)
            })
        });
        let done = play(jobs.into(), Limits::new(2, Some(3), false));
        assert_eq!(done.iter().map(|(_, outcome)| outcome.passed).collect::<Vec<_>>(), [3, 1, 2]);
    }

    #[test]
    fn two_processors_have_one_job_that_computes() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let jobs = (0..6).map(|_| {
            job(Tier::Unit, Load::Computes, || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                Outcome::passed(1)
            })
        });
        assert_eq!(play(jobs.collect(), Limits::new(2, None, false)).len(), 6);
        assert_eq!(most.into_inner(), 1);
    }

    #[test]
    fn after_a_failure_only_its_own_tier_goes_on() {
        let failing = || job(Tier::Unit, Load::Computes, || Outcome::failed("x"));
        let jobs = vec![failing(), failing(), job(Tier::Demo, Load::Waits, || Outcome::passed(1))];
        let done = play(jobs, Limits::new(8, None, true));
        assert_eq!(done.iter().map(|(tier, _)| *tier).collect::<Vec<_>>(), [Tier::Unit, Tier::Unit]);
    }

    #[test]
    fn limits_follow_the_processors_and_the_option() {
        assert_eq!(Limits::new(2, None, false), Limits { all: 2, computing: 1, fail_fast: false });
        assert_eq!(Limits::new(16, Some(3), false), Limits { all: 3, computing: 3, fail_fast: false });
        assert_eq!(Limits::new(1, Some(1), false), Limits { all: 1, computing: 1, fail_fast: false });
    }

    #[test]
    #[should_panic(expected = "a job's own words")]
    fn a_panic_of_a_job_is_that_of_the_run() {
        play(
            vec![job(Tier::Unit, Load::Computes, || panic!("a job's own words"))],
            Limits::new(1, None, false),
        );
    }
}
