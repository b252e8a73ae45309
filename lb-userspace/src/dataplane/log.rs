//! The program's own log, for developers: records come through a ring buffer and go on to the agent's logger.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::sys;

/// Starts a thread that forwards records for as long as the process lives. A malformed record ends that thread and
/// nothing else.
pub(super) fn forward(ebpf: &mut Ebpf) -> Result<(), String> {
    let mut logger = EbpfLogger::init(ebpf).map_err(|error| error.to_string())?;
    let run = move || loop {
        if let Err(error) = sys::wait_readable(logger.as_fd()) {
            log::error!("the program's log ends: {error}");
            return;
        }
        logger.flush();
    };
    let thread = std::thread::Builder::new().name("bpf-log".to_owned()).spawn(run);
    thread.map(drop).map_err(|error| error.to_string())
}
