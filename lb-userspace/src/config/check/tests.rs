//! What the checker reports for wrong files, and its defaults for missing keys. One fact each.

use std::time::Duration;

use lb_common::{map::size, ring};

use crate::config::{
    keys::{self, Section},
    parse, parse_on_host,
    spec::{self, AttachMode, Encapsulation, Hold, MinHealthy, Planned, Probe, Spec, Track},
    testing::{SMALL, lines, spec},
    words::Word as _,
};
use crate::ring::Builder;

fn errors(text: &str) -> String {
    parse(text.as_bytes(), "lb.toml").map_or_else(|errors| lines(&errors), |_| String::new())
}

/// The errors of [`SMALL`] with a part of it replaced.
fn with(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    errors(&SMALL.replacen(from, to, 1))
}

const LISTEN: &str = "listen = \"tcp/192.0.2.1:80\"";
const ADDRESS: &str = "address = \"10.0.0.11\"";

#[track_caller]
fn says(errors: &str, expected: &str) {
    assert!(errors.contains(expected), "expected: {expected}\ngot: {errors}");
}

#[track_caller]
fn says_only(errors: &str, expected: &str) {
    assert_eq!(errors, format!("{expected}\n"));
}

fn services(text: &str) -> Spec {
    spec(&format!("[node]\ninterface = \"eth0\"\nseed = \"s\"\n{text}"))
}

#[test]
fn what_is_not_said_has_its_default() {
    let spec = spec(SMALL);
    assert_eq!(spec.node.interfaces, ["eth0"]);
    assert_eq!((spec.node.mode, spec.node.health_concurrency), (AttachMode::Auto, 65_536));
    assert_eq!(spec.limits.slots, size::SLOTS);
    let service = &spec.services[0];
    assert_eq!(
        (service.encapsulation, service.hold),
        (Encapsulation::Auto, Hold::For(Duration::from_secs(3)))
    );
    assert_eq!(service.track, Track::OnChange);
    assert_eq!(
        (service.max_backends, service.window),
        (Planned::ByDefault(20), Duration::from_secs(135 * 60))
    );
    let health = service.health.as_ref().unwrap();
    assert_eq!((&health.probe, health.port, health.rise, health.fall), (&Probe::Tcp, 80, 2, 2));
    assert_eq!(service.backends[0].weight, 100);
}

#[test]
fn by_default_a_killed_backend_is_detected_within_a_second() {
    let health = spec(SMALL).services[0].health.clone().unwrap();
    // The scheduler spreads probes by a tenth of the interval.
    let refused = (health.interval + health.fast_interval * (health.fall - 1)).mul_f64(1.1);
    assert!(refused < Duration::from_secs(1), "{refused:?}");
}

#[test]
fn all_errors_are_reported_at_once_in_line_order() {
    let text = r#"[node]
interface = ["eth0", "eth0"]
sede = "s"
mode = "natvie"
[[service]]
name = "web"
listen = "tcp/192.0.2.1:70000"
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
weight = -1
"#;
    assert_eq!(
        errors(text),
        "lb.toml:1:1: node: seed is missing, for example: seed = \"…\" (the output of openssl rand -hex 16, the same on every \
         node of a site)\n\
         lb.toml:2:22: node: interface eth0 is named twice\n\
         lb.toml:3:1: node: unknown key \"sede\" (did you mean seed?)\n\
         lb.toml:4:8: node: mode \"natvie\" is none of \"auto\", \"native\", \"generic\" (did you mean native?)\n\
         lb.toml:7:10: service web: listen \"tcp/192.0.2.1:70000\": port 70000 is out of range: 0 to 65535\n\
         lb.toml:11:10: backend web/web-1: weight -1 is out of range: 0 to 1000\n"
    );
}

#[test]
fn tracking_is_one_of_three_words() {
    says_only(
        &with(LISTEN, &format!("{LISTEN}\ntrack = \"on-chnage\"")),
        "lb.toml:8:9: service web: track \"on-chnage\" is none of \"on-change\", \"always\", \"never\" \
         (did you mean on-change?)",
    );
    for (word, track) in [("on-change", Track::OnChange), ("always", Track::Always), ("never", Track::Never)]
    {
        let text = SMALL.replacen(LISTEN, &format!("{LISTEN}\ntrack = \"{word}\""), 1);
        assert_eq!(spec(&text).services[0].track, track);
    }
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    says(&with("[node]", "[nodes]\n[node]"), "lb.toml:1:2: unknown key \"nodes\" (did you mean node?)");
    says(&with("seed", "interfaces = 1\nseed"), "unknown key \"interfaces\" (did you mean interface?)");
    says(&with(LISTEN, &format!("{LISTEN}\nport = 80")), "service web: unknown key \"port\"");
    says(
        &with(LISTEN, &format!("{LISTEN}\nhealth = {{ intervall = \"1s\" }}")),
        "service web: unknown key \"intervall\" (did you mean interval?)",
    );
    says(&with(ADDRESS, &format!("{ADDRESS}\nwieght = 1")), "web/web-1: unknown key \"wieght\"");
}

#[test]
fn every_key_of_the_reference_is_read() {
    // No key takes a date, so the checker must report it under the key's name: that shows that the checker reads the key.
    for section in keys::sections() {
        for key in section.keys {
            let reported = errors(&place(section, &format!("{} = 1979-05-27", key.name)));
            says(&reported, &format!("{} must be", key.name));
        }
    }
}

#[test]
fn every_default_of_the_reference_is_the_one_that_holds() {
    for section in keys::sections() {
        for key in section.keys.iter().filter(|key| !key.default.contains(' ')) {
            if [keys::REQUIRED, keys::NOTHING].contains(&key.default) || key.name == "udp_idle" {
                continue;
            }
            // A setting of a check is seen in one of a kind that has it.
            let kinds = spec::kinds(key.name).filter(|_| section.header == "[health]");
            let kind = kinds
                .and_then(|kinds| kinds.last())
                .map_or_else(String::new, |kind| format!("kind = {:?}\nreply = \"\"", kind.word()));
            let base = place(section, &kind);
            let explicit = place(section, &format!("{kind}\n{} = {}", key.name, key.default));
            assert_eq!(spec(&base), spec(&explicit), "{} = {}", key.name, key.default);
        }
    }
}

/// A small file with lines in one of its tables.
fn place(section: &Section, lines: &str) -> String {
    let keys: Vec<&str> =
        lines.lines().filter_map(|line| line.split_once(" =")).map(|(key, _)| key).collect();
    let mut text: String = format!("{SMALL}[limits]\n[health]\n");
    let mut out = String::new();
    let header = format!("{}\n", section.header);
    assert!(text.contains(&header), "{header}");
    text = text.replacen(&header, &format!("{header}{lines}\n"), 1);
    let mut inside = false;
    for line in text.lines() {
        inside = if line.starts_with('[') { line == section.header } else { inside };
        // The old line of a key that `lines` sets again.
        let again =
            inside && keys.iter().any(|key| line.starts_with(&format!("{key} =")) && !lines.contains(line));
        if !again {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[test]
fn ranges_in_the_reference_are_those_of_the_constants() {
    let takes = |section: &Section, name: &str| {
        section.keys.iter().find(|key| key.name == name).map(|key| key.takes).unwrap_or_default()
    };
    assert_eq!(takes(&keys::SERVICE, "max_backends"), format!("1 to {}", ring::MAX_BACKENDS));
    assert_eq!(takes(&keys::LIMITS, "backends"), format!("1 to {}", lb_common::flow_table::MAX_BACKEND));
    for section in keys::sections() {
        for key in section.keys {
            let Some((from, to)) = key.takes.split_once(" to ") else { continue };
            let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>()) else { continue };
            for (value, inside) in [(from, true), (to, true), (from - 1, false), (to + 1, false)] {
                let reported = errors(&place(section, &format!("{} = {value}", key.name)));
                let out = reported.contains(&format!("{} {value} is out of range: {from} to {to}", key.name));
                assert_eq!(out, !inside, "{} = {value}: {reported}", key.name);
            }
        }
    }
}

#[test]
fn an_unknown_interface_is_reported_with_its_line() {
    let reported = parse_on_host(SMALL.as_bytes(), "lb.toml", &|name: &str| name == "lo").unwrap_err();
    says(&lines(&reported), "lb.toml:2:13: node: there is no interface eth0 on this host");
    assert!(parse_on_host(SMALL.as_bytes(), "lb.toml", &|name: &str| name == "eth0").is_ok());
}

#[test]
fn services_need_a_name_a_listen_and_to_be_unique() {
    let reported = errors(&format!("{SMALL}[[service]]\n"));
    says(&reported, "lb.toml:11:1: service #2: name is missing, for example: name = \"web\"");
    says(&reported, "lb.toml:11:1: service #2: listen is missing");
    let again = "[[service]]\nname = \"web\"\nlisten = \"tcp/192.0.2.1:80\"\n";
    assert_eq!(
        errors(&format!("{SMALL}{again}")),
        "lb.toml:12:8: service web: the name web is taken by the service at lb.toml:6:8: names must be unique\n\
         lb.toml:13:10: service web: tcp/192.0.2.1:80 is already served by the service at lb.toml:7:10: one service \
         for each listen\n"
    );
}

#[test]
fn every_port_and_one_port_of_the_same_address_go_together() {
    let every = "[[service]]\nname = \"every\"\nlisten = \"tcp/192.0.2.1:0\"\n";
    assert_eq!(errors(&format!("{SMALL}{every}")), "");
}

#[test]
fn backends_are_unique_by_name_and_by_address() {
    let again = "[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.11\"\n";
    let reported = errors(&format!("{SMALL}{again}"));
    says(
        &reported,
        "lb.toml:13:11: backend web/web-1: the address 10.0.0.11 is taken by the backend at lb.toml:10:11",
    );
    says(&reported, "lb.toml:12:8: backend web/web-1: the name web-1 is taken by the backend at lb.toml:9:8");
}

#[test]
fn a_backend_is_called_by_its_address_where_it_has_no_name() {
    let spec = services(
        "[[service]]\nname = \"a\"\nlisten = \"tcp/192.0.2.1:1\"\n[[service.backend]]\naddress = \"2001:DB8::1\"\n",
    );
    assert_eq!(spec.services[0].backends[0].name, "2001:db8::1");
    // And may be given that name.
    assert_eq!(with("name = \"web-1\"", "name = \"2001:db8::1\""), "");
}

#[test]
fn services_and_backends_are_sorted_by_name() {
    let spec = services(
        "[[service]]\nname = \"b\"\nlisten = \"tcp/192.0.2.1:1\"\n[[service]]\nname = \"a\"\n\
         listen = \"tcp/192.0.2.1:2\"\nbackend = [{ address = \"10.0.0.9\" }, { address = \"10.0.0.10\" }]\n",
    );
    let names: Vec<&str> = spec.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(spec.services[0].backends[0].name, "10.0.0.10");
}

#[test]
fn a_backend_of_the_wrong_family_is_refused() {
    let ipip = SMALL.replace(LISTEN, &format!("{LISTEN}\nencapsulation = \"ipip\""));
    assert_eq!(errors(&ipip), "");
    says_only(
        &errors(&ipip.replace("10.0.0.11", "2001:db8::11")),
        "lb.toml:11:11: backend web/web-1: address 2001:db8::11 is IPv6, but the service's encapsulation ipip needs \
         IPv4 backends: give its IPv4 address, or set encapsulation = \"auto\"",
    );
    says_only(
        &errors(&ipip.replace("192.0.2.1", "[2001:db8::1]")),
        "lb.toml:8:17: service web: encapsulation ipip carries IPv4, but listen tcp/[2001:db8::1]:80 is IPv6: use \
         \"auto\" or \"ip6ip\"",
    );
    assert_eq!(with("10.0.0.11", "2001:db8::11"), "");
}

#[test]
fn a_virtual_address_is_no_backend_address() {
    says_only(
        &with("10.0.0.11", "192.0.2.1"),
        "lb.toml:10:11: backend web/web-1: the address 192.0.2.1 is the virtual address of service web: packets would \
         come back; give the backend's own address",
    );
}

#[test]
fn more_backends_than_the_ring_is_sized_for_are_refused() {
    let more = "[[service.backend]]\naddress = \"10.0.0.12\"\n";
    let reported =
        errors(&format!("{}{more}", SMALL.replace(LISTEN, &format!("{LISTEN}\nmax_backends = 1"))));
    says_only(
        &reported,
        "lb.toml:8:16: service web: 2 backends, but max_backends is 1: raise it to 2 or more, or leave it out",
    );
}

#[test]
fn what_does_not_fit_the_limits_names_limit_and_setting() {
    let second = "[[service]]\nname = \"dns\"\nlisten = \"udp/192.0.2.1:53\"\nbackend = [{ address = \"10.0.0.1\" }]\n";
    let reported = errors(&format!("{SMALL}{second}[limits]\nservices = 1\nbackends = 1\nslots = 4000\n"));
    assert_eq!(
        reported,
        "lb.toml:16:12: limits: 2 services are asked for, but limits.services is 1: raise it\n\
         lb.toml:17:12: limits: 2 backends in all services together are asked for, but limits.backends is 1: \
         raise it\n\
         lb.toml:18:9: limits: 4078 slots for the rings of all services together are asked for, but limits.slots is \
         4000: raise it, or lower max_backends of services that do not need it\n"
    );
    let big = SMALL.replace(LISTEN, &format!("{LISTEN}\nmax_backends = 40000"));
    let two = format!("{big}[[service]]\nname = \"b\"\nlisten = \"tcp/192.0.2.1:1\"\nmax_backends = 40000\n");
    let set = errors(&format!("{two}[limits]\nslots = 8000000\n"));
    says(
        &set,
        "limits: 8000074 slots for the rings of all services together are asked for, but limits.slots is 8000000: raise it",
    );
}

#[test]
fn idle_after_has_a_default_and_bounds() {
    assert_eq!(spec(SMALL).services[0].idle_after, Duration::from_secs(300));
    let udp = SMALL.replace(LISTEN, "listen = \"udp/192.0.2.1:80\"\nidle_after = \"90s\"");
    assert_eq!(spec(&udp).services[0].idle_after, Duration::from_secs(90), "both protocols have it");
    says(
        &with(LISTEN, &format!("{LISTEN}\nidle_after = \"0s\"")),
        "lb.toml:8:14: service web: idle_after \"0s\" is out of range: 1s to 24h",
    );
}

#[test]
fn a_window_of_the_other_protocol_is_refused() {
    says_only(
        &with(LISTEN, &format!("{LISTEN}\nudp_idle = \"1m\"")),
        "lb.toml:8:12: service web: udp_idle does not apply here: TCP services have track_window",
    );
    let udp = SMALL.replace(LISTEN, "listen = \"udp/192.0.2.1:80\"\nudp_idle = \"1m\"");
    assert_eq!(spec(&udp).services[0].window, Duration::from_secs(60));
    says(&with(LISTEN, &format!("{LISTEN}\ntrack_window = \"25h\"")), "\"25h\" is out of range: 1s to 24h");
}

#[test]
fn wrong_types_are_reported_by_name_and_place() {
    says(&errors("node = 5\nservice = 1"), "lb.toml:1:8: node must be a table, not the number 5");
    says(
        &errors("node = 5\nservice = 1"),
        "lb.toml:2:11: service must be an array of tables, not the number 1",
    );
    says(&errors("service = [1]"), "lb.toml:1:12: service #1 must be a table, not the number 1");
    says(&with("\"eth0\"", "[1]"), "lb.toml:2:14: node: interface must be a string, not the number 1");
    says(&with("\"eth0\"", "[]"), "lb.toml:2:13: node: interface is empty: name at least one");
    says(
        &with(LISTEN, &format!("{LISTEN}\nhealth = 1")),
        "service web: health must be a table, not the number 1",
    );
    says(&with("\"web-1\"", "1"), "backend web/#1: name must be a string, not the number 1");
}

mod health {
    use super::*;
    use crate::config::spec::{Health, HttpProbe};

    fn health(defaults: &str, listen: &str, own: &str) -> Option<Health> {
        let text = format!(
            "{defaults}\n[node]\ninterface = \"eth0\"\nseed = \"s\"\n[[service]]\nname = \"web\"\nlisten = \"{listen}\"\n{own}\n"
        );
        spec(&text).services[0].health.clone()
    }

    fn own(own: &str) -> String {
        with(LISTEN, &format!("{LISTEN}\nhealth = {own}"))
    }

    const TCP: &str = "tcp/192.0.2.1:80";

    #[test]
    fn without_a_word_a_tcp_service_is_checked_on_its_port() {
        assert_eq!(health("", TCP, "").unwrap().port, 80);
        assert_eq!(health("", TCP, "health = true"), health("", TCP, ""));
    }

    #[test]
    fn an_any_port_service_needs_a_port_to_be_checked() {
        for listen in ["udp/192.0.2.1:53", "tcp/192.0.2.1:0"] {
            assert_eq!(health("", listen, ""), None);
            assert_eq!(health("health = { port = 9000 }", listen, "").unwrap().port, 9000);
            assert_eq!(health("", listen, "health = { port = 9000 }").unwrap().port, 9000);
        }
        let udp = SMALL.replace(LISTEN, "listen = \"udp/192.0.2.1:53\"\nhealth = { kind = \"http\" }");
        says_only(
            &errors(&udp),
            "lb.toml:8:10: service web: health.port is missing, and UDP cannot be checked by connecting: give a TCP \
             port to check, or health = false",
        );
    }

    #[test]
    fn false_turns_checks_off_for_one_or_all_services() {
        assert_eq!(health("", TCP, "health = false"), None);
        assert_eq!(health("health = false", TCP, ""), None);
        assert!(health("health = false", TCP, "health = true").is_some());
        assert!(health("health = false", TCP, "health = { fall = 3 }").is_some());
    }

    #[test]
    fn a_service_takes_from_the_defaults_what_it_does_not_say() {
        let defaults = "health = { kind = \"http\", path = \"/x\", fall = 5, rise = 4 }";
        let health = health(defaults, TCP, "health = { rise = 1 }").unwrap();
        assert_eq!((health.rise, health.fall), (1, 5));
        let Probe::Http(HttpProbe { path, expect, .. }) = health.probe else { panic!("no HTTP") };
        assert_eq!((path.as_str(), expect), ("/x", vec![200..=399]));
    }

    #[test]
    fn http_keys_of_the_defaults_do_not_disturb_a_tcp_check() {
        let defaults = "health = { path = \"/x\" }";
        assert_eq!(health(defaults, TCP, "health = { kind = \"tcp\" }").unwrap().probe, Probe::Tcp);
    }

    #[test]
    fn keys_that_the_kind_has_no_use_for_are_refused() {
        says_only(
            &own("{ path = \"/\" }"),
            "lb.toml:8:19: service web: health.path does not apply to kind \"tcp\": set health.kind to \"http\" or \
             \"https\"",
        );
        says(&own("{ kind = \"http\", verify = true }"), "health.verify does not apply to kind \"http\"");
    }

    #[test]
    fn codes_are_numbers_ranges_or_both_and_are_merged() {
        let expect = |value: &str| {
            let own = format!("health = {{ kind = \"http\", expect = {value} }}");
            match health("", TCP, &own).unwrap().probe {
                Probe::Http(http) => http.expect,
                probe => panic!("{probe:?}"),
            }
        };
        assert_eq!(expect("200"), [200..=200]);
        assert_eq!(expect("\"200-299\""), [200..=299]);
        assert_eq!(expect("[404, \"200-210\", 211, \"205-206\"]"), [200..=211, 404..=404]);
        for bad in ["99", "600", "\"300-200\"", "\"ok\"", "[]", "true", "[200, \"x\"]"] {
            says(&own(&format!("{{ kind = \"http\", expect = {bad} }}")), "health.expect ");
        }
    }

    #[test]
    fn the_fast_interval_is_not_the_slower_one() {
        assert_eq!(
            health("", TCP, "health = { interval = \"100ms\" }").unwrap().fast_interval.as_millis(),
            100
        );
        says(
            &own("{ interval = \"1s\", fast_interval = \"2s\" }"),
            "health.fast_interval 2s is longer than health.interval 1s",
        );
    }

    #[test]
    fn a_path_fits_into_a_request_line() {
        says(&own("{ kind = \"http\", path = \"x\" }"), "health.path \"x\" must begin with /");
        says(&own("{ kind = \"http\", path = \"/a b\" }"), "has ' ' in it");
        says(&own("{ kind = \"http\", path = \"/\\r\\nX: y\" }"), "control character");
        says(&own("{ kind = \"http\", host = \"a\\tb\" }"), "control character");
    }

    #[test]
    fn own_roots_count_only_where_certificates_are_checked() {
        let tls = |verify| {
            let own = format!("health = {{ kind = \"https\", verify = {verify}, ca = \"/ca.pem\" }}");
            match health("", TCP, &own).unwrap().probe {
                Probe::Http(HttpProbe { tls: Some(tls), .. }) => tls.ca.is_some(),
                probe => panic!("{probe:?}"),
            }
        };
        assert!(tls(true));
        assert!(!tls(false));
    }
}

#[test]
fn ring_slow_start_and_min_healthy_are_read_and_bounded() {
    let with_key = |line: &str| with(LISTEN, &format!("{LISTEN}\n{line}"));
    for (line, reported) in [
        ("ring = \"maglve\"", "ring \"maglve\" is none of \"maglev\", \"rendezvous\" (did you mean maglev?)"),
        ("slow_start = 30", "slow_start 30 has no unit: write whole numbers with units ms, s, m or h"),
        ("slow_start = \"0s\"", "slow_start \"0s\" is out of range: 1s to 1h"),
        ("min_healthy = 0", "min_healthy 0 is out of range: 1 to 40000"),
        ("min_healthy = \"101%\"", "min_healthy \"101%\" is out of range: \"1%\" to \"100%\""),
        ("min_healthy = \"+5%\"", "min_healthy \"+5%\" is out of range: \"1%\" to \"100%\""),
        (
            "min_healthy = \"half\"",
            "min_healthy \"half\" has no %: write a number of backends or a share of them",
        ),
        ("min_healthy = true", "min_healthy must be a number or a share, not true"),
    ] {
        says(&with_key(line), &format!("lb.toml:8:{}: service web: {reported}", line.find('=').unwrap() + 3));
    }
    let service =
        spec(&SMALL.replacen(LISTEN, &format!("{LISTEN}\nmin_healthy = \"30%\"\nslow_start = \"30s\""), 1))
            .services[0]
            .clone();
    assert_eq!(service.min_healthy, Some(MinHealthy::Percent(30)));
    assert_eq!((service.slow_start, service.ring), (Some(Duration::from_secs(30)), Builder::Maglev));
}
