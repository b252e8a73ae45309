//! The output of jobs that run at the same time, one block a job: one job's lines are shown as they come, those of the others
//! are kept until it is their turn.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ui;

/// Where lines go in the end.
type Print = Box<dyn FnMut(&str) + Send>;

pub(super) struct Screen(Mutex<State>);

struct State {
    blocks: Vec<Block>,
    /// The block whose lines are shown as they come.
    live: Option<usize>,
    print: Print,
}

struct Block {
    title: String,
    kept: Vec<String>,
    is: Is,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Waiting,
    Running,
    Done,
    Shown,
}

impl Screen {
    /// A screen for jobs of these names.
    pub(super) fn new(titles: impl IntoIterator<Item = String>, print: Print) -> Self {
        let block = |title| Block { title, kept: Vec::new(), is: Is::Waiting };
        let blocks = titles.into_iter().map(block).collect();
        Self(Mutex::new(State { blocks, live: None, print }))
    }

    /// The job of this number begins; its output.
    pub(super) fn begin(&self, number: usize) -> Log<'_> {
        let mut state = self.state();
        state.blocks[number].is = Is::Running;
        state.turn();
        Log { screen: self, number }
    }

    /// What is kept of jobs that run or are done, for a process that is about to end.
    pub(super) fn flush(&self) {
        let mut state = self.state();
        state.live = None;
        for number in 0..state.blocks.len() {
            if matches!(state.blocks[number].is, Is::Running | Is::Done) {
                state.show(number);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Shows what is done while no job has the screen, then gives it to the first that runs.
    fn turn(&mut self) {
        if self.live.is_some() {
            return;
        }
        for number in 0..self.blocks.len() {
            if self.blocks[number].is == Is::Done {
                self.show(number);
                self.blocks[number].is = Is::Shown;
            }
        }
        self.live = self.blocks.iter().position(|block| block.is == Is::Running);
        if let Some(live) = self.live {
            self.show(live);
        }
    }

    /// A block's title, and what is kept of it.
    fn show(&mut self, number: usize) {
        let Block { title, kept, .. } = &mut self.blocks[number];
        let kept = std::mem::take(kept);
        (self.print)(&format!("\n{} {}", ui::bold("##"), ui::bold(title)));
        kept.iter().for_each(|line| (self.print)(line));
    }
}

/// The output of one job; the job is over when it goes.
pub(super) struct Log<'a> {
    screen: &'a Screen,
    number: usize,
}

impl Log<'_> {
    /// A line, or several.
    pub(super) fn line(&self, line: &str) {
        let mut state = self.screen.state();
        if state.live == Some(self.number) {
            (state.print)(line);
        } else {
            state.blocks[self.number].kept.push(line.to_owned());
        }
    }

    /// Announces something that takes a while.
    pub(super) fn step(&self, text: &str) {
        self.line(&ui::step_line(text));
    }
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        // Printing may have panicked just now, because the reader went away; it must not do so a second time.
        if std::thread::panicking() {
            return;
        }
        let mut state = self.screen.state();
        let number = self.number;
        if state.live == Some(number) {
            state.live = None;
            state.blocks[number].is = Is::Shown;
        } else {
            state.blocks[number].is = Is::Done;
        }
        state.turn();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What is printed while `play` begins jobs, prints and ends them.
    fn printed(jobs: usize, play: impl FnOnce(&Screen)) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let print: Print = Box::new(move |line| sink.lock().unwrap().push(line.trim_start().to_owned()));
        let screen = Screen::new((0..jobs).map(|number| number.to_string()), print);
        play(&screen);
        let lines = lines.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn lines_of_one_job_are_together() {
        let lines = printed(3, |screen| {
            let (first, second) = (screen.begin(0), screen.begin(1));
            second.line("b1");
            first.line("a1");
            let third = screen.begin(2);
            third.line("c1");
            drop(third);
            second.line("b2");
            first.line("a2");
            drop(first);
            second.line("b3");
        });
        assert_eq!(lines, ["## 0", "a1", "a2", "## 2", "c1", "## 1", "b1", "b2", "b3"]);
    }

    #[test]
    fn lines_of_the_only_job_come_at_once() {
        let lines = printed(2, |screen| {
            let second = screen.begin(1);
            second.line("b");
            let first = screen.begin(0);
            first.line("a");
            screen.flush();
            drop((second, first));
        });
        assert_eq!(lines[..4], ["## 1", "b", "## 0", "a"].map(str::to_owned)[..4]);
    }
}
