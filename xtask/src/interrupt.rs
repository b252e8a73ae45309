//! Ctrl-C, SIGTERM and a closed terminal: the lab is taken away before the process ends.

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::lab;

/// From now on those signals take the lab away. Called before any other thread is started, so that all inherit the mask;
/// programs started on a node of the lab do not (`lab::Node::place` resets it for them).
pub fn take_away_lab(config: &lab::Config) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let config = config.clone();
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("\n{signal}: taking the lab away");
        if let Err(error) = lab::sweep_held(&config) {
            eprintln!("the lab is not wholly gone: {error:#}; `cargo xtask lab down` tries again");
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
