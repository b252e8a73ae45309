//! A health check: what is asked, and its settings, those of `[health]`, which are the defaults of all services, and of the
//! `health` of one. All that the configuration has of a kind of check is here; the question itself is in `health/probe`.

mod dns;
mod exec;
mod grpc;
mod http;
mod kinds;
mod udp;

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

#[cfg(test)]
use proptest::prelude::*;

use crate::config::{
    settings::{
        Fields, Form, settings,
        values::{Own, array, booleans, durations, maybe, numbers, quoted, text, words},
    },
    value,
    words::{Word, duration},
};

pub use self::{
    dns::{Code, DnsProbe, RecordType, Transport},
    exec::ExecProbe,
    grpc::GrpcProbe,
    http::{HttpProbe, TlsProbe},
    kinds::Scheme,
    udp::{Bytes, UdpProbe},
};
pub(in crate::config) use self::{
    kinds::{kinds, over_udp, takes},
    udp::QUIET_INTERVAL,
};

const HOUR: Duration = Duration::from_secs(3600);
const FAST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    pub probe: Probe,
    /// Port to probe; where the file does not set one, it is the service's port. 0 = the probe has none.
    pub port: u16,
    pub interval: Duration,
    /// Between probes while the state may be changing: after the first result (failure or success) that differs from the state.
    pub fast_interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that make a backend up; at least 1.
    pub rise: u32,
    /// Failures in a row that make a backend down; at least 1.
    pub fall: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    Dns(DnsProbe),
    /// The host answers an echo request. Has no port.
    Icmp,
    /// The connection is accepted.
    Tcp,
    Http(HttpProbe),
    /// A datagram is answered as expected, or at least not refused.
    Udp(UdpProbe),
    /// An agent on the backend says how it is; what is sent first.
    AgentCheck(Bytes),
    Grpc(GrpcProbe),
    /// A command says how it is by its exit code.
    Exec(ExecProbe),
}

impl Probe {
    /// Whether silence is a reason to ask again within the time of the probe.
    pub fn asks_again(&self) -> bool {
        !matches!(self, Self::Udp(UdpProbe { reply: None, .. }) | Self::Exec(_))
    }

    /// Whether an answer may say something of the backend's weight, or that it wants no new flows.
    pub fn speaks(&self) -> bool {
        matches!(self, Self::AgentCheck(_) | Self::Exec(_))
    }

    /// What an HTTPS or gRPC probe checks of the certificate; `None` = the probe speaks no TLS.
    pub fn tls(&self) -> Option<&TlsProbe> {
        match self {
            Self::Http(http) => http.tls.as_ref(),
            Self::Grpc(grpc) => grpc.tls.as_ref(),
            _ => None,
        }
    }
}

/// In one line: `http port 8080 path /healthz every 1s`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Check::from(self).kind.word())?;
        match &self.probe {
            Probe::Dns(dns) => {
                write!(f, " port {} name {} type {}", self.port, dns.name, dns.record.word())?;
            }
            Probe::Icmp => {}
            Probe::Exec(exec) => write!(f, " {}", exec.command.first().map_or("", String::as_str))?,
            Probe::Tcp | Probe::Udp(_) | Probe::AgentCheck(_) => write!(f, " port {}", self.port)?,
            Probe::Grpc(grpc) if grpc.service.is_empty() => write!(f, " port {}", self.port)?,
            Probe::Grpc(grpc) => write!(f, " port {} service {}", self.port, grpc.service)?,
            Probe::Http(http) => write!(f, " port {} path {}", self.port, http.path)?,
        }
        write!(f, " every {}", duration(self.interval))
    }
}

settings! {
    #[derive(Clone, Debug)]
    pub(in crate::config) struct Check;

    table HEALTH = "[health]", "How backends are checked. The same keys stand in `[health]`, where they are the defaults for all services, and \
            in the `health` of a service. A service that has no `health` is checked by the defaults, on its own port; one \
            that has no port of its own to check (UDP, or port 0) is checked only where `port` says where, or where the check needs no port. \
            `health = false` at the top of the file turns checks off for services without a `health` of their own.\n\n\
            With the default times a backend that refuses connections is out within 0.7 s, and one that does not answer at \
            all within 1.7 s.\n\n\
            `http` and `https` judge the status, and take what curl takes: lines that end with LF alone, fields with a blank \
            before the colon or folded ones, a status line in small letters, with more blanks, without a reason or with another \
            version. Interim answers (100, 103) are skipped, redirects are not followed. What counts is the answer, also where \
            the server gives it before it has read the request, or resets the connection behind it. The head of an answer, \
            interim answers included, may have 300 KiB.\n\n\
            `https` speaks TLS 1.2 and 1.3, with the ciphers AES-GCM and ChaCha20-Poly1305 and an ephemeral key exchange on \
            X25519, P-256, P-384 or P-521. It names the server (SNI) where `host` is a name, offers `http/1.1` (ALPN), resumes \
            no session and has no client certificate. With `verify` it takes X.509 certificates of version 3 whose \
            subjectAltName has the host (the common name does not count) and whose chain is signed by RSA keys of 2048 to \
            8192 bits (PKCS #1 or PSS, SHA-256 to SHA-512), ECDSA keys on P-256 or P-384 (SHA-256, SHA-384) or P-521 (SHA-256 \
            to SHA-512), or Ed25519 keys. A signature by P-521 costs 1.3 ms of processor time, where the others cost a tenth of that. \
            Revocation is not asked about. A refusal names the cause: self-signed, missing \
            intermediate or unknown CA, expired and when, for which other names the certificate is.\n\n\
            `icmp` says that the host is there, whatever its services do: for services without a port to connect to. An ICMP error \
            (unreachable, hop limit exceeded) fails it at once, and the reason has its code and its sender. It needs a datagram ICMP \
            socket, which the sysctl `net.ipv4.ping_group_range` gives to lbd's group, or else `CAP_NET_RAW`; without both the \
            check is not made, and `status` says so.\n\n\
            `dns` asks with recursion desired and without EDNS; a service on UDP is asked on its own port, too. By default it asks for \
            the SOA of the root, which every resolver has; a server that knows only its own zones refuses that, so `name` one of \
            them. An answer over UDP that is cut off is asked for again over TCP. Answers with another identifier are passed over; \
            one to another question, a broken one, and a query that comes back fail the check.\n\n\
            `udp` sends `payload` in one datagram, to the service's own port by default, and waits for an answer that has `reply` in \
            it. Without `reply` no answer is waited for: the check passes unless an ICMP error (port, host or network unreachable) \
            comes within `timeout`, so a host that is off, or whose firewall drops the datagrams, passes, too. Hosts report a closed \
            port about once a second, so such a check needs an `interval` of at least 2 s.\n\n\
            `agent-check` asks an agent on the backend, on a `port` of its own, by HAProxy's protocol: the agent answers a connection with \
            one line of words, in any case, with blanks or commas between them. `up`: it works. `down`, `stopped`, `fail` or `failed`, \
            with a reason behind `#`: it does not. `drain` or `maint`: it wants no new flows and keeps those that it has; `ready`: it \
            takes new flows again. `75%`: its weight is that part of the configured one (at most 1000 in all; `0%` is as `drain`); \
            differences of less than 5 are passed over. `maxconn:` is passed over. What the line does not mention stays as it was, \
            and a first line without `up` or `down` means `up`. An agent that is not there, is silent, or says another word changes \
            nothing at all, and `status` says so; a host that is not there fails the check. What the operator says goes first: \
            `ready` ends no drain of `lbctl`. If without those that want none no backend were left to take new flows, they take them \
            (unless `all_down = \"drop\"`).\n\n\
            `grpc` makes the call `grpc.health.v1.Health/Check` over HTTP/2 without TLS, `grpcs` with TLS, of which holds what is said \
            of `https` (but ALPN offers `h2`). `SERVING` passes; every other state, a service that the server does not know, and a \
            server without that call fail, and the reason says which. The head of an answer may have 16 KiB, its message 1 KiB.\n\n\
            `exec` runs `command` as `user`. Exit code 0 passes, and another one fails the check, with the first line of its output as \
            the reason. A first line such as `75%` together with code 0 asks for that part of the weight, as an agent does. The \
            environment is cleared but for `LB_ADDRESS`, `LB_PORT` (where there is a port) and `LB_TIMEOUT_MS`; the input is empty, the \
            directory `/`. No shell reads the command, and it gets no more rights (`no_new_privs`). At the `timeout`, and at its own \
            end, all processes of its group are killed. At most 32 commands run at once, over all services. What is wrong with the \
            command itself (not there, not executable, ended by a signal, more than 64 KiB of output) leaves the verdict alone, and \
            `status` says so. A command and its user come into force with the file only: over the control socket they cannot be set.";

    parts {}

    "kind" (kind: Scheme = Scheme::Tcp) {
        values: words(),
        about: "`tcp`: the connection is accepted. `http`, `https`: a GET is answered as `expect` and `body` say. \
             `icmp`: an echo request is answered. `dns`: a query is answered as `code` and `answer` say. `udp`: a datagram is \
             answered as `reply` says, or is not refused. `agent-check`: an agent on the backend says how it is. \
             `grpc`, `grpcs`: gRPC's own health check says `SERVING`. `exec`: a command ends with code 0.",
    }

    "port" (
        /// `None` = that of the service.
        port: Option<u16> = None
    ) {
        values: maybe(numbers(1..=65_535).called("PORT")),
        about: "Port to check. Needed where the service has none of its own; `icmp` has none.",
        lbctl: "Port to check",
        default: "the service's port",
    }

    "path" (path: String = "/".to_owned()) {
        values: text("PATH", http::path, "/[!-~]{0,20}"),
        about: "`http`, `https`: path and query to ask for.",
        lbctl: "Path and query to ask for",
    }

    "host" (
        /// `None` = the backend's address.
        host: Option<String> = None
    ) {
        values: maybe(text("NAME", http::host, "[a-z.]{1,20}")),
        about: "`http`, `https`: `Host` header, and server name of TLS; `grpc`, `grpcs`: the authority, and the same.",
        lbctl: "Host header and TLS server name",
        default: "the backend's address",
    }

    "expect" (expect: Vec<RangeInclusive<u16>> = vec![200..=399]) {
        values: Own {
            takes: "code, \"from-to\", or an array of both".to_owned(),
            form: Form::List("CODES"),
            parse: |node| http::codes(node).map(|range| vec![range]),
            show: |ranges| Some(array(ranges.iter().map(http::show_codes))),
            #[cfg(test)]
            any: || {
                let codes = (100u16..=400, 0u16..=150).prop_map(|(from, more)| vec![from..=from + more]);
                prop_oneof![codes, Just(vec![200..=200, 204..=299, 404..=404])].boxed()
            },
        },
        about: "`http`, `https`: status codes that count as success: `200`, `\"200-299\"`, `[200, \"301-302\"]`.",
        lbctl: "Status codes that count as success, as in 200 or 200-299; may be repeated",
        read: |reader, check| check.expect = http::expect(reader).unwrap_or_else(|| check.expect.clone()),
    }

    "body" (
        /// `None` = the body is not read.
        body: Option<String> = None
    ) {
        values: maybe(text("TEXT", |node| value::text(node, 1024), "[^\\p{Cc}]{1,20}")),
        about: "`http`, `https`: text that must occur in the first 64 KiB of the body. Without it the body is not read.",
        lbctl: "Text that must occur in the body",
    }

    "name" (name: String = ".".to_owned()) {
        values: text("NAME", dns::name, "[a-z0-9_-]{1,9}(\\.[a-z]{1,9}){0,3}\\.?"),
        about: "`dns`: name to ask for.",
        lbctl: "dns: name to ask for",
    }

    "type" (record: RecordType = RecordType::Soa) {
        values: words(),
        about: "`dns`: type of the record to ask for.",
        lbctl: "dns: type of the record to ask for",
    }

    "code" (code: Code = Code::NoError) {
        values: words(),
        about: "`dns`: code that the answer must have. `any`: it is enough that the server answers. `noerror` is also that of an answer \
             without records.",
        lbctl: "dns: code that the answer must have",
    }

    "answer" (
        /// `None` = the records do not matter.
        answer: Option<String> = None
    ) {
        values: maybe(text("TEXT", |node| value::text(node, 255), "[^\\p{Cc}]{1,20}")),
        about: "`dns`: what one record of that type must say, as a zone file has it: `\"192.0.2.1\"`, `\"10 mail.example.\"`; of a SOA the primary server. Without it \
             the records do not matter.",
        lbctl: "dns: what a record of the answer must say, as in 192.0.2.1",
    }

    "transport" (transport: Transport = Transport::Udp) {
        values: words(),
        about: "`dns`: how to ask. `both`: over UDP, then over TCP, and both must answer.",
        lbctl: "dns: how to ask",
    }

    "payload" (payload: Bytes = Bytes::default()) {
        values: udp::values(),
        about: "`udp`, `agent-check`: what is sent: text, or `hex:` and pairs of digits, as in `\"hex:0a0b\"`. By default an empty datagram, and nothing to an \
             agent.",
        lbctl: "udp, agent-check: what is sent, as text or hex:0a0b",
    }

    "reply" (
        /// `None` = no answer is waited for.
        reply: Option<Bytes> = None
    ) {
        values: maybe(udp::values()),
        about: "`udp`: what the first 4 KiB of the answer must have in them, written as `payload` is. `\"\"`: any answer will do. Without it \
             none is waited for.",
        lbctl: "udp: what the answer must have in it; \"\" = any answer",
    }

    "service" (service: String = String::new()) {
        values: text("NAME", grpc::service, "[a-zA-Z0-9_.]{0,20}"),
        about: "`grpc`, `grpcs`: the service to ask about, as in `\"example.v1.Shop\"`. By default the server as a whole.",
        lbctl: "grpc: the service to ask about",
    }

    "command" (
        /// Empty = it is missing.
        command: Vec<String> = Vec::new()
    ) {
        values: exec::command(),
        about: "`exec`: the command, as in `[\"/usr/lib/lb/check\", \"quick\"]`.",
    }

    "user" (user: Option<String> = None) {
        values: maybe(text("USER", exec::user, "[a-z]{1,9}")),
        about: "`exec`: the user of this host that runs it, without other groups than its own. Not root.",
    }

    "interval" (interval: Duration = Duration::from_millis(500)) {
        values: durations(Duration::from_millis(100)..=HOUR),
        about: "From one probe of a backend to the next.",
        lbctl: "From one probe to the next, as in 1s",
    }

    "fast_interval" (
        /// `None` = the default, cut to the interval.
        fast_interval: Option<Duration> = None
    ) {
        values: maybe(durations(Duration::from_millis(50)..=HOUR)),
        about: "The same while a verdict is being made: after a result that differs from the verdict so far. At most \
             `interval`; the default is cut to it.",
        lbctl: "The same while a verdict is being made",
        default: "\"100ms\"",
    }

    "timeout" (timeout: Duration = Duration::from_millis(500)) {
        values: durations(Duration::from_millis(10)..=Duration::from_secs(60)),
        about: "A probe that takes longer has failed. One that hears nothing asks again meanwhile over connections of its own, after \
             each sixth of it (after each third where it is connected), so that lost packets are no failure.",
        lbctl: "A probe that takes longer has failed",
    }

    "rise" (rise: u32 = 2) {
        values: numbers(1..=100),
        about: "Successes in a row that make a backend up.",
        lbctl: "Successes in a row that make a backend up",
    }

    "fall" (fall: u32 = 2) {
        values: numbers(1..=100),
        about: "Failures in a row that make it down.",
        lbctl: "Failures in a row that make it down",
    }

    "verify" (verify: bool = false) {
        values: booleans(),
        about: "`https`, `grpcs`: check the certificate's chain and name. Off by default, since a probe asks whether the backend works.",
        lbctl: "https, grpcs: check the certificate",
    }

    "ca" (ca: Option<PathBuf> = None) {
        values: maybe(Own {
            takes: "absolute path".to_owned(),
            form: Form::Text("FILE"),
            parse: value::absolute_path,
            show: |path| Some(quoted(path.display())),
            #[cfg(test)]
            any: || "/[a-z/]{1,20}".prop_map(PathBuf::from).boxed(),
        }),
        about: "`https`, `grpcs` with `verify`: PEM file with the roots to trust, or with the server's own certificate. Without it: the \
             public web's roots. A file without a certificate is refused. It is read again with the configuration; where \
             that fails, what was read before is used on, and `status` says so.",
        lbctl: "https, grpcs with --health-verify: PEM file with the roots to trust",
    }
}

impl Check {
    /// Changes what no file may have.
    #[cfg(test)]
    pub(in crate::config) fn by_the_rules(mut self) -> Self {
        if self.kind == Scheme::Udp && self.reply.is_none() {
            self.interval = self.interval.max(QUIET_INTERVAL);
            self.fast_interval = self.fast_interval.map(|fast| fast.max(QUIET_INTERVAL));
        }
        if self.kind == Scheme::Exec && self.command.is_empty() {
            self.command = vec!["/bin/true".to_owned()];
        }
        self.user = self.user.or_else(|| Some("daemon".to_owned()));
        self
    }

    /// What is probed, on this port. Settings that the kind has no use for are left out: in `[health]` they are for others.
    pub(in crate::config) fn build(self, port: u16) -> Health {
        let Self { kind, path, host, expect, body, verify, ca, .. } = self;
        let Self { name, record, code, answer, transport, payload, reply, service, command, user, .. } = self;
        // A probe that waits for an ICMP error has no use for a faster rhythm.
        let quiet = kind == Scheme::Udp && reply.is_none();
        let fast = if quiet { self.interval } else { FAST_INTERVAL };
        let tls = TlsProbe { verify, ca: ca.filter(|_| verify) };
        let tls = Some(tls).filter(|_| matches!(kind, Scheme::Https | Scheme::Grpcs));
        Health {
            port: if takes(kind, "port") { port } else { 0 },
            probe: match kind {
                Scheme::Dns => {
                    let answer = answer.filter(|_| code.has_records());
                    Probe::Dns(DnsProbe { name, record, code, answer, transport })
                }
                Scheme::Icmp => Probe::Icmp,
                Scheme::Tcp => Probe::Tcp,
                Scheme::Http | Scheme::Https => Probe::Http(HttpProbe { tls, path, host, expect, body }),
                Scheme::Grpc | Scheme::Grpcs => Probe::Grpc(GrpcProbe { tls, host, service }),
                Scheme::Udp => Probe::Udp(UdpProbe { payload, reply }),
                Scheme::Exec => Probe::Exec(ExecProbe { command, user: user.unwrap_or_default() }),
                Scheme::AgentCheck => Probe::AgentCheck(payload),
            },
            interval: self.interval,
            fast_interval: self.fast_interval.unwrap_or(fast).min(self.interval),
            timeout: self.timeout,
            rise: self.rise,
            fall: self.fall,
        }
    }
}

impl From<&Health> for Check {
    fn from(health: &Health) -> Self {
        let Health { probe, port, interval, fast_interval, timeout, rise, fall } = health.clone();
        let check = Self {
            port: Some(port),
            interval,
            fast_interval: Some(fast_interval),
            timeout,
            rise,
            fall,
            ..Self::default()
        };
        match probe {
            Probe::Dns(DnsProbe { name, record, code, answer, transport }) => {
                Self { kind: Scheme::Dns, name, record, code, answer, transport, ..check }
            }
            Probe::Icmp => Self { kind: Scheme::Icmp, ..check },
            Probe::Exec(ExecProbe { command, user }) => {
                let port = Some(port).filter(|port| *port != 0);
                Self { kind: Scheme::Exec, command, user: Some(user), port, ..check }
            }
            Probe::Grpc(GrpcProbe { tls, host, service }) => {
                let kind = if tls.is_some() { Scheme::Grpcs } else { Scheme::Grpc };
                let (verify, ca) = tls.map_or((false, None), |tls| (tls.verify, tls.ca));
                Self { kind, host, service, verify, ca, ..check }
            }
            Probe::AgentCheck(payload) => Self { kind: Scheme::AgentCheck, payload, ..check },
            Probe::Udp(UdpProbe { payload, reply }) => Self { kind: Scheme::Udp, payload, reply, ..check },
            Probe::Tcp => check,
            Probe::Http(HttpProbe { tls, path, host, expect, body }) => {
                let kind = if tls.is_some() { Scheme::Https } else { Scheme::Http };
                let (verify, ca) = tls.map_or((false, None), |tls| (tls.verify, tls.ca));
                Self { kind, path, host, expect, body, verify, ca, ..check }
            }
        }
    }
}

/// A check as keys and values, those of its kind behind its port.
pub(in crate::config) fn fields(health: &Health) -> Fields {
    let check = Check::from(health);
    let mut fields = HEALTH.fields(&check);
    fields.retain(|(key, _)| takes(check.kind, key));
    fields.sort_by_key(|(key, _)| match *key {
        "kind" => 0,
        "port" => 1,
        key if kinds(key).is_some() => 2,
        _ => 3,
    });
    fields
}
