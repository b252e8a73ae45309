//! The pins, checked at each tick: the agent reports what is not as it should be, and mends what is its own.

use super::{Agent, interfaces::Host};
use crate::{api::kind::Kind, config::words::plural, kernel::mend::Mended, tables::Tables};

/// Logged at the start of an agent whose pins are mounted for its mount namespace alone.
pub(super) const NOT_LASTING: &str = "this mount namespace (made by `ip netns exec`, `unshare` or a container) has a bpf \
    file system of its own: maps and program go with its last process, so the data path does not outlive the agent; enter \
    the network namespace alone (`nsenter --net=/run/netns/NAME lbd …`), or mount the host's /sys/fs/bpf here";

impl<T: Tables + Host> Agent<T> {
    pub(super) fn look_at_pins(&mut self) {
        let (mut again, mut wrong) = (Vec::new(), Vec::new());
        for mended in self.reconciler.tables_mut().mend_pins() {
            match mended {
                Mended::Again(what) => again.push(what),
                Mended::Not(why) => wrong.push(why),
            }
        }
        if let Some(first) = again.first() {
            let pins = plural(again.len() as u64, "pin was", "pins were");
            let message = format!("{pins} removed by another process and put back: {first}");
            self.journal.note(Kind::PinsMended, self.instance.clone(), message);
        }
        self.pins.mend(again.len());
        for why in self.pins.look(wrong).begins {
            self.journal.note(Kind::PinsTrouble, self.instance.clone(), why);
        }
    }
}
