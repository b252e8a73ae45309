//! `lbctl service …` as typed. The options have the names of the configuration's keys.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every service, a line each
    #[command(after_help = "Examples:\n  lbctl service list")]
    List,
    /// One service with its ring and its backends
    #[command(after_help = "Examples:\n  lbctl service show web")]
    Show { service: String },
    /// Adds a service; it lasts over restarts, `config save` writes it into the file
    #[command(
        after_help = "Examples:\n  lbctl service add web --listen tcp/203.0.113.10:443 --health http --health-port 8080 \
                            --health-path /healthz\n  lbctl service add dns --listen 'udp/[2001:db8::10]:53' --health none\n  \
                            lbctl service add api --listen tcp/203.0.113.11:80 --health '{\"kind\": \"tcp\", \"fall\": 3}'"
    )]
    #[command(group = clap::ArgGroup::new("change").multiple(true))]
    Add {
        service: String,
        /// Protocol, virtual address and port, as in tcp/203.0.113.10:443; port 0 is every port
        #[arg(long, value_name = "PROTOCOL/ADDRESS:PORT")]
        listen: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// Changes fields of a service
    #[command(
        after_help = "Examples:\n  lbctl service set web --on-down hold\n  lbctl service set web --track always\n  lbctl service set web --hash source\n  lbctl service set web --track always --balance round-robin\n  lbctl service set web --health none\n  \
                      lbctl service set web --health-fall 5\n  \
                      lbctl service set web --unset on_down,health_body"
    )]
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        service: String,
        /// Protocol, virtual address and port
        #[arg(long, value_name = "PROTOCOL/ADDRESS:PORT", group = "change")]
        listen: Option<String>,
        #[command(flatten)]
        fields: Fields,
        /// Reset a field to its default; may be repeated
        #[arg(long, group = "change", value_name = "FIELD", value_delimiter = ',', value_parser = UNSET)]
        unset: Vec<String>,
    },
    /// Removes a service with its backends; its connections are cut
    #[command(after_help = "Examples:\n  lbctl service remove web")]
    Remove { service: String },
}

/// The keys of a service that have a default, and those of its health check.
const UNSET: [&str; 28] = [
    "encapsulation",
    "max_backends",
    "hold",
    "on_down",
    "all_down",
    "handover",
    "track",
    "hash",
    "balance",
    "ring",
    "slow_start",
    "min_healthy",
    "track_window",
    "udp_idle",
    "idle_after",
    "health",
    "health_port",
    "health_path",
    "health_host",
    "health_expect",
    "health_body",
    "health_interval",
    "health_fast_interval",
    "health_timeout",
    "health_rise",
    "health_fall",
    "health_verify",
    "health_ca",
];

#[derive(Args, Debug, Default)]
#[group(id = "fields", multiple = true)]
pub struct Fields {
    /// How packets travel to the backends
    #[arg(long, group = "change", value_parser = ["auto", "ipip", "ip6ip6", "ip6ip", "ipip6"])]
    pub encapsulation: Option<String>,
    /// How many backends the ring is planned for; without it, four times those that it has
    #[arg(long, group = "change", value_name = "N")]
    pub max_backends: Option<u32>,
    /// How long established flows stay at a backend that is down, as in 3s, or forever
    #[arg(long, group = "change", value_name = "DURATION|forever")]
    pub hold: Option<String>,
    /// What happens when no backend passes its check: the ring stays, or new flows are dropped
    #[arg(long, group = "change", value_parser = ["keep", "drop"])]
    pub all_down: Option<String>,
    /// How long backends that are no longer named serve on while no other one works, as in 30s
    #[arg(long, group = "change", value_name = "DURATION")]
    pub handover: Option<String>,
    /// What --hold was called before: move is 0s, hold is forever
    #[arg(long, group = "change", value_parser = ["move", "hold"])]
    pub on_down: Option<String>,
    /// Which flows are tracked
    #[arg(long, group = "change", value_parser = ["on-change", "always", "never"])]
    pub track: Option<String>,
    /// What chooses the slot of a packet: five-tuple, source, or source/24 for networks of clients
    #[arg(long, group = "change", value_name = "five-tuple|source[/BITS]")]
    pub hash: Option<String>,
    /// How a new flow finds its backend; all but hash need --track always
    #[arg(long, group = "change", value_parser = ["hash", "round-robin", "random", "least-connections"])]
    pub balance: Option<String>,
    /// Ring algorithm: how slots are assigned to the backends
    #[arg(long, group = "change", value_parser = ["maglev", "rendezvous"])]
    pub ring: Option<String>,
    /// How long a new or recovered backend takes to reach its whole weight, as in 30s
    #[arg(long, group = "change", value_name = "DURATION")]
    pub slow_start: Option<String>,
    /// With fewer backends up than that, health is ignored; a number, or a share as in 30%
    #[arg(long, group = "change", value_name = "N|N%")]
    pub min_healthy: Option<String>,
    /// TCP: how long a silent flow is remembered after a change, as in 1h
    #[arg(long, group = "change", value_name = "DURATION")]
    pub track_window: Option<String>,
    /// UDP: how long a silent flow is remembered after a change, as in 2m
    #[arg(long, group = "change", value_name = "DURATION")]
    pub udp_idle: Option<String>,
    /// After which silence of its client a flow counts for neither balancing nor a drain, as in 5m
    #[arg(long, group = "change", value_name = "DURATION")]
    pub idle_after: Option<String>,
    #[command(flatten)]
    pub health: Health,
}

/// The health check. `set` changes what is given of it, unless a kind is given, too.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Health check (--health KIND replaces all of it, the others change a part)")]
#[group(id = "health_fields", multiple = true)]
pub struct Health {
    /// tcp, http, https, none, default, or the check as a JSON object; with its kind it replaces the check there is
    #[arg(long, group = "change", value_name = "KIND|JSON")]
    pub health: Option<String>,
    /// Port to check
    #[arg(long, group = "change", value_name = "PORT")]
    pub health_port: Option<u16>,
    /// Path and query to ask for
    #[arg(long, group = "change", value_name = "PATH")]
    pub health_path: Option<String>,
    /// Host header and TLS server name
    #[arg(long, group = "change", value_name = "NAME")]
    pub health_host: Option<String>,
    /// Status codes that count as success, as in 200 or 200-299; may be repeated
    #[arg(long, group = "change", value_name = "CODES", value_delimiter = ',')]
    pub health_expect: Vec<String>,
    /// Text that must occur in the body
    #[arg(long, group = "change", value_name = "TEXT")]
    pub health_body: Option<String>,
    /// From one probe to the next, as in 1s
    #[arg(long, group = "change", value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// The same while a verdict is being made
    #[arg(long, group = "change", value_name = "DURATION")]
    pub health_fast_interval: Option<String>,
    /// A probe that takes longer has failed
    #[arg(long, group = "change", value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// Successes in a row that make a backend up
    #[arg(long, group = "change", value_name = "N")]
    pub health_rise: Option<u32>,
    /// Failures in a row that make it down
    #[arg(long, group = "change", value_name = "N")]
    pub health_fall: Option<u32>,
    /// https: check the certificate
    #[arg(long, group = "change")]
    pub health_verify: bool,
    /// https with --health-verify: PEM file with the roots to trust
    #[arg(long, group = "change", value_name = "FILE")]
    pub health_ca: Option<String>,
}
