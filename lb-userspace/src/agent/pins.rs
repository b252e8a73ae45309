//! The pins, checked at each tick: the agent reports what is not as it should be, and mends what is its own.

use super::{Agent, interfaces::Host};
use crate::{
    config::words::plural,
    control::kind::Kind,
    dataplane::{Tables, mend::Mended},
};

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
