//! The program's own log, for developers: records come through a ring buffer and go to the agent's logger. The program
//! has only the numbers of its verdicts' counters; this module replaces the numbers by names.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya_log::EbpfLogger;
use lb_common::counter::{Counter, Kind};
use log::{Log, Metadata, Record};

use super::sys;

/// The text that the program writes before the number of a packet's counter.
const COUNTER: &str = "counter ";

/// Starts a thread that forwards records for as long as the process lives. A malformed record ends that thread only.
pub(crate) fn forward(ebpf: &mut Ebpf) -> Result<(), String> {
    let logger = EbpfLogger::init_with_logger(ebpf, Named(log::logger()));
    let mut logger = logger.map_err(|error| error.to_string())?;
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

/// A logger that replaces counter numbers by names and hands the record to another logger.
#[derive(Clone, Debug)]
pub struct Named<L>(pub L);

impl<L: Log> Log for Named<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        match named(&record.args().to_string()) {
            None => self.0.log(record),
            Some(text) => self.0.log(&record.to_builder().args(format_args!("{text}")).build()),
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The log line for a packet that a counter counted; `None` = the line is about something else.
fn named(line: &str) -> Option<String> {
    let number: usize = line.strip_prefix(COUNTER)?.parse().ok()?;
    let counter = Counter::ALL.get(number)?;
    // The names of the other counters say what happened to the packet.
    Some(match counter.kind() {
        Kind::Dropped => format!("dropped as {}", counter.name()),
        Kind::Forwarded | Kind::Passed | Kind::Answered | Kind::Event => counter.name().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_names_and_other_lines_stay() {
        assert_eq!(named("counter 8").as_deref(), Some("dropped as fragment"));
        assert_eq!(named("counter 4").as_deref(), Some("passed_not_service"));
        for line in ["counter", "counter 4000", "counter x", "10.0.0.1:1 -> 10.0.0.2:2 service 0 backend 7"] {
            assert_eq!(named(line), None, "{line}");
        }
    }
}
