//! The reader of our output may go away before the end (`cargo xtask doctor | head`). Then we end, too, without a word: what
//! is under way unwinds, so that a lab is taken away.

use std::panic::{self, AssertUnwindSafe};

/// The exit code then, as shells have it for a program that SIGPIPE ended.
pub const CLOSED: u8 = 128 + 13;

/// Runs `work`; `None` when the reader of our output went away in the middle. Other panics go on.
pub fn watch<T>(work: impl FnOnce() -> T) -> Option<T> {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload_as_str().is_some_and(is_closed) {
            usual(info);
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(payload) => {
            let message = payload.downcast_ref::<String>().map(String::as_str);
            if message.is_some_and(is_closed) { None } else { panic::resume_unwind(payload) }
        }
    }
}

/// Whether a panic is that of `println!` into a closed pipe.
fn is_closed(message: &str) -> bool {
    message.starts_with("failed printing to std") && message.contains("Broken pipe")
}
