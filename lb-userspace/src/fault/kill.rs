//! The agent that kills itself, for tests from outside. The variable `LB_FAULT` says where:
//!
//! - a number: it makes so many writes, counted from the program's start, and dies before the next one;
//! - else a file of three 8-byte numbers, in the order of [`Word`], which the watching test may change at any time. It
//!   outlives the program, so the next one counts on.
//!
//! Without the variable nothing happens.

use std::{
    env,
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    sync::{LazyLock, Mutex, PoisonError},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Kind;

const VARIABLE: &str = "LB_FAULT";

/// What is where in the file.
#[derive(Clone, Copy)]
enum Word {
    /// Writes so far; of one that was killed, those it made.
    Passed = 0,
    /// So many it may make; it dies before the next one.
    Last = 1,
    /// What it died before, a [`Kind`].
    Before = 2,
}

enum Watch {
    Off,
    Number { passed: u64, last: u64 },
    File(File),
}

static WATCH: LazyLock<Mutex<Watch>> = LazyLock::new(|| Mutex::new(watch(env::var_os(VARIABLE))));

fn watch(given: Option<OsString>) -> Watch {
    let Some(given) = given else { return Watch::Off };
    if let Some(last) = given.to_str().and_then(|text| text.parse().ok()) {
        return Watch::Number { passed: 0, last };
    }
    match OpenOptions::new().read(true).write(true).open(&given) {
        Ok(file) => Watch::File(file),
        Err(error) => {
            // An agent that does not die where it has to would let a test pass.
            eprintln!("{VARIABLE}: {} is neither a number nor a file: {error}", given.display());
            std::process::exit(2)
        }
    }
}

/// To be called right before each write: counts it, or ends this program.
///
/// # Errors
/// Where the file cannot be read or written.
pub(crate) fn point(kind: Kind) -> io::Result<()> {
    // The thread that held it has panicked: the agent is as good as dead.
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *watch {
        Watch::Off => {}
        Watch::Number { passed, last } if passed == last => die(),
        Watch::Number { passed, .. } => *passed += 1,
        Watch::File(file) => {
            let passed = get(file, Word::Passed)?;
            if passed >= get(file, Word::Last)? {
                put(file, Word::Before, kind as u64)?;
                die();
            }
            put(file, Word::Passed, passed + 1)?;
        }
    }
    Ok(())
}

fn get(file: &File, word: Word) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, word as u64 * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn put(file: &File, word: Word, value: u64) -> io::Result<()> {
    file.write_all_at(&value.to_ne_bytes(), word as u64 * 8)
}

/// A process cannot catch, block or survive it.
fn die() -> ! {
    loop {
        // It cannot fail for a process of our own; then there is another try.
        let _sent = kill(Pid::this(), Signal::SIGKILL);
        std::thread::yield_now();
    }
}
