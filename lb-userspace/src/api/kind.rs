//! The kinds of events: one definition for the agent that notes them, the log's levels, the filters of `lbctl events`
//! and the reference in `doc/events.md`. When an event is noted is for the agent to decide.

use std::fmt::Write;

use log::Level;

use crate::config::suggest;

/// What an event is about, which says how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The agent itself and its interfaces.
    Agent,
    /// The configuration: who changed what.
    Change,
    /// What services and backends do by themselves.
    State,
}

macro_rules! kinds {
    ($($variant:ident $name:literal $group:ident $level:ident $about:literal,)*) => {
        /// The kind of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($variant,)* }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word on the control socket and in the log.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub const fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)* }
            }

            /// The level of its line in the log, unless `about` says otherwise.
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)* }
            }

            /// One sentence for the reference.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

kinds! {
    Started "started" Agent Info "The agent began to serve this instance.",
    Stopping "stopping" Agent Info "The agent ends, and says what becomes of the data path.",
    InterfaceAttached "interface_attached" Agent Info
        "The program is attached to the interface; a warning where the message has a note, for example on generic mode.",
    InterfaceDetached "interface_detached" Agent Info "The interface left the configuration.",
    InterfaceGone "interface_gone" Agent Error "The interface is gone; it is attached again when it is back.",
    InterfaceLost "interface_lost" Agent Error
        "The program was taken off the interface, and not by this agent; it is attached again when it can be.",
    InterfaceTrouble "interface_trouble" Agent Error "The program cannot be attached or taken off.",
    InterfaceMerges "interface_merges" Agent Warn
        "Packets are merged before the program sees them in the generic path, with the commands that end it.",
    ServiceAddress "service_address" Agent Warn
        "The host sends on what no service takes, or drops what is its own (see `node.unserved`), or a service has an address that \
         the host itself speaks from.",
    EgressProgram "egress_program" Agent Info
        "`lb_pass` is put on an interface that next hops leave by, or taken off; a warning where the driver takes no program.",
    EgressTrouble "egress_trouble" Agent Error "`lb_pass` cannot be put on an interface or taken off.",
    PinsMended "pins_mended" Agent Warn "Pins were gone, and are there again: another tool took them away.",
    PinsTrouble "pins_trouble" Agent Error "Pins are gone or of another object: a restart would not take over what runs.",
    ManagementMended "management_mended" Agent Warn
        "The control socket, its group, the lock file or the scrape address was not as it should be, and is again.",
    ManagementTrouble "management_trouble" Agent Error
        "The control socket, its group, the lock file or the scrape address is not as it should be; packets are not concerned; tried \
         again every 5 s.",
    ApplyFailed "apply_failed" Agent Error "A map could not be written.",
    RefreshFailed "refresh_failed" Agent Error
        "The maps could not be brought in line with what was observed; tried again every 5 s.",
    Changed "changed" Change Info "The configuration was changed: which user did it, and what that changed.",
    ChangeRefused "change_refused" Change Warn "A change that a client asked for was refused; nothing was changed.",
    ConfigRefused "config_refused" Change Error "A file was refused; what ran before goes on.",
    ConfigFallback "config_fallback" Change Error
        "The file was refused at the start; what was in force last is used, until a file is applied that is not.",
    ConfigNeedsRestart "config_needs_restart" Change Warn "A setting takes effect when the agent starts again.",
    ConfigUnconfirmed "config_unconfirmed" Change Warn "A configuration waits for its confirmation.",
    ConfigConfirmed "config_confirmed" Change Info "The configuration that waited stays.",
    ConfigRolledBack "config_rolled_back" Change Warn "The configuration before is back.",
    RollbackFailed "rollback_failed" Change Error "Going back failed; tried again every 5 s.",
    BackendUp "backend_up" State Info "The backend takes new flows.",
    BackendsUp "backends_up" State Info
        "Backends passed their first check: one event a second instead of one for each backend.",
    BackendDown "backend_down" State Warn
        "The health check fails; info where the backend was down less than 60 s before already (it flaps).",
    BackendUnresolved "backend_unresolved" State Warn "The next hop of the backend is not known, or leaves by an interface that cannot send XDP frames.",
    BackendWaiting "backend_waiting" State Warn
        "The backend is not in the maps yet: all numbers are taken, some of them by what was removed a moment ago; tried again \
         every 5 s.",
    NextHopChanged "next_hop_changed" State Info
        "Packets to a backend leave another way, to another hardware address or with another MTU than before.",
    BackendDraining "backend_draining" State Info "The backend keeps its flows and takes no new ones.",
    BackendDisabled "backend_disabled" State Info "The operator took the backend out.",
    BackendChecking "backend_checking" State Info "The backend has no verdict any more: its health check changed.",
    ServiceWithoutBackend "service_without_backend" State Error
        "No backend of the service is usable: new flows are dropped as `no_backend`.",
    ServiceUsable "service_usable" State Info "A service that had no usable backend has one again.",
    ChecksLate "checks_late" State Warn
        "Health checks of a service begin later than they are due, so that a dead backend is out later.",
    ChecksInTime "checks_in_time" State Info "Health checks of a service that were late are in time again.",
    HealthIgnored "health_ignored" State Error "Fewer backends than `min_healthy` are healthy: health is ignored.",
    CorrelatedFailure "correlated_failure" State Error
        "So many backends failed at once that the cause is more likely here: their failing checks are not believed, and rings stay.",
    CorrelatedFailureOver "correlated_failure_over" State Info "Failing checks are believed again.",
    ServiceFailing "service_failing" State Error
        "No backend of the service passes its check: the ring stays as it was, and flows go on to backends that may not work.",
    ServiceWorks "service_works" State Info "A backend of the service passes its check again.",
    HandoverBegins "handover_begins" State Warn
        "Backends that the configuration no longer names serve on, since none of those it names is known to work.",
    HandoverEnds "handover_ends" State Info "No backend of a configuration before serves on any more.",
    LearningProlonged "learning_prolonged" State Warn
        "The flow table was full and lost records, so slots learn for longer than `track_window`, at most twice as long.",
    HealthCountsAgain "health_counts_again" State Info "Enough backends are healthy again.",
}

impl Kind {
    /// The kind of this name.
    ///
    /// # Errors
    /// What is wrong, with the nearest name there is.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            let nearest = suggest::nearest(name, names.iter().copied());
            let hint = nearest
                .map_or_else(|| format!("known are {}", names.join(", ")), |n| format!("did you mean {n}?"));
            format!("unknown kind of event {name:?}; {hint}")
        })
    }
}

const HEAD: &str = "\
# Events and the log

Generated from the definitions in `src/api/kind.rs` by
`cargo xtask docs`; a test fails when it is out of date.

Each event is kept in the agent's memory for `lbctl events` (`GET /v1/events`), and is one line in the log of `lbd`. The agent
keeps the last 4,096 events on states of services and backends and the last 1,024 others, so that a backend that flaps
pushes out no record of who changed what. In addition it keeps the last 16 events of each backend, which other backends do not
push out, and those of the last 256 backends that were removed: `lbctl events --object web/web-1`. Among them are its first check
that passed, and what each change of the configuration was for this backend, by a file, too.

More than eight events of a kind within a second are one line a second in the log, and after ten such lines one line in
ten seconds; the events themselves are all kept. Changes of the configuration are always a line each. Backends that pass
their first check are one event a second.

The levels:

- **error**: traffic is lost, or what was asked for is not done. Page the operator.
- **warn**: something is wrong, and the balancer copes with it.
- **info**: something changed as it should, or came back.
- **debug**: for developers (`--log debug`).

| kind | level | kept with | meaning |
|---|---|---|---|
";

/// The whole page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for kind in Kind::ALL {
        let level = kind.level().as_str().to_lowercase();
        let group = match kind.group() {
            Group::State => "states",
            Group::Agent | Group::Change => "others",
        };
        // Writing to a string does not fail.
        let _ = writeln!(page, "| `{}` | {level} | {group} | {} |", kind.name(), kind.about());
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::documents;

    #[test]
    fn generated_page_is_current() {
        documents::assert_current("events.md", &markdown());
    }

    #[test]
    fn names_are_unique_and_found() {
        let names: HashSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.name()), Ok(*kind));
        }
    }

    #[test]
    fn a_mistyped_kind_gets_the_nearest_one() {
        let message = Kind::parse("backend_dwon").unwrap_err();
        assert_eq!(message, "unknown kind of event \"backend_dwon\"; did you mean backend_down?");
        assert!(Kind::parse("zzz").unwrap_err().contains("known are started, stopping"));
    }
}
