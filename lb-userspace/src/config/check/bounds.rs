//! The defaults can be reached together: what one limit promises, the other limits have room for, and rings that are sized
//! from the number of backends fit.

use std::fmt::Write as _;

use lb_common::map::size;

use crate::{
    config::{
        document::LONGEST,
        parse, render,
        testing::{SMALL, lines, spec},
    },
    control::TEXT_LIMIT,
};

const NODE: &str = "[node]\ninterface = \"eth0\"\nseed = \"s\"\n";

/// `services` services with `backends` backends each; everything else is left at its default.
fn file(services: u32, backends: u32) -> String {
    let mut text = NODE.to_owned();
    for n in 0..services {
        let address = std::net::Ipv4Addr::from(0xcb00_7100 + n);
        let _ = write!(text, "[[service]]\nname = \"service-{n}\"\nlisten = \"tcp/{address}:443\"\n");
        for m in 0..backends {
            let address = std::net::Ipv4Addr::from(0x0a00_0100 + n * backends + m);
            let _ =
                write!(text, "[[service.backend]]\nname = \"backend-{n}-{m}\"\naddress = \"{address}\"\n");
        }
    }
    text
}

fn default_services() -> u32 {
    parse(NODE.as_bytes(), "lb.toml").unwrap().spec.limits.services
}

#[test]
fn the_default_limits_have_room_for_one_another() {
    let services = default_services();
    let whole = file(services, size::BACKENDS / services);
    let document = parse(whole.as_bytes(), "lb.toml").map_err(|errors| lines(&errors)).unwrap();
    let backends: usize = document.spec.services.iter().map(|service| service.backends.len()).sum();
    assert_eq!((document.spec.services.len(), backends), (services as usize, size::BACKENDS as usize));
    let more = lines(&parse(file(services + 1, 0).as_bytes(), "lb.toml").unwrap_err());
    assert!(more.contains("limits.services is 2048 by default: raise it"), "{more}");
    // `config show` prints every default, which is the longest form of this file: it must be short enough to read and to send.
    let rendered = render(&document.spec);
    assert!(rendered.len() <= LONGEST, "{}", rendered.len());
    let body = serde_json::json!({ "text": rendered, "name": "lb.toml" }).to_string();
    assert!(body.len() <= TEXT_LIMIT, "{}", body.len());
}

#[test]
fn all_backends_fit_however_they_are_spread_over_services() {
    for services in [1u32, 7, 64, 200, 256, 1_000, 2_048] {
        let text = file(services, size::BACKENDS / services);
        let document = parse(text.as_bytes(), "lb.toml").map_err(|errors| lines(&errors)).unwrap();
        let asked: u64 =
            document.spec.services.iter().map(|service| u64::from(service.max_backends.length())).sum();
        assert!(asked <= u64::from(document.spec.limits.slots), "over {services}: {asked}");
    }
}

#[test]
fn all_backends_may_be_of_one_service() {
    let one =
        file(1, size::BACKENDS).replacen("listen", &format!("max_backends = {}\nlisten", size::BACKENDS), 1);
    assert!(parse(one.as_bytes(), "lb.toml").is_ok());
}

#[test]
fn max_backends_defaults_to_the_backends_present() {
    let with = |backends: usize| {
        let more: String = (1..backends)
            .map(|i| format!("[[service.backend]]\naddress = \"10.1.{}.{}\"\n", i / 250, i % 250 + 1))
            .collect();
        spec(&format!("{SMALL}{more}")).services[0].max_backends
    };
    let lengths = [1, 5, 6, 10, 40, 200, 1000].map(|backends| with(backends).length());
    assert_eq!(lengths, [2_039, 2_039, 4_093, 4_093, 16_381, 131_071, 262_139]);
    assert_eq!(with(6).said(), None);
    let states = SMALL.replace("\"web-1\"", "\"web-1\"\nstate = \"draining\"");
    assert_eq!(spec(&states).services[0].max_backends, with(1), "what counts is that it is configured");
}

#[test]
fn a_thousand_services_of_ten_backends_fit_by_default() {
    let services: String = (0..1000)
        .map(|n| {
            let backends: String = (1..=10)
                .map(|b| format!("[[service.backend]]\naddress = \"10.{}.{}.{b}\"\n", n / 250 + 1, n % 250))
                .collect();
            let listen = format!("tcp/203.0.113.1:{}", 1000 + n);
            format!("[[service]]\nname = \"s{n}\"\nlisten = \"{listen}\"\n{backends}")
        })
        .collect();
    let spec = spec(&format!("[node]\ninterface = \"eth0\"\nseed = \"s\"\n{services}"));
    let slots: u32 = spec.services.iter().map(|service| service.max_backends.length()).sum();
    assert_eq!((spec.services.len(), slots), (1000, 4_093_000));
}

#[test]
fn slots_default_to_what_the_services_ask_for() {
    let with = |max_backends: u32| {
        let big = SMALL.replace("listen", &format!("max_backends = {max_backends}\nlisten"));
        let second = format!(
            "[[service]]\nname = \"b\"\nlisten = \"tcp/192.0.2.1:1\"\nmax_backends = {max_backends}\n"
        );
        spec(&(big + &second)).limits.slots
    };
    assert_eq!([with(100), with(20_000), with(40_000)], [size::SLOTS, size::SLOTS, 2 * size::SLOTS]);
}
