//! Outer source addresses with which packets would come back to the node.

use crate::config::{
    parse,
    testing::{SMALL, lines},
};

const LISTEN: &str = "listen = \"tcp/192.0.2.1:80\"";

fn errors(text: &str) -> String {
    parse(text.as_bytes(), "lb.toml").map_or_else(|errors| lines(&errors), |_| String::new())
}

#[track_caller]
fn says(errors: &str, expected: &str) {
    assert!(errors.contains(expected), "expected: {expected}\ngot: {errors}");
}

#[test]
fn a_source_that_is_a_virtual_address_is_refused_by_name() {
    let with_source = |key: &str, source: &str, listen: &str| {
        errors(
            &SMALL
                .replace("seed = \"s\"\n", &format!("seed = \"s\"\n{key} = \"{source}\"\n"))
                .replace(LISTEN, listen),
        )
    };
    assert_eq!(
        with_source("source", "192.0.2.1", LISTEN),
        "lb.toml:4:10: node: source 192.0.2.1 is the virtual address of service web: what backends answer to it would come \
         back as packets for the service; give an address of this host\n"
    );
    says(
        &with_source("source", "192.0.2.0/24", LISTEN),
        "node: source 192.0.2.0/24 contains 192.0.2.1, the virtual address of service web:",
    );
    says(
        &with_source("source6", "2001:db8::/96", "listen = \"tcp/[2001:db8::10]:80\""),
        "node: source6 2001:db8::/96 contains 2001:db8::10, the virtual address of service web:",
    );
    assert_eq!(with_source("source", "192.0.3.0/24", LISTEN), "");
    assert_eq!(with_source("source6", "2001:db8::/112", LISTEN), "");
}
