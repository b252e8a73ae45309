//! The kinds of health checks, and which keys are for which of them.

use crate::config::words::Word;

/// The kinds of health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Dns,
    Icmp,
    Tcp,
    Http,
    Https,
    Udp,
    AgentCheck,
    Grpc,
    Grpcs,
    Exec,
}

impl Word for Scheme {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("http", Self::Http),
        ("https", Self::Https),
        ("icmp", Self::Icmp),
        ("dns", Self::Dns),
        ("udp", Self::Udp),
        ("agent-check", Self::AgentCheck),
        ("grpc", Self::Grpc),
        ("grpcs", Self::Grpcs),
        ("exec", Self::Exec),
    ];
}

/// The kinds of checks that a key is for; `None` = for all.
pub(in crate::config) fn kinds(key: &str) -> Option<&'static [Scheme]> {
    match key {
        "port" => Some(&[
            Scheme::Tcp,
            Scheme::Http,
            Scheme::Https,
            Scheme::Dns,
            Scheme::Udp,
            Scheme::AgentCheck,
            Scheme::Grpc,
            Scheme::Grpcs,
            Scheme::Exec,
        ]),
        "host" => Some(&[Scheme::Http, Scheme::Https, Scheme::Grpc, Scheme::Grpcs]),
        "path" | "expect" | "body" => Some(&[Scheme::Http, Scheme::Https]),
        "verify" | "ca" => Some(&[Scheme::Https, Scheme::Grpcs]),
        "command" | "user" => Some(&[Scheme::Exec]),
        "service" => Some(&[Scheme::Grpc, Scheme::Grpcs]),
        "name" | "type" | "code" | "answer" | "transport" => Some(&[Scheme::Dns]),
        "payload" => Some(&[Scheme::Udp, Scheme::AgentCheck]),
        "reply" => Some(&[Scheme::Udp]),
        _ => None,
    }
}

/// Whether a kind of check can ask a service that speaks UDP.
pub(in crate::config) fn over_udp(kind: Scheme) -> bool {
    matches!(kind, Scheme::Dns | Scheme::Udp)
}

/// Whether a kind of check has a use for a key.
pub(in crate::config) fn takes(kind: Scheme, key: &str) -> bool {
    kinds(key).is_none_or(|kinds| kinds.contains(&kind))
}
