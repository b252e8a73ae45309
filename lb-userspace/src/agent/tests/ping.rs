//! `node.ping` and `node.too_big`: what the tables say of them, and when an address answers.

use lb_common::{icmp::Ping, map::Node, service::Service};

use super::*;
use crate::tables::Tables as _;

/// Two services of one address, and one of another whose checks ask another port: who asks the same knows the same.
fn services() -> String {
    let checked = |text: String| text.replace("health = false", "health = { kind = \"tcp\" }\nhold = \"0s\"");
    let other = WEB.replace("\"web", "\"dns").replace("10:443", "10:53");
    let far = WEB.replace("\"web", "\"far").replace("113.10:443", "113.11:8443");
    [checked(WEB.to_owned()), checked(other), checked(far)].concat()
}

fn started(node: &str) -> Bench {
    let directory = TempDir::new().unwrap();
    let text = text(&directory, &services()).replace("seed =", &format!("{node}\nseed ="));
    fs::write(file(&directory), text).unwrap();
    start(directory, Twin::new(Sizes::new(8, 64, 4096)), false)
}

/// Which services are said to answer, by the last byte of their address and their port.
fn answering(bench: &Bench) -> Vec<(u8, u16)> {
    let all = bench.agent.reconciler.tables().services().unwrap();
    let answers = |service: &&Service| service.flags & Service::ANSWERS_PING != 0;
    let place = |service: &Service| (service.address[3].to_ne_bytes()[3], service.port_protocol as u16);
    let mut found: Vec<_> = all.iter().filter(answers).map(place).collect();
    found.sort_unstable();
    found
}

fn node(bench: &Bench) -> Node {
    bench.agent.reconciler.tables().node().unwrap()
}

#[test]
fn pings_and_too_large_packets_are_answered_by_default() {
    let bench = started("");
    assert_eq!(node(&bench).ping(), Ping::Answer);
    assert_ne!(node(&bench).flags & Node::ANSWER_TOO_BIG, 0);
    assert_eq!(answering(&bench), [], "no packet asks for it");
}

#[test]
fn each_word_is_what_the_tables_say() {
    for (word, ping) in
        [("answer", Ping::Answer), ("healthy", Ping::Healthy), ("host", Ping::Host), ("drop", Ping::Drop)]
    {
        let bench = started(&format!("ping = \"{word}\"\ntoo_big = \"drop\""));
        assert_eq!(node(&bench).ping(), ping, "{word}");
        assert_eq!(node(&bench).flags & Node::ANSWER_TOO_BIG, 0);
    }
}

#[test]
fn an_address_answers_while_one_of_its_services_has_a_backend_that_is_up() {
    let mut bench = started("ping = \"healthy\"");
    assert_eq!(answering(&bench), [], "nothing is known yet");
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Up)]);
    assert_eq!(
        answering(&bench),
        [(10, 53), (10, 443)],
        "both services of the address, for packets find either"
    );
    verdicts(&mut bench, &[("web-1", "10.0.0.11", Verdict::Down), ("web-2", "10.0.0.12", Verdict::Down)]);
    assert_eq!(answering(&bench), []);
}
