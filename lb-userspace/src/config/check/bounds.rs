//! Defaults that are reachable together: what one limit promises the others have room for.

use std::fmt::Write as _;

use lb_common::map::size;

use crate::{
    config::{document::LONGEST, parse, render, testing::lines},
    control::TEXT_LIMIT,
};

const NODE: &str = "[node]\ninterface = \"eth0\"\nseed = \"s\"\n";

/// `services` services with `backends` backends each, nothing else said.
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
    assert!(more.contains("limits.services is 256 by default: raise it"), "{more}");
    // Every default spelled out, as `config show` prints it, is the longest form of it: it can be read and sent.
    let rendered = render(&document.spec);
    assert!(rendered.len() <= LONGEST, "{}", rendered.len());
    let body = serde_json::json!({ "text": rendered, "name": "lb.toml" }).to_string();
    assert!(body.len() <= TEXT_LIMIT, "{}", body.len());
}

#[test]
fn all_backends_may_be_of_one_service() {
    let one =
        file(1, size::BACKENDS).replacen("listen", &format!("max_backends = {}\nlisten", size::BACKENDS), 1);
    assert!(parse(one.as_bytes(), "lb.toml").is_ok());
}
