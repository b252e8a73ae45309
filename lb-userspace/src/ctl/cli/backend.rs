//! `lbctl backend …` as typed.

use std::{net::IpAddr, time::Duration};

use clap::{Args, Subcommand, ValueEnum, builder::PossibleValuesParser};

use super::{
    monitor::{Selection, Watch},
    select::Select,
    value::{self, Weight},
};
use crate::{
    api::view,
    config::{spec::Admin, words::Word as _},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Backends of a service, or of all
    ///
    /// A pattern or a filter that nothing fits ends with 5.
    #[command(visible_alias = "ls")]
    #[command(after_help = "Examples:\n  lbctl backend list\n  lbctl backend list web\n  \
                            lbctl backend list 'web/*' --down --sort packets --top 20\n  \
                            lbctl backend list --attention -o name\n  lbctl -o csv backend list > backends.csv")]
    List {
        #[command(flatten)]
        select: Select<view::Backend>,
        #[command(flatten)]
        watch: Watch,
    },
    /// One backend
    #[command(after_help = "Examples:\n  lbctl backend show web/web-1\n  lbctl backend show web web-1")]
    Show(Target),
    /// The last changes of one backend, why and when: states, checks, weight, who changed it
    ///
    /// The agent keeps the last 16 of each backend since it was started, whatever the others do, and those of backends that
    /// were removed for a while. With -o json one object a line. lb-userspace/doc/events.md lists the kinds.
    #[command(after_help = "Examples:\n  lbctl backend events web/web-1\n  \
                            lbctl backend events web/web-1 --limit 1\n  \
                            lbctl backend events web web-1 --follow --kind backend_up,backend_down\n  \
                            lbctl -o json backend events web/web-1 --since 1h | jq -r .message")]
    Events {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        selection: Selection,
    },
    /// Adds a backend; it lasts over restarts, `config save` writes it into the file
    #[command(after_help = "Examples:\n  lbctl backend add web web-4 --address 10.0.0.14\n  \
                            lbctl backend add web/web-5 --address 10.0.0.15 --weight 50")]
    Add {
        #[command(flatten)]
        target: Target,
        /// Where the outer header sends packets
        #[arg(long)]
        address: IpAddr,
        /// Share of new flows, 0 to 1000 [default: 100]
        #[arg(long, value_name = "N", value_parser = value::whole_weight)]
        weight: Option<u16>,
        /// Its state from the beginning [default: enabled]
        #[arg(long, value_parser = states())]
        state: Option<String>,
    },
    /// Changes weight or state
    #[command(after_help = "Examples:\n  lbctl backend set web/web-1 --weight 50%\n  \
                            lbctl backend set web/web-1 --weight 100 --state enabled")]
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        #[command(flatten)]
        target: Target,
        /// Share of new flows, 0 to 1000, or a share of the weight in the file as in 50%; 0 = no new ones, old ones go on
        #[arg(long, group = "change", value_name = "N|N%", value_parser = value::weight)]
        weight: Option<Weight>,
        #[arg(long, group = "change", value_parser = states())]
        state: Option<String>,
        #[command(flatten)]
        last: Last,
    },
    /// No new flows; those there are go on
    ///
    /// With --wait: until no live flow has been tracked for it for the time of --settle. Flows that have sent nothing
    /// for idle_after are not waited for. Ends with 3 when
    /// --timeout passes before; the backend goes on draining then, and also when the wait is interrupted.
    ///
    /// This is one balancer's word. Where several balancers send to the backend, drain it on every one of them and wait for
    /// all: the others go on sending it new connections, which a reboot would cut.
    #[command(after_help = "Examples:\n  lbctl backend drain web/web-1\n  \
                            lbctl backend drain web/web-1 --wait --timeout 30m && ssh web-1 systemctl stop nginx\n  \
                            lbctl backend drain web/web-1 --wait --settle 2m --then remove")]
    Drain {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        last: Last,
    },
    /// Ends a drain: new flows again
    #[command(after_help = "Examples:\n  lbctl backend undrain web/web-1")]
    Undrain(Target),
    /// Ends a drain or a disable
    #[command(after_help = "Examples:\n  lbctl backend enable web/web-1")]
    Enable(Target),
    /// No flows at all, at once: those there are get cut
    #[command(after_help = "Examples:\n  lbctl backend disable web/web-1")]
    Disable {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        last: Last,
    },
    /// Removes a backend; what flows it has are cut, so drain it first
    #[command(visible_alias = "rm")]
    #[command(
        after_help = "Examples:\n  lbctl backend drain web/web-1 --wait && lbctl backend remove web/web-1"
    )]
    Remove {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        last: Last,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Last {
    /// Also where it is the last usable backend of its service, whose new flows are dropped then
    #[arg(long)]
    pub force: bool,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(Admin::WORDS.iter().map(|(word, _)| *word))
}

/// A backend: `web/web-1` or `web web-1`.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The backend, or its service with the backend's name after it
    #[arg(value_name = "SERVICE/BACKEND")]
    first: String,
    #[arg(value_name = "BACKEND", hide = true)]
    second: Option<String>,
}

impl Target {
    /// Service and backend. A `/` occurs in no name, so the first one parts them.
    pub fn names(&self) -> Result<(&str, &str), String> {
        let names = match &self.second {
            Some(second) => Some((self.first.as_str(), second.as_str())),
            None => self.first.split_once('/'),
        };
        names
            .filter(|(s, b)| !s.is_empty() && !b.is_empty() && !b.contains('/') && !s.contains('/'))
            .ok_or_else(|| {
                let given = [Some(self.first.as_str()), self.second.as_deref()];
                let given = given.into_iter().flatten().collect::<Vec<_>>().join(" ");
                format!("`{given}` is not a valid backend name; write SERVICE/BACKEND, as in web/web-1")
            })
    }
}

#[derive(Args, Clone, Debug)]
pub struct Wait {
    /// Wait until no live flow is left
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most
    #[arg(long, requires = "wait", default_value = "10m", value_name = "DURATION", value_parser = value::duration)]
    pub timeout: Duration,
    /// How long no live flow must have been seen
    #[arg(long, requires = "wait", default_value = "15s", value_name = "DURATION", value_parser = value::duration)]
    pub settle: Duration,
    /// What to do with the backend afterwards
    #[arg(long, requires = "wait", value_name = "WHAT")]
    pub then: Option<Then>,
}

/// What follows a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Then {
    /// Remove it once it is drained; at the deadline it is left draining
    Remove,
    /// Remove it once it is drained or the deadline passes, which cuts the flows that are left
    RemoveAtDeadline,
}
