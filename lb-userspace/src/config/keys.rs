//! Every key of the file, described once: the checker refuses keys that are not here, and the reference is generated from here.

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// As in the file: `[node]`, `[[service]]`.
    pub header: &'static str,
    /// What the table is, in Markdown.
    pub about: &'static str,
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// The values that it takes, in words.
    pub takes: &'static str,
    /// The default as a file would have it; [`REQUIRED`] or [`NOTHING`] where there is none.
    pub default: &'static str,
    /// In Markdown.
    pub description: &'static str,
}

/// There is no default: the key must be there.
pub const REQUIRED: &str = "required";
/// There is no default: without the key, what it describes does not exist.
pub const NOTHING: &str = "none";

const fn key(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    description: &'static str,
) -> Key {
    Key { name, takes, default, description }
}

impl Section {
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

/// The file as a whole.
pub static ROOT: Section = Section {
    header: "the file",
    about: "",
    keys: &[
        key("node", "table", REQUIRED, "The node itself."),
        key("limits", "table", NOTHING, "Sizes of the maps."),
        key("health", "table or false", NOTHING, "Defaults for the health checks of all services."),
        key("service", "array of tables", NOTHING, "The services."),
    ],
};

pub static NODE: Section = Section {
    header: "[node]",
    about: "What holds for the node as a whole.",
    keys: &[
        key(
            "interface",
            "string or array of strings",
            REQUIRED,
            "Interfaces on which packets for services come in. The program is attached to each of them.",
        ),
        key(
            "seed",
            "string",
            REQUIRED,
            "Any string of 1 to 255 bytes, the same on every node of a site: same seed, same rings, so that a flow that \
             moves to another node stays at its backend. Keep it to yourself: who knows it can aim flows at one backend. \
             `openssl rand -hex 16` makes a good one.",
        ),
        key(
            "mode",
            "\"auto\", \"native\" or \"generic\"",
            "\"auto\"",
            "How the program is attached. `auto`: in the driver where it can, else in the kernel's generic path, which is \
             said in the log and in `lbctl status`.",
        ),
        key(
            "unserved",
            "\"pass\" or \"drop\"",
            "\"pass\"",
            "Packets for the address of a service that no service takes (another port, another protocol). `pass` leaves them \
             to the host: on one that forwards packets and has no route for the address they go back to the router, and \
             round and round until their TTL is used up; see install.md for the route that ends them. `drop` ends them here, \
             counted as `unserved`, and with them whatever the host itself offers or asks from that address. ICMP passes \
             in any case.",
        ),
        key(
            "source",
            "IPv4 address or prefix",
            NOTHING,
            "Outer source address towards IPv4 backends. With a prefix (`/8` to `/31`) the flow hash fills in the low bits, \
             so that the receive queues of a backend share the load. Without it: the source address of the kernel's route.",
        ),
        key(
            "source6",
            "IPv6 address or prefix",
            NOTHING,
            "The same towards IPv6 backends, prefixes `/96` to `/127`.",
        ),
        key(
            "health_concurrency",
            "1 to 65536",
            "65536",
            "Health probes in flight at once, over all services, as far as the limit of open files allows. By default every \
             backend can be asked at once, so that silent ones hold up no other check. Where fewer are allowed services take \
             turns, and a quarter of the places is for those that hold less than an equal share.",
        ),
        key(
            "socket_group",
            "string",
            NOTHING,
            "Group whose members may use the control socket, as root may. It must be there.",
        ),
        key(
            "state_directory",
            "absolute path",
            "\"/var/lib/lb\"",
            "Where changes made at run time are kept, in `<instance>.overlay.json`. Refused where it cannot be written, or \
             where every user may write in it. It is changed by the file only, never over the control socket.",
        ),
        key(
            "metrics",
            "address:port",
            NOTHING,
            "TCP address at which metrics are served, for example `\"127.0.0.1:9477\"`. Without it they are on the control \
             socket only. The host must have the address, and no other process may listen there.",
        ),
    ],
};

pub static LIMITS: Section = Section {
    header: "[limits]",
    about: "Sizes of the maps, in entries. A change takes effect when lbd is started again: it carries services \
            and flows over into maps of the new sizes, unless what runs does not fit. What the file asks for is checked \
            against them.",
    keys: &[
        key(
            "services",
            "1 to 1048576",
            "2048",
            "Services. By default about as many as the default of `slots` has rings for, if each has at most five backends.",
        ),
        key(
            "backends",
            "1 to 16777214",
            "16384",
            "Backends of all services together, 64 bytes and a counter per CPU each. Backends that \
             were removed keep theirs for some seconds, until no packet can name them.",
        ),
        key(
            "slots",
            "251 to 536870912",
            "4194304",
            "Slots of all rings together, 10 bytes each. A service takes the first of 251, 509, 1021, 2039, 4093, 8191, \
             16381, 32749, 65537, 131071, 262139, 524287, 1000003, 2000003, 4000037 that is at least 100 × its \
             `max_backends`. The default holds 1,000 services of 10 backends each that leave `max_backends` out; where the services ask for more, it is the next power of \
             two. A ring that changes its \
             length lies there twice for a while, and waits where there is no room for that.",
        ),
        key(
            "flows",
            "1024 to 268435456",
            "1048576",
            "Flows that are recorded: all of services with `track = \"always\"`, of the others those of slots that changed \
             owner. 104 bytes each.",
        ),
        key(
            "pending_flows",
            "1024 to 16777216",
            "65536",
            "The same for flows of which only the SYN was seen.",
        ),
    ],
};

pub static SERVICE: Section = Section {
    header: "[[service]]",
    about: "One virtual address, protocol and port.",
    keys: &[
        key(
            "name",
            "string",
            REQUIRED,
            "1 to 63 of the characters `A-Z a-z 0-9 . _ -`, the first no `.` or `-`. Unique.",
        ),
        key(
            "listen",
            "string",
            REQUIRED,
            "Protocol, virtual address and port: `\"tcp/203.0.113.10:443\"`, `\"udp/[2001:db8::10]:53\"`. Port 0 is every \
             port of that address and protocol which no other service has. An address that this host itself speaks from is \
             refused: the service would take what is meant for the host.",
        ),
        key(
            "encapsulation",
            "\"auto\", \"ipip\", \"ip6ip6\", \"ip6ip\" or \"ipip6\"",
            "\"auto\"",
            "How packets travel to the backends: `ipip` IPv4 in IPv4, `ip6ip6` IPv6 in IPv6, `ip6ip` IPv6 in IPv4, `ipip6` \
             IPv4 in IPv6. `auto` takes what the families of `listen` and each backend's `address` ask for; any other word \
             refuses backends of the other family.",
        ),
        key(
            "max_backends",
            "1 to 40000",
            "by the number of backends",
            "How many backends the service is planned for; decides the length of its ring. By default four times as many as the \
             configuration has, at least 16 (above 655 backends less room, above 2,621 none but what the length leaves), whatever \
             their state is: up to 5 backends get 2039 slots, up to 10 get \
             4093, up to 20 get 8191, and so on. A backend more or less may so change the length. Any change of the length makes every \
             slot remember flows for a while and cuts no connection; the next one waits until that is over. Set it where the number \
             of backends goes up and down all the time, or where nodes that share flows get their backends at different times: \
             nodes with rings of different lengths send many flows to different backends.",
        ),
        key(
            "hold",
            "duration, 0s to 24h, or \"forever\"",
            "\"3s\"",
            "How long the established flows of a backend that is down stay there before they go to another backend, which resets \
             them. New flows leave it at once in any case. A failure that is shorter than that, as checks see it, cuts no \
             connection; a backend that is really gone leaves its clients without an answer for so much longer. `0s`: \
             its flows go at once; for clients that begin again at once and must not wait. Longer: for connections that are dear and \
             backends that stall. `forever`: they stay until the client gives up. At most `track_window` or \
             `udp_idle`; the default is cut to it.",
        ),
        key(
            "on_down",
            "\"move\" or \"hold\"",
            NOTHING,
            "What `hold` was called before: `move` is `hold = \"0s\"`, `hold` is `hold = \"forever\"`. Not together with `hold`.",
        ),
        key(
            "all_down",
            "\"keep\" or \"drop\"",
            "\"keep\"",
            "What happens when no backend passes its check. `keep`: those that were in the ring stay there and go on taking \
             flows, since that all are gone is less likely than that the checks are wrong. `drop`: new flows are dropped as \
             `no_backend`; for services that announce elsewhere that they are out.",
        ),
        key(
            "handover",
            "duration, 0s to 1h",
            "\"30s\"",
            "How long backends that a new configuration no longer names serve on, while none of those it names is known to work: \
             until one passes its check, and not longer than this. `0s`: not at all.",
        ),
        key(
            "track",
            "\"on-change\", \"always\" or \"never\"",
            "\"on-change\"",
            "Which flows are recorded, so that they stay at their backend. `on-change`: those of slots that changed \
             owner, for as long as it takes; all others cost no memory. `always`: all, at the price of a table look-up for \
             every packet; also keeps flows apart from what other nodes or a full table would say. `never`: none; a change of \
             backends moves the flows of the slots that change owner, so it is for services whose clients do not mind. Can be \
             set at any time and moves no flow by itself.",
        ),
        key(
            "hash",
            "\"five-tuple\", \"source\" or \"source/BITS\"",
            "\"five-tuple\"",
            "What chooses the slot of a packet, and with it the backend of a new flow. `five-tuple`: addresses, ports and protocol, \
             so that flows spread as evenly as the ring; for nearly every service. `source`: the client's address alone, so that \
             all flows of a client go to one backend, also those to other services whose backends have the same names, \
             weights and `max_backends`; for backends that keep something of a client from one connection to the next. A \
             client that sends much, or many clients behind one address, are then one backend's alone. `source/24`: the same \
             for networks of clients, by that many leading bits of the address (1 to 32, with IPv6 to 128). Changing it \
             makes every slot learn, as `max_backends` does, and cuts no connection; a second change of either waits until that is over.",
        ),
        key(
            "balance",
            "\"hash\", \"round-robin\", \"random\" or \"least-connections\"",
            "\"hash\"",
            "How a new flow finds its backend. `hash`: by its slot; for nearly every service, costs no memory, and every node sends \
             a flow to the same backend. The others need `track = \"always\"`, since a flow is found again by its record alone: \
             they cost a table look-up for every packet, a flow that moves to another node, is evicted from a full table \
             or is silent for longer than `track_window` is cut, and a flood of SYNs larger than `pending_flows` hurts handshakes. `round-robin`: by turns, each \
             backend as often as its weight says, evenly interleaved; each CPU takes turns by itself. For few flows that are \
             much alike, where a hash would spread them by chance only. `random`: any backend, by weight. For new flows \
             that no client must be able to aim. `least-connections`: of two different backends, the first of them drawn by \
             weight, the one with fewer \
             live flows for its weight; one that fails its check (and is in the ring because of `min_healthy`) or is leaving only \
             if the other one is no better. For flows that last long and differ much in length. Flows count from their second \
             packet on (UDP: from the first) until the client closes them, they are idle (`idle_after`) or expire; each node \
             counts its own. Can be set at any time and moves no flow by itself.",
        ),
        key(
            "ring",
            "\"maglev\" or \"rendezvous\"",
            "\"maglev\"",
            "How slots are assigned to the backends, unless `balance` is `round-robin` or `least-connections`. `maglev`: shares as exact as the ring allows; a change of backends also moves \
             a few slots between others. `rendezvous`: such slots stay where they are, and shares are as uneven as chance \
             (about 10 % at 100 slots a backend). The same on every node of a site. Changing it moves most slots, \
             and leaves established connections where they are, as any change does.",
        ),
        key(
            "slow_start",
            "duration, 1s to 1h",
            NOTHING,
            "How long a new or recovered backend takes to reach its whole weight: a fifth at once, another fifth \
             after each quarter of the time, the whole at its end; for backends \
             that have to warm up. Backends that the agent finds when it starts have their whole weight at once.",
        ),
        key(
            "min_healthy",
            "1 to 40000, or \"1%\" to \"100%\"",
            NOTHING,
            "With fewer backends than that up, health is ignored and all enabled backends take flows: then it is more likely \
             that the checks are wrong, or that the rest would be overrun. Of draining and disabled backends nothing is \
             expected, nor of one that was added to others and waits for its first verdict.",
        ),
        key(
            "track_window",
            "duration, 1s to 24h",
            "\"135m\"",
            "TCP only: how long after a change of backends a silent flow is still remembered. The default covers the keep-alive \
             of Linux, which asks a silent connection after two hours.",
        ),
        key(
            "udp_idle",
            "duration, 1s to 24h",
            "\"2m\"",
            "UDP only: how long after a change of backends a silent flow is still remembered.",
        ),
        key(
            "idle_after",
            "duration, 1s to 24h",
            "\"5m\"",
            "After which silence of its client a recorded flow counts as idle. An idle flow is routed as before, but \
             `balance = \"least-connections\"`, `lbctl backend drain --wait` and the number of live flows leave it out, until it \
             sends something again. What a *server* resets or forgets is such a flow: its answers do not come through the \
             balancer, which cannot see that it has ended. Set it longer than the pauses of connections that a drain must wait for.",
        ),
        key(
            "health",
            "table, true or false",
            NOTHING,
            "The health check of the backends, see below. `true` or left out: a check by the defaults. `false`: none, \
             backends count as up.",
        ),
        key("backend", "array of tables", NOTHING, "The backends."),
    ],
};

pub static BACKEND: Section = Section {
    header: "[[service.backend]]",
    about: "One backend of the service above it.",
    keys: &[
        key(
            "name",
            "string",
            "its address",
            "1 to 63 of the characters `A-Z a-z 0-9 . _ : -`, the first no `.` or `-`. Unique within the service. The ring is \
             made of names: a backend that gets a new address under its old name keeps its slots.",
        ),
        key(
            "address",
            "IPv4 or IPv6 address",
            REQUIRED,
            "Where the outer header sends packets. Unique within the service.",
        ),
        key(
            "weight",
            "0 to 1000",
            "100",
            "Share of new flows, in proportion to the sum of all weights. 0 = no new flows, old ones go on.",
        ),
        key(
            "state",
            "\"enabled\", \"draining\" or \"disabled\"",
            "\"enabled\"",
            "`draining`: no new flows, old ones go on. `disabled`: no flows at all, and no health checks.",
        ),
    ],
};

pub static HEALTH: Section = Section {
    header: "[health]",
    about: "How backends are checked. The same keys stand in `[health]`, where they are the defaults for all services, and \
            in the `health` of a service. A service that has no `health` is checked by the defaults, on its own port; one \
            that has no port of its own to check (UDP, or port 0) is checked only where `port` says where. \
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
            intermediate or unknown CA, expired and when, for which other names the certificate is.",
    keys: &[
        key(
            "kind",
            "\"tcp\", \"http\" or \"https\"",
            "\"tcp\"",
            "`tcp`: the connection is accepted. `http`, `https`: a GET is answered as `expect` and `body` say.",
        ),
        key(
            "port",
            "1 to 65535",
            "the service's port",
            "Port to check. Needed where the service has none of its own.",
        ),
        key("path", "string", "\"/\"", "`http`, `https`: path and query to ask for."),
        key(
            "host",
            "string",
            "the backend's address",
            "`http`, `https`: `Host` header, and server name of TLS.",
        ),
        key(
            "expect",
            "code, \"from-to\", or an array of both",
            "\"200-399\"",
            "`http`, `https`: status codes that count as success: `200`, `\"200-299\"`, `[200, \"301-302\"]`.",
        ),
        key(
            "body",
            "string",
            NOTHING,
            "`http`, `https`: text that must occur in the first 64 KiB of the body. Without it the body is not read.",
        ),
        key("interval", "duration, 100ms to 1h", "\"500ms\"", "From one probe of a backend to the next."),
        key(
            "fast_interval",
            "duration, 50ms to 1h",
            "\"100ms\"",
            "The same while a verdict is being made: after a result that differs from the verdict so far. At most \
             `interval`; the default is cut to it.",
        ),
        key(
            "timeout",
            "duration, 10ms to 1m",
            "\"500ms\"",
            "A probe that takes longer has failed. One that hears nothing asks again meanwhile over connections of its own, after \
             each sixth of it (after each third where it is connected), so that lost packets are no failure.",
        ),
        key("rise", "1 to 100", "2", "Successes in a row that make a backend up."),
        key("fall", "1 to 100", "2", "Failures in a row that make it down."),
        key(
            "verify",
            "true or false",
            "false",
            "`https`: check the certificate's chain and name. Off by default, since a probe asks whether the backend works.",
        ),
        key(
            "ca",
            "absolute path",
            NOTHING,
            "`https` with `verify`: PEM file with the roots to trust, or with the server's own certificate. Without it: the \
             public web's roots. A file without a certificate is refused. It is read again with the configuration; where \
             that fails, what was read before is used on, and `status` says so.",
        ),
    ],
};

/// All tables, in the order of the reference.
pub static SECTIONS: [&Section; 5] = [&NODE, &LIMITS, &SERVICE, &BACKEND, &HEALTH];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_descriptions_are_sentences() {
        for section in SECTIONS {
            for (i, key) in section.keys.iter().enumerate() {
                assert!(section.keys[..i].iter().all(|other| other.name != key.name), "{}", key.name);
                assert!(key.description.ends_with('.'), "{}", key.name);
            }
        }
    }
}
