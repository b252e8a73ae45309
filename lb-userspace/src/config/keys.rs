//! Every key of the file, as data: the checker refuses keys that are not here, and the reference is generated from here.

use std::sync::LazyLock;

pub use super::settings::{CliOption, Form, Key, NOTHING, REQUIRED, Section};
use super::spec;

const fn key(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    description: &'static str,
) -> Key {
    Key { name, takes, default, description, option: None }
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

pub static NODE: LazyLock<Section> = LazyLock::new(|| spec::NODE.section());

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

pub static SERVICE: LazyLock<Section> = LazyLock::new(|| spec::SERVICE.section());

pub static BACKEND: LazyLock<Section> = LazyLock::new(|| spec::BACKEND.section());

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
pub fn sections() -> [&'static Section; 5] {
    [&NODE, &LIMITS, &SERVICE, &BACKEND, &HEALTH]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_descriptions_are_sentences() {
        for section in sections() {
            for (i, key) in section.keys.iter().enumerate() {
                assert!(section.keys[..i].iter().all(|other| other.name != key.name), "{}", key.name);
                assert!(key.description.ends_with('.'), "{}", key.name);
            }
        }
    }
}
