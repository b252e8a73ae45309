//! `[health]` and the `health` of a service: the given keys are laid over the defaults, and a check is made of them.

use super::Outside;
use crate::config::{
    diagnostic::{Kind, Place},
    keys,
    reader::Reader,
    spec::{self, Check, HEALTH, Health, Listen, Protocol, QUIET_INTERVAL, Scheme},
    value_tree::{Data, Node},
    words::Word as _,
};

/// The settings of services that have none of their own.
pub(super) enum Defaults {
    /// `health = false`.
    Off,
    On(Box<Check>),
}

impl Defaults {
    fn check(&self) -> Check {
        match self {
            Self::Off => Check::default(),
            Self::On(check) => (**check).clone(),
        }
    }
}

/// The `health` of the file.
pub(super) fn defaults(root: &Reader<'_, '_>, outside: Outside<'_>) -> Defaults {
    let mut check = Check::default();
    match root.get("health") {
        None | Some(Node { data: Data::Bool(true), .. }) => {}
        Some(Node { data: Data::Bool(false), .. }) => return Defaults::Off,
        Some(node) => {
            if let Some(reader) = Reader::open(node, "health", "", &keys::HEALTH, root.errors) {
                HEALTH.read(&reader, &mut check);
                check_times(&reader, &check);
                check_quiet(&reader, &check);
                check_command(&reader, &check);
                refuse_command(&reader, &check, |command, user| {
                    Some(outside.host?.default_command(command, user))
                });
                check_certificates(&reader, &check, outside);
            }
        }
    }
    Defaults::On(Box::new(check))
}

/// The health check of one service; `None` = none.
pub(super) fn of_service(
    service: &Reader<'_, '_>,
    listen: Option<Listen>,
    defaults: &Defaults,
    outside: Outside<'_>,
) -> Option<Health> {
    let node = service.get("health");
    let check = match node.map(|node| &node.data) {
        None if matches!(defaults, Defaults::Off) => return None,
        Some(Data::Bool(false)) => return None,
        None | Some(Data::Bool(true)) => defaults.check(),
        Some(_) => {
            let reader = Reader::open(node?, service.object, "health.", &keys::HEALTH, service.errors)?;
            let mut check = defaults.check();
            HEALTH.read(&reader, &mut check);
            check_applies(&reader, check.kind);
            check_times(&reader, &check);
            check_quiet(&reader, &check);
            check_command(&reader, &check);
            let default = defaults.check();
            if check.kind == Scheme::Exec
                && (&check.command, &check.user) != (&default.command, &default.user)
            {
                refuse_command(&reader, &check, |command, user| Some(outside.host?.command(command, user)));
            }
            check_answer(&reader, &check);
            if spec::takes(check.kind, "ca") {
                check_certificates(&reader, &check, outside);
            }
            check
        }
    };
    let own_port = listen.filter(|_| check.kind != Scheme::AgentCheck).and_then(|listen| match listen {
        Listen { protocol: Protocol::Tcp, port: 1.., .. } => Some(listen.port),
        Listen { protocol: Protocol::Udp, port: 1.., .. } if spec::over_udp(check.kind) => Some(listen.port),
        _ => None,
    });
    if !spec::takes(check.kind, "port") {
        return Some(check.build(0));
    }
    if check.kind == Scheme::Exec {
        let port = check.port.or_else(|| listen.map(|listen| listen.port)).unwrap_or(0);
        return Some(check.build(port));
    }
    let Some(port) = check.port.or(own_port) else {
        // By default, a service without a port to check is not checked. If the file asks for a check, report the missing port.
        if let (Some(node), Some(listen)) = (node, listen) {
            no_port(service, &node.at, listen, check.kind);
        }
        return None;
    };
    Some(check.build(port))
}

fn no_port(service: &Reader<'_, '_>, at: &Place, listen: Listen, kind: Scheme) {
    let over_udp = spec::over_udp(kind);
    let why = match listen.protocol {
        _ if kind == Scheme::AgentCheck => "an agent has a port of its own",
        Protocol::Udp if !over_udp => "UDP cannot be checked by connecting",
        Protocol::Udp | Protocol::Tcp => "the service listens on every port",
    };
    let port = if over_udp { "port" } else { "TCP port" };
    let message = format!("health.port is missing, and {why}: give a {port} to check, or health = false");
    service.errors.push(at, service.object, message, Kind::Missing);
}

/// Reports keys that the service itself sets although its kind of check does not use them. Keys from `[health]` are not
/// reported: they are for other services.
fn check_applies(reader: &Reader<'_, '_>, kind: Scheme) {
    for key in keys::HEALTH.names() {
        let Some(kinds) = spec::kinds(key).filter(|kinds| !kinds.contains(&kind)) else { continue };
        if let Some(node) = reader.get(key) {
            let words: Vec<String> = kinds.iter().map(|kind| format!("{:?}", kind.word())).collect();
            let (word, words) = (kind.word(), words.join(" or "));
            let message = format!("health.{key} does not apply to kind {word:?}: set health.kind to {words}");
            reader.wrong(&node.at, message);
        }
    }
}

/// Only an answer without an error has records.
fn check_answer(reader: &Reader<'_, '_>, check: &Check) {
    if check.code.has_records() || check.answer.is_none() {
        return;
    }
    let Some(at) = ["answer", "code"].into_iter().find_map(|key| reader.get(key)) else { return };
    let code = check.code.word();
    let message = format!(
        "health.answer is set, and an answer with the code {code:?} has no records: leave one of them out"
    );
    reader.wrong(&at.at, message);
}

/// A file that a check needs must have certificates in it: a check that cannot run leaves dead backends up. The error is at
/// the place of `ca`, or of `verify`.
fn check_certificates(reader: &Reader<'_, '_>, check: &Check, outside: Outside<'_>) {
    let (Some(host), Some(ca), true) = (outside.host, &check.ca, check.verify) else { return };
    let Some(at) = ["ca", "verify"].into_iter().find_map(|key| reader.get(key)) else { return };
    if let Err(why) = host.certificates(ca) {
        reader.wrong(&at.at, format!("health.ca {why}"));
    }
}

/// An explicit fast interval must not be longer than the interval. The error is at the place of `fast_interval`, or of
/// `interval`.
fn check_times(reader: &Reader<'_, '_>, check: &Check) {
    let Some(fast) = check.fast_interval.filter(|&fast| fast > check.interval) else { return };
    let Some(at) = ["fast_interval", "interval"].into_iter().find_map(|key| reader.get(key)) else { return };
    let [fast, interval] = [fast, check.interval].map(crate::config::words::duration);
    reader.wrong(
        &at.at,
        format!("health.fast_interval {fast} is longer than health.interval {interval}: it must not be"),
    );
}

/// A command needs a user. An error is at the place of the key, or of the kind.
fn check_command(reader: &Reader<'_, '_>, check: &Check) {
    if check.kind != Scheme::Exec {
        return;
    }
    let missing = |key: &str, way_out: &str| {
        // A value that is wrong is reported already.
        if let Some(at) = place(reader, key).filter(|_| reader.get(key).is_none()) {
            let message = format!("health.{key} is missing: {way_out}");
            reader.errors.push(at, reader.object, message, Kind::Missing);
        }
    };
    if check.command.is_empty() {
        missing("command", "a check of kind \"exec\" runs one, as in [\"/usr/lib/lb/check\", \"quick\"]");
    }
    if check.user.is_none() {
        missing("user", "name a user of this host, not root, that runs the command");
    }
}

/// What the host says of a command that is there, and of its user.
fn refuse_command(
    reader: &Reader<'_, '_>,
    check: &Check,
    host: impl Fn(&[String], &str) -> Option<Vec<(&'static str, String)>>,
) {
    let Some(user) = check.user.as_ref().filter(|_| !check.command.is_empty()) else { return };
    for (key, why) in host(&check.command, user).unwrap_or_default() {
        if let Some(at) = place(reader, key) {
            reader.wrong(at, format!("health.{key} {why}"));
        }
    }
}

/// The place of a key, or of the kind that it is for.
fn place<'a>(reader: &'a Reader<'_, '_>, key: &str) -> Option<&'a Place> {
    [key, "kind", "command", "user"].into_iter().find_map(|key| reader.get(key)).map(|node| &node.at)
}

/// A check that only waits for an ICMP error must not ask more often than hosts send such errors. The error is at the place of
/// the key that is too short, or of the kind.
fn check_quiet(reader: &Reader<'_, '_>, check: &Check) {
    // A reply that is wrong is reported already.
    if check.kind != Scheme::Udp || check.reply.is_some() || reader.get("reply").is_some() {
        return;
    }
    let short = [("interval", Some(check.interval)), ("fast_interval", check.fast_interval)];
    for (key, time) in short {
        let Some(time) = time.filter(|time| *time < QUIET_INTERVAL) else { continue };
        let Some(at) = [key, "kind"].into_iter().find_map(|key| reader.get(key)) else { continue };
        let [time, least] = [time, QUIET_INTERVAL].map(crate::config::words::duration);
        let message = format!(
            "health.{key} {time} is too short for kind \"udp\" without health.reply: hosts report a closed port about once a \
             second, so make it at least {least}, or say what reply is expected"
        );
        reader.wrong(&at.at, message);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{
        parse,
        spec::{Health, Probe},
        testing::lines,
    };

    /// The check of the service `x` that listens at `listen`, and what is wrong with it.
    fn health(listen: &str, own: &str) -> Result<Health, String> {
        let text = format!(
            "[node]\ninterface = \"eth0\"\nseed = \"s\"\n[[service]]\nname = \"x\"\nlisten = \"{listen}\"\nhealth = {own}\n"
        );
        let read = parse(text.as_bytes(), "lb.toml").map_err(|errors| lines(&errors))?;
        read.spec.services[0].health.clone().ok_or_else(|| "not checked".to_owned())
    }

    #[track_caller]
    fn refused(listen: &str, own: &str, words: &str) {
        let said = health(listen, own).unwrap_err();
        assert_eq!(said, format!("{words}\n"));
    }

    const UDP: &str = "udp/192.0.2.1:5000";

    #[test]
    fn a_udp_check_asks_the_port_of_its_service() {
        let asked = health(UDP, "{ kind = \"udp\", payload = \"hex:00ff\", reply = \"\" }").unwrap();
        let Probe::Udp(probe) = &asked.probe else { panic!("{asked:?}") };
        assert_eq!(
            (probe.payload.bytes(), asked.port, asked.fast_interval.as_millis()),
            (vec![0, 255], 5000, 100)
        );
        assert_eq!(asked.to_string(), "udp port 5000 every 500ms");
        refused(
            "udp/192.0.2.1:0",
            "{ kind = \"udp\", reply = \"\" }",
            "lb.toml:7:10: service x: health.port is missing, and the service listens on every port: give a port to check, or \
             health = false",
        );
        refused(
            UDP,
            "{ kind = \"udp\", reply = \"hex:123\" }",
            "lb.toml:7:34: service x: health.reply \"hex:123\" is not hexadecimal: pairs of digits behind hex:, as in \"hex:0a0b\"",
        );
        let long = format!("{{ kind = \"udp\", reply = \"\", payload = \"{}\" }}", "x".repeat(513));
        refused(
            UDP,
            &long,
            "lb.toml:7:48: service x: health.payload is 513 bytes long: at most 512 are allowed",
        );
    }

    #[test]
    fn an_agent_has_a_port_of_its_own() {
        let asked = health("tcp/192.0.2.1:80", "{ kind = \"agent-check\", port = 9707, payload = \"x\\n\" }")
            .unwrap();
        assert_eq!(
            (asked.to_string(), asked.probe),
            ("agent-check port 9707 every 500ms".to_owned(), Probe::AgentCheck("x\n".into()),)
        );
        refused(
            "tcp/192.0.2.1:80",
            "{ kind = \"agent-check\" }",
            "lb.toml:7:10: service x: health.port is missing, and an agent has a port of its own: give a TCP port to check, or \
             health = false",
        );
        refused(
            "tcp/192.0.2.1:80",
            "{ kind = \"agent-check\", port = 1, reply = \"x\" }",
            "lb.toml:7:52: service x: health.reply does not apply to kind \"agent-check\": set health.kind to \"udp\"",
        );
    }

    #[test]
    fn a_grpc_check_asks_about_the_server_or_a_service() {
        let asked = |own: &str| health("tcp/192.0.2.1:80", own).map(|asked| (asked.to_string(), asked.probe));
        let (line, probe) = asked("{ kind = \"grpc\" }").unwrap();
        assert_eq!((line.as_str(), probe.tls()), ("grpc port 80 every 500ms", None));
        let own = "{ kind = \"grpcs\", service = \"shop.v1.Shop\", host = \"shop.example\", verify = true }";
        let (line, probe) = asked(own).unwrap();
        assert_eq!(line, "grpcs port 80 service shop.v1.Shop every 500ms");
        assert!(probe.tls().is_some_and(|tls| tls.verify));
        for (own, words) in [
            ("{ kind = \"grpc\", verify = true }", "health.verify does not apply to kind \"grpc\""),
            ("{ kind = \"http\", service = \"x\" }", "health.service does not apply to kind \"http\""),
            ("{ kind = \"grpc\", service = \"a\\u0007\" }", "control character"),
        ] {
            let said = asked(own).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_command_needs_a_path_and_a_user() {
        let own = "{ kind = \"exec\", command = [\"/usr/lib/lb/check\", \"a b\"], user = \"check\" }";
        let asked = health("udp/192.0.2.1:0", own).unwrap();
        assert_eq!((asked.to_string().as_str(), asked.port), ("exec /usr/lib/lb/check every 500ms", 0));
        let Probe::Exec(probe) = asked.probe else { panic!("no command") };
        assert_eq!(
            (probe.command, probe.user.as_str()),
            (vec!["/usr/lib/lb/check".into(), "a b".into()], "check")
        );
        let own = "{ kind = \"exec\", command = \"/bin/true\", user = \"check\" }";
        assert_eq!(health(UDP, own).unwrap().port, 5000, "what LB_PORT says");
        refused(
            UDP,
            "{ kind = \"exec\" }",
            "lb.toml:7:19: service x: health.command is missing: a check of kind \"exec\" runs one, as in \
             [\"/usr/lib/lb/check\", \"quick\"]\nlb.toml:7:19: service x: health.user is missing: name a user of this host, not \
             root, that runs the command",
        );
        for (command, words) in [
            ("[]", "health.command has 0 words: 1 to 64 are allowed"),
            ("\"true\"", "health.command \"true\" must be an absolute path: no shell looks for it"),
            ("[\"/bin/true\", 1]", "health.command must be a string, not the number 1"),
            ("[\"/bin/true\", \"\\u0000\"]", "control character"),
        ] {
            let own = format!("{{ kind = \"exec\", user = \"check\", command = {command} }}");
            let said = health(UDP, &own).unwrap_err();
            assert!(said.contains(words) && said.lines().count() == 1, "{said}");
        }
    }

    #[test]
    fn a_check_that_waits_for_icmp_errors_has_time_for_them() {
        let fine = health(UDP, "{ kind = \"udp\", interval = \"2s\" }").unwrap();
        assert_eq!(fine.fast_interval.as_secs(), 2, "no faster one");
        let why = "without health.reply: hosts report a closed port about once a second, so make it at least 2s, or say what \
                   reply is expected";
        refused(
            UDP,
            "{ kind = \"udp\" }",
            &format!("lb.toml:7:19: service x: health.interval 500ms is too short for kind \"udp\" {why}"),
        );
        refused(
            UDP,
            "{ kind = \"udp\", interval = \"3s\", fast_interval = \"1s\" }",
            &format!("lb.toml:7:59: service x: health.fast_interval 1s is too short for kind \"udp\" {why}"),
        );
    }
}
