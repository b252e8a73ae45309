//! Configuration files, with any bytes. Either the parser reports everything that is wrong, each with its place; or the file is
//! accepted, means the same after it is written out, and can be planned.

use std::net::IpAddr;

use lb_userspace::{
    agent::{desired, rings::Rings},
    config::{self, Configuration, Diagnostic, Document, Place, keys, overlay::Overlay, spec::Spec},
    health::Verdict,
    net::Hop,
    reconcile::{PlanError, Reconciler},
    state::{self, Observed},
    tables::{Sizes, memory::Twin},
};

/// Rings for at most this many backends are small enough to be built ten thousand times.
const FEW: u32 = 40;

pub(super) fn judge(bytes: &[u8]) {
    match config::parse(bytes, "file") {
        Ok(document) => taken(document),
        Err(errors) => check_errors(&errors, bytes),
    }
}

/// Checks that every error has a place and a message.
fn check_errors(errors: &[Diagnostic], bytes: &[u8]) {
    assert!(!errors.is_empty(), "refused without a reason");
    let lines = bytes.split(|byte| *byte == b'\n').count() as u32;
    for error in errors {
        assert!(!error.message.is_empty(), "an error without a message at {}", error.place);
        if let Place::Text { line, column, .. } = error.place {
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {error}");
            assert!(column >= 1 && column as usize <= bytes.len() + 1, "column {column}: {error}");
        }
        let text = error.to_string();
        assert!(!text.ends_with('.'), "ends in a full stop: {text}");
    }
    assert!(errors.is_sorted_by_key(|error| error.place.clone()), "errors out of order");
}

fn taken(document: Document) {
    let configuration = Configuration::new(document, &Overlay::default());
    assert!(configuration.describe().is_empty(), "a file without run-time changes differs from itself");
    meant(configuration.spec());
}

/// Checks what every spec must allow: it can be written and read again, and be planned.
pub(super) fn meant(spec: &Spec) {
    let text = config::render(spec);
    match config::parse(text.as_bytes(), "rendered") {
        Ok(again) => assert!(again.spec == *spec, "reads back as another: {text}"),
        Err(errors) => panic!("what was written is refused: {}", errors[0]),
    }
    if spec.services.iter().map(|service| service.max_backends.backends()).sum::<u32>() <= FEW {
        planned(spec);
    }
}

/// Applies the spec twice; the second time must write nothing.
fn planned(spec: &Spec) {
    let effective = state::effective(
        spec,
        Observed {
            health: &|_, _| Verdict::Up,
            hops: &|address| Ok(hop(address)),
            before: &|_, _| None,
            said: &|_, _| lb_userspace::health::Said::default(),
            doubted: &|_, _| None,
            failing: &|_, _| None,
            entered: &|_, _| None,
            now: 0,
        },
    );
    let mut reconciler = Reconciler::new(Twin::new(Sizes::new(64, 256, 32_768))).expect("memory");
    let mut rings = Rings::default();
    for round in 0..2 {
        let desired = desired::desired(spec, &effective, &mut rings, 0, |wishes| {
            wishes.iter().map(|wish| wish.length).collect()
        });
        let plan = match reconciler.plan(&desired, 1) {
            Ok(plan) => plan,
            // More than these tables can hold.
            Err(PlanError::Refused(why)) => {
                assert!(!why.is_empty(), "refused without a reason");
                return;
            }
            Err(PlanError::Tables(error)) => panic!("{error}"),
        };
        assert!(round == 0 || plan.entries() == 0, "the second time writes {}", plan.entries());
        reconciler.apply(&plan).expect("memory");
    }
}

pub(super) fn hop(address: IpAddr) -> Hop {
    Hop {
        interface: 3,
        interface_name: "eth0".to_owned(),
        via: address,
        mac: [2, 0, 0, 0, 0, 2],
        local_mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        source: if address.is_ipv4() { [10, 0, 0, 1].into() } else { [0xfd00, 0, 0, 0, 0, 0, 0, 1].into() },
    }
}

const SMALL: &str = "[node]\ninterface = \"eth0\"\nseed = \"s\"\n\n[[service]]\nname = \"web\"\nlisten = \
    \"tcp/203.0.113.10:443\"\nmax_backends = 2\n\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.0.1\"\nweight = 7\n";

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let annotated =
        include_str!("../../../../lb-userspace/doc/lb.toml").replace("seed = \"…\"", "seed = \"s\"");
    let whole = config::parse(annotated.as_bytes(), "lb.toml").map(|document| config::render(&document.spec));
    let services = "\n[[service]]\nname = \"six\"\nlisten = \"udp/[2001:db8::1]:0\"\nmax_backends = 3\nencapsulation = \
        \"ip6ip\"\nmin_healthy = \"50%\"\nslow_start = \"30s\"\nhealth = { kind = \"https\", port = 8443, path = \"/x\", \
        expect = [200, \"301-302\"], verify = true }\nbackend = [{ address = \"10.0.0.9\", state = \"draining\" }]\n";
    let mut seeds = vec![SMALL.to_owned(), annotated.clone(), format!("{SMALL}{services}")];
    seeds.extend(whole);
    seeds.extend(["health = false\n".to_owned() + SMALL, SMALL.replace('\n', "\r\n")]);
    seeds.into_iter().map(String::into_bytes).collect()
}

/// Every key, and values of every form.
pub(super) fn words() -> Vec<String> {
    let values = [
        "\"",
        "= ",
        "[[service]]\n",
        "[[service.backend]]\n",
        "[health]\n",
        "[limits]\n",
        "true",
        "false",
        "0",
        "-1",
        "1000",
        "4294967296",
        "1e9",
        "0x10",
        "nan",
        "\"1h30m\"",
        "\"500ms\"",
        "\"::\"",
        "\"0.0.0.0\"",
        "{ ",
        "}",
        "[",
        "]",
        "'''",
        "\"\"\"",
        "\\u0000",
        "1979-05-27",
        ".",
        "#",
        "\u{feff}",
        "é",
    ];
    let known = keys::sections().into_iter().chain([&keys::ROOT]).flat_map(keys::Section::names);
    values.map(str::to_owned).into_iter().chain(known.map(|name| format!("\n{name} = "))).collect()
}
