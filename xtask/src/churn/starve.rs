//! An agent that gets no processor: it is stopped for a while, and then everything has to share the processors with work that
//! never waits. Neither is a failure of a backend, and packets do not need the agent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, available_parallelism},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Progress, hiccup, report::Check, rig::Rig};

const STOPPED: Duration = Duration::from_secs(20);
const BUSY: Duration = Duration::from_secs(10);

/// Stops the agent, then keeps the processors busy; what to say about it, and what had to be so.
pub(super) fn run(rig: &mut Rig, progress: &mut Progress, _: Duration) -> Result<(String, Vec<Check>)> {
    progress.wait(rig, Instant::now() + Duration::from_secs(2))?;
    let before = hiccup::events(rig, "backend_down")?;
    rig.load.book().begin("agent stopped for 20 s");
    rig.agent.signal(libc::SIGSTOP)?;
    let waited = progress.wait(rig, Instant::now() + STOPPED);
    rig.agent.signal(libc::SIGCONT)?;
    waited?;
    progress.wait(rig, Instant::now() + Duration::from_secs(5))?;
    let stopped = hiccup::events(rig, "backend_down")? - before;
    rig.load.book().begin("processors busy for 10 s");
    let work = Work::begin();
    progress.wait(rig, Instant::now() + BUSY)?;
    drop(work);
    progress.wait(rig, Instant::now() + Duration::from_secs(5))?;
    let busy = hiccup::events(rig, "backend_down")? - before - stopped;
    let note = format!(
        "{stopped} verdicts that a backend is down after the agent stood still for 20 s, {busy} while all processors were busy"
    );
    let what = format!("no backend was called down since the agent stood still: {stopped}");
    Ok((note, vec![Check { what, good: stopped == 0 }]))
}

/// Two threads a processor that never wait, until this is dropped.
struct Work {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Work {
    fn begin() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..2 * available_parallelism().map_or(1, usize::from)).map(|_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        Self { threads: threads.collect(), over }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
