//! The values that each parser accepts, and its errors for the others.

use super::*;
use crate::config::{diagnostic::Place, spec::AttachMode};

fn node(json: &str) -> Node {
    Node::from_json(&serde_json::from_str(json).unwrap(), Place::Body("$".into()))
}

#[test]
fn numbers_out_of_range_are_quoted_with_the_range() {
    let weight = |json: &str| number::<u16>(&node(json), 0..=1000);
    assert_eq!(weight("1000"), Ok(1000));
    assert_eq!(weight("-1"), Err("-1 is out of range: 0 to 1000".to_owned()));
    assert_eq!(weight("70000"), Err("70000 is out of range: 0 to 1000".to_owned()));
    assert_eq!(weight("1.0"), Err("must be a whole number, not the number 1".to_owned()));
    assert_eq!(weight("\"5\""), Err("must be a whole number, not the string \"5\"".to_owned()));
}

#[test]
fn a_wrong_word_gets_the_list_and_a_guess() {
    assert_eq!(word(&node("\"native\"")), Ok(AttachMode::Native));
    assert_eq!(
        word::<AttachMode>(&node("\"natvie\"")),
        Err("\"natvie\" is none of \"auto\", \"native\", \"generic\" (did you mean native?)".to_owned())
    );
}

#[test]
fn a_listen_needs_protocol_address_and_port() {
    let listen = |text: &str| listen(&node(&format!("{text:?}")));
    for good in ["tcp/203.0.113.10:443", "udp/[2001:db8::10]:53", "tcp/203.0.113.10:0"] {
        assert_eq!(listen(good).unwrap().to_string(), good);
    }
    for (bad, why) in [
        ("203.0.113.10:443", "has no protocol"),
        ("sctp/203.0.113.10:443", "protocol \"sctp\" is neither tcp nor udp"),
        ("TCP/203.0.113.10:443", "neither tcp nor udp"),
        ("tcp/203.0.113.10", "is not protocol/address:port"),
        ("tcp/2001:db8::10:443", "is not protocol/address:port"),
        ("tcp/[203.0.113.10]:443", "is not a valid IPv6 address"),
        ("tcp/[2001:db8::10]", "is not protocol/address:port"),
        ("tcp/example.com:443", "\"example.com\" is not a valid IPv4 address"),
        ("tcp/203.0.113.10:70000", "port 70000 is out of range: 0 to 65535"),
        ("tcp/203.0.113.10:0443", "port 0443 has a leading zero: write 443"),
        ("udp/[2001:db8::10]:00", "port 00 has a leading zero: write 0"),
        ("tcp/203.0.113.10:-1", "port \"-1\" is not a number"),
        ("tcp/203.0.113.10:+1", "port \"+1\" is not a number"),
        ("tcp/203.0.113.10:", "port \"\" is not a number"),
        ("tcp/224.0.0.1:80", "is a multicast address"),
        ("", "has no protocol"),
    ] {
        let message = listen(bad).unwrap_err();
        assert!(message.contains(why), "{bad}: {message}");
    }
}

#[test]
fn addresses_that_packets_cannot_be_sent_to_are_refused() {
    let address = |text: &str| address(&node(&format!("{text:?}")));
    for good in ["10.0.0.1", "169.254.1.1", "2001:db8::1", "fd00::1"] {
        assert!(address(good).is_ok(), "{good}");
    }
    for (bad, why) in [
        ("0.0.0.0", "this host"),
        ("0.1.2.3", "this host"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::ffff:10.0.0.1", "write it as IPv4"),
        ("fe80::1", "link-local"),
        ("10.0.0", "is not a valid IPv4 or IPv6 address"),
        ("10.0.0.256", "is not a valid IPv4 or IPv6 address"),
        ("web-1.example.com", "is not a valid IPv4 or IPv6 address"),
    ] {
        let message = address(bad).unwrap_err();
        assert!(message.contains(why), "{bad}: {message}");
    }
}

#[test]
fn sources_are_addresses_or_prefixes_of_their_family() {
    let v4 = |text: &str| source_v4(&node(&format!("{text:?}")));
    let v6 = |text: &str| source_v6(&node(&format!("{text:?}")));
    assert_eq!(v4("10.0.0.1"), Ok(Source { address: Ipv4Addr::new(10, 0, 0, 1), spread_bits: 0 }));
    assert_eq!(v4("10.0.0.1/32").unwrap().spread_bits, 0);
    assert_eq!(v4("10.0.0.0/8").unwrap().spread_bits, 24);
    assert_eq!(v6("2001:db8::/96").unwrap().spread_bits, 32);
    for (message, why) in [
        (v4("10.0.0.0/7").unwrap_err(), "is too wide: at most /8"),
        (v4("10.0.0.0/33").unwrap_err(), "prefix length \"33\" is out of range: 0 to 32"),
        (v4("10.0.0.0/").unwrap_err(), "prefix length \"\" is out of range"),
        (v4("10.0.0.1/24").unwrap_err(), "has bits set behind the prefix: write 10.0.0.0/24"),
        (v4("2001:db8::/96").unwrap_err(), "that is for source6"),
        (v4("127.0.0.0/8").unwrap_err(), "loopback"),
        (v4("eth0").unwrap_err(), "is not a valid IPv4 address or prefix"),
        (v6("2001:db8::/64").unwrap_err(), "is too wide: at most /96"),
        (v6("2001:db8::1/96").unwrap_err(), "write 2001:db8::/96"),
        (v6("10.0.0.1").unwrap_err(), "that is for source"),
    ] {
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn durations_have_units_and_ranges() {
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    let duration = |json: &str| duration(&node(json), range.clone());
    assert_eq!(duration("\"1s\""), Ok(Duration::from_secs(1)));
    assert!(duration("5").unwrap_err().starts_with("5 has no unit"));
    assert!(duration("\"soon\"").unwrap_err().starts_with("\"soon\" is not a valid duration"));
    assert_eq!(duration("\"2h\""), Err("\"2h\" is out of range: 100ms to 1h".to_owned()));
}

#[test]
fn names_are_short_and_plain() {
    let name = |text: &str| name(&node(&format!("{text:?}")), "");
    assert_eq!(name("Web_1.a-b"), Ok("Web_1.a-b".to_owned()));
    for (bad, why) in [
        ("", "is 0 bytes long: 1 to 63 are allowed"),
        ("a/b", "has '/' in it"),
        ("a b", "has ' ' in it"),
        ("wäb", "has 'ä' in it"),
        ("..", "must not begin with . or -"),
        ("-a", "must not begin with . or -"),
    ] {
        assert!(name(bad).unwrap_err().contains(why), "{bad}");
    }
    assert!(name(&"a".repeat(63)).is_ok());
    assert!(name(&"a".repeat(64)).is_err());
}

#[test]
fn interfaces_are_named_as_the_kernel_would() {
    let interface = |text: &str| interface(&node(&format!("{text:?}")));
    assert!(interface("enp1s0f0np0").is_ok());
    assert!(interface("bond0.100").is_ok());
    for bad in ["", ".", "..", "a/b", "a b", "eth0:1", "a23456789012345x"] {
        assert!(interface(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_hash_is_a_word_or_a_prefix_of_the_clients_address() {
    let hash = |text: &str, longest| hash(&node(&format!("{text:?}")), longest);
    for (text, longest, wanted) in [
        ("five-tuple", 32, Hash::FiveTuple),
        ("source", 32, Hash::Source(32)),
        ("source", 128, Hash::Source(128)),
        ("source/24", 32, Hash::Source(24)),
        ("source/56", 128, Hash::Source(56)),
    ] {
        assert_eq!(hash(text, longest), Ok(wanted));
    }
    for (text, why) in [
        (
            "sourc",
            "is not a valid hash: write \"five-tuple\", \"source\", or \"source/24\" for networks of clients",
        ),
        ("sourc", "did you mean source?"),
        ("five-tuple/8", "is not a valid hash"),
        ("source/0", "is out of range: \"source/1\" to \"source/32\""),
        ("source/33", "is out of range"),
        ("source/+8", "is out of range"),
        ("source/", "is out of range"),
    ] {
        let reported = hash(text, 32).unwrap_err();
        assert!(reported.contains(why), "{reported}");
    }
    assert!(super::hash(&node("24"), 32).unwrap_err().starts_with("must be a string, not the number 24"));
}

#[test]
fn numbers_in_strings_have_neither_signs_nor_leading_zeros() {
    for (text, number) in [
        ("0", Some(0)),
        ("10", Some(10)),
        ("010", None),
        ("+1", None),
        ("", None),
        ("1 ", None),
        ("300", None),
    ] {
        assert_eq!(whole::<u8>(text), number, "{text:?}");
    }
    let text = |text: &str| node(&format!("{text:?}"));
    assert!(min_healthy(&text("030%")).is_err() && min_healthy(&text("30%")).is_ok());
    assert!(hash(&text("source/024"), 32).is_err() && hash(&text("source/24"), 32).is_ok());
    assert!(source_v4(&text("10.0.255.0/024")).is_err() && source_v4(&text("10.0.255.0/24")).is_ok());
    assert!(socket_address(&text("127.0.0.1:09477")).is_err() && socket_address(&text("[::1]:9477")).is_ok());
}
