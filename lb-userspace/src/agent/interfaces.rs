//! The interfaces that we are attached to, and those that we want to be attached to. When an interface that is gone
//! comes back, the agent attaches to it again; meanwhile everything else goes on.

use std::{collections::BTreeMap, io};

use lb_common::loss::Loss;
use log::Level;

use super::{egress::Port as AttachedPort, journal::Journal};
use crate::{
    api::{kind::Kind, view},
    config::spec::AttachMode,
    kernel::{egress::Passing, mend::Mended},
    net::device::Device,
};

/// How a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `native` or `generic`.
    pub mode: &'static str,
    /// Why the program is not in native mode, where the configuration asked for it.
    pub note: Option<String>,
}

/// What the agent does on the host in addition to writing the tables: the kernel, or a substitute in tests.
pub trait Host {
    /// Attaches the program to an interface, or replaces the program of an agent before us in place.
    ///
    /// # Errors
    /// Why it could not attach, in words that say what to do.
    fn attach(&mut self, interface: &str, mode: AttachMode) -> Result<Attached, String>;

    /// Takes the program off an interface; not an error when it is not there.
    fn detach(&mut self, interface: &str) -> Result<(), String>;

    /// Whether the program is still attached to an interface, as far as the kernel says.
    fn is_attached(&mut self, interface: &str) -> bool;

    /// Looks at every pin, and puts back the pins that are gone; none where nothing is pinned.
    fn mend_pins(&mut self) -> Vec<Mended> {
        Vec::new()
    }

    /// Bytes that the kernel accounts for the maps.
    fn memory(&self) -> &[(&'static str, u64)];

    /// How the program already runs on an interface: `native` or `generic`; `None` = it does not.
    fn running_mode(&self, interface: &str) -> Option<&'static str>;

    /// The properties of an interface.
    ///
    /// # Errors
    /// The kernel did not answer.
    fn device(&self, index: u32) -> io::Result<Device>;

    /// Puts `lb_pass` on an interface that packets leave by.
    ///
    /// # Errors
    /// Why it could not try.
    fn put_pass(&mut self, interface: &str) -> Result<Passing, String>;

    /// Takes `lb_pass` off again; not an error when it is not there.
    fn take_pass(&mut self, interface: &str) -> Result<(), String>;

    /// Interfaces on which `lb_pass` is, also from an agent before us.
    fn passes(&self) -> Vec<String>;

    /// Frames that were lost behind the program, by interface and error; `None` = losses are not counted.
    fn losses(&self) -> Option<BTreeMap<Loss, u64>>;
}

#[derive(Debug, Default)]
struct Port {
    index: Option<u32>,
    attached: Option<Attached>,
    /// Why the interface is not attached.
    trouble: Option<String>,
}

/// All interfaces of the configuration.
#[derive(Debug, Default)]
pub struct Interfaces {
    ports: BTreeMap<String, Port>,
    /// What the kernel last said of each interface that it was asked about, also before we wanted to attach there.
    seen: BTreeMap<String, Option<u32>>,
}

impl Interfaces {
    /// Attaches to the interfaces of `wanted`, and detaches from all others.
    pub fn set(&mut self, wanted: &[String], mode: AttachMode, host: &mut dyn Host, journal: &mut Journal) {
        let gone: Vec<_> = self.ports.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            self.ports.remove(&name);
            match host.detach(&name) {
                Ok(()) => {
                    journal.note(Kind::InterfaceDetached, name, "no longer in the configuration");
                }
                Err(error) => journal.note(Kind::InterfaceTrouble, name, error),
            }
        }
        for name in wanted {
            if !self.ports.contains_key(name) {
                let index = self.seen.get(name).copied().flatten();
                let port = self.ports.entry(name.clone()).or_insert(Port { index, ..Port::default() });
                attach(name, port, mode, host, journal);
            }
        }
    }

    /// Takes in that, according to the kernel, an interface has this index now, or is gone.
    pub fn seen(
        &mut self,
        name: &str,
        index: Option<u32>,
        mode: AttachMode,
        host: &mut dyn Host,
        journal: &mut Journal,
    ) {
        self.seen.insert(name.to_owned(), index);
        let Some(port) = self.ports.get_mut(name) else { return };
        let before = std::mem::replace(&mut port.index, index);
        if index.is_none() {
            if port.attached.take().is_some() || before.is_some() {
                let why = "the interface is gone; attached again when it is back";
                port.trouble = Some(why.to_owned());
                journal.note(Kind::InterfaceGone, name, why);
            }
        } else if port.attached.is_none() || before.is_some_and(|before| Some(before) != index) {
            attach(name, port, mode, host, journal);
        }
    }

    /// Checks that what was attached still is: another instance with `--force`, or an operator, may have taken it off.
    pub fn check(&mut self, host: &mut dyn Host, journal: &mut Journal) {
        for (name, port) in &mut self.ports {
            if port.attached.is_some() && !host.is_attached(name) {
                let why = "the program was taken off, and not by this agent";
                port.attached = None;
                port.trouble = Some(why.to_owned());
                journal.note(Kind::InterfaceLost, name, why);
            }
        }
    }

    /// Tries again what did not work before.
    pub fn retry(&mut self, mode: AttachMode, host: &mut dyn Host, journal: &mut Journal) {
        for (name, port) in &mut self.ports {
            // For an interface that a reload added, the kernel has said nothing yet: an attempt shows whether it exists.
            if port.attached.is_none() && (port.index.is_some() || !self.seen.contains_key(name)) {
                attach(name, port, mode, host, journal);
            }
        }
    }

    /// For the control socket.
    pub fn view(&self) -> Vec<view::Interface> {
        self.ports
            .iter()
            .map(|(name, port)| view::Interface {
                name: name.clone(),
                index: port.index,
                attached: port.attached.as_ref().map_or("detached", |attached| attached.mode).to_owned(),
                note: port.attached.as_ref().and_then(|a| a.note.clone()).or_else(|| port.trouble.clone()),
            })
            .collect()
    }

    /// Whether every interface has the program.
    pub fn are_attached(&self) -> bool {
        self.ports.values().all(|port| port.attached.is_some())
    }

    /// The interfaces that have the program, with the mode where it is not native.
    pub fn attached(&self) -> Vec<String> {
        let named = |(name, port): (&String, &Port)| match port.attached.as_ref()?.mode {
            "native" => Some(name.clone()),
            mode => Some(format!("{name} ({mode})")),
        };
        self.ports.iter().filter_map(named).collect()
    }

    /// Where we are attached, and how.
    pub(super) fn attached_ports(&self) -> Vec<AttachedPort> {
        let port = |(name, port): (&String, &Port)| {
            let attached = port.attached.as_ref()?;
            Some(AttachedPort { name: name.clone(), native: attached.mode == "native" })
        };
        self.ports.iter().filter_map(port).collect()
    }

    /// What keeps interfaces from being attached, one line each.
    pub fn troubles(&self) -> Vec<String> {
        let trouble = |(name, port): (&String, &Port)| {
            port.trouble.as_ref().map(|trouble| format!("interface {name}: {trouble}"))
        };
        self.ports.iter().filter_map(trouble).collect()
    }
}

fn attach(name: &str, port: &mut Port, mode: AttachMode, host: &mut dyn Host, journal: &mut Journal) {
    match host.attach(name, mode) {
        Ok(attached) => {
            let (level, message) = match &attached.note {
                None => (Level::Info, format!("in {} mode", attached.mode)),
                Some(note) => (Level::Warn, format!("in {} mode: {note}", attached.mode)),
            };
            journal.note_at(level, Kind::InterfaceAttached, name, message);
            *port = Port { index: port.index, attached: Some(attached), trouble: None };
        }
        Err(error) => {
            // Reported once, not at every attempt.
            if port.trouble.as_ref() != Some(&error) {
                journal.note(Kind::InterfaceTrouble, name, error.clone());
            }
            port.attached = None;
            port.trouble = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attaches to interfaces whose names begin with `eth`, and says of the interfaces in the second list that they lost
    /// their program.
    #[derive(Default)]
    struct Recorder(Vec<String>, Vec<String>);

    impl Host for Recorder {
        fn attach(&mut self, interface: &str, _: AttachMode) -> Result<Attached, String> {
            self.0.push(format!("+{interface}"));
            if interface.starts_with("eth") {
                Ok(Attached { mode: "native", note: None })
            } else {
                Err("no such interface".to_owned())
            }
        }

        fn detach(&mut self, interface: &str) -> Result<(), String> {
            self.0.push(format!("-{interface}"));
            Ok(())
        }

        fn is_attached(&mut self, interface: &str) -> bool {
            !self.1.iter().any(|lost| lost == interface)
        }

        fn memory(&self) -> &[(&'static str, u64)] {
            &[]
        }

        fn running_mode(&self, _: &str) -> Option<&'static str> {
            None
        }

        fn device(&self, _: u32) -> io::Result<Device> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn put_pass(&mut self, interface: &str) -> Result<Passing, String> {
            Err(format!("{interface} is not there"))
        }

        fn take_pass(&mut self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn passes(&self) -> Vec<String> {
            Vec::new()
        }

        fn losses(&self) -> Option<BTreeMap<Loss, u64>> {
            None
        }
    }

    #[test]
    fn a_removed_program_is_reported_and_attached_again() {
        let (mut host, mut journal, mut interfaces) = <(Recorder, Journal, Interfaces)>::default();
        interfaces.set(&["eth0".to_owned()], AttachMode::Auto, &mut host, &mut journal);
        interfaces.check(&mut host, &mut journal);
        assert_eq!(interfaces.view()[0].attached, "native");
        host.1.push("eth0".to_owned());
        interfaces.check(&mut host, &mut journal);
        assert_eq!(interfaces.view()[0].attached, "detached");
        assert_eq!(interfaces.troubles().len(), 1);
        host.1.clear();
        interfaces.retry(AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(interfaces.view()[0].attached, "native");
        let kinds: Vec<_> = journal.since(0).into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["interface_attached", "interface_lost", "interface_attached"]);
    }

    #[test]
    fn the_index_seen_before_attaching_counts_on_retry() {
        let (mut host, mut journal, mut interfaces) = <(Recorder, Journal, Interfaces)>::default();
        interfaces.seen("taken0", Some(7), AttachMode::Auto, &mut host, &mut journal);
        interfaces.set(&["taken0".to_owned()], AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(interfaces.view()[0].index, Some(7));
        interfaces.retry(AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(host.0, ["+taken0", "+taken0"]);
    }

    #[test]
    fn unwatched_interfaces_are_retried_missing_ones_not() {
        let (mut host, mut journal, mut interfaces) = <(Recorder, Journal, Interfaces)>::default();
        interfaces.seen("gone0", None, AttachMode::Auto, &mut host, &mut journal);
        let wanted = ["gone0".to_owned(), "new0".to_owned()];
        interfaces.set(&wanted, AttachMode::Auto, &mut host, &mut journal);
        interfaces.retry(AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(host.0, ["+gone0", "+new0", "+new0"]);
    }

    #[test]
    fn an_interface_back_with_a_new_index_is_attached() {
        let (mut host, mut journal, mut interfaces) = <(Recorder, Journal, Interfaces)>::default();
        interfaces.set(&["eth0".to_owned()], AttachMode::Auto, &mut host, &mut journal);
        interfaces.seen("eth0", Some(3), AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(host.0, ["+eth0"]);
        interfaces.seen("eth0", None, AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(interfaces.view()[0].attached, "detached");
        interfaces.seen("eth0", Some(9), AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(host.0, ["+eth0", "+eth0"]);
        assert_eq!(interfaces.view()[0].attached, "native");
        let kinds: Vec<_> = journal.since(0).into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["interface_attached", "interface_gone", "interface_attached"]);
    }

    #[test]
    fn trouble_is_said_once_and_tried_again() {
        let (mut host, mut journal, mut interfaces) = <(Recorder, Journal, Interfaces)>::default();
        interfaces.set(&["nope".to_owned()], AttachMode::Auto, &mut host, &mut journal);
        interfaces.seen("nope", Some(1), AttachMode::Auto, &mut host, &mut journal);
        interfaces.retry(AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(host.0.len(), 3);
        assert_eq!(journal.since(0).len(), 1);
        assert_eq!(interfaces.troubles(), ["interface nope: no such interface"]);
    }

    #[test]
    fn interfaces_that_left_the_configuration_are_detached() {
        let (mut host, mut journal, mut interfaces) = <(Recorder, Journal, Interfaces)>::default();
        interfaces.set(&["eth0".to_owned()], AttachMode::Auto, &mut host, &mut journal);
        interfaces.set(&["eth1".to_owned()], AttachMode::Auto, &mut host, &mut journal);
        assert_eq!(host.0, ["+eth0", "-eth0", "+eth1"]);
    }
}
