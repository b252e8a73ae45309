//! DNS probes against servers on loopback that answer rightly, wrongly, for others, and not at all.

use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::{
    config::spec::{Code, RecordType},
    wait::LIMIT,
};

fn probe(answer: Option<&str>, transport: Transport) -> DnsProbe {
    let answer = answer.map(str::to_owned);
    DnsProbe { name: "www.example".into(), record: RecordType::A, code: Code::NoError, answer, transport }
}

/// The answer to a query: flags of the second and third byte, and records that are there already.
fn answer(query: &[u8], flags: [u8; 2], records: &[&[u8]]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&flags);
    answer[7] = records.len() as u8;
    answer.extend(records.concat());
    answer
}

fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8], data].concat()
}

type Answers = fn(&[u8]) -> Vec<u8>;

/// A server on both transports, on one port, that gives these answers; one that is empty is not sent.
async fn server(udp: Answers, tcp: Answers) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut room = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut room).await {
            let answer = udp(&room[..length]);
            if !answer.is_empty() {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap_or(0))];
            if stream.read_exact(&mut query).await.is_ok() {
                let answer = tcp(&query);
                let _ = stream.write_all(&(answer.len() as u16).to_be_bytes()).await;
                let _ = stream.write_all(&answer).await;
            }
        }
    });
    address
}

async fn asked(address: SocketAddr, probe: &DnsProbe) -> Result<(), String> {
    match ask(address, probe, Budget::new(LIMIT), &Progress::default()).await {
        Outcome::Answer(answer) => answer.map_err(|failure| failure.to_string()),
        Outcome::Silence(_, words) => Err(words),
    }
}

const FINE: Answers =
    |query| answer(query, [0x81, 0x80], &[&record(1, &[192, 0, 2, 7]), &record(1, &[192, 0, 2, 8])]);
const CUT_OFF: Answers = |query| answer(query, [0x83, 0x80], &[]);
const REFUSED: Answers = |query| answer(query, [0x81, 5], &[]);

#[tokio::test]
async fn each_transport_is_asked_and_what_is_cut_off_is_asked_over_tcp() {
    use Transport::{Both, Tcp, Udp};
    for (udp, tcp, transport, wanted) in [
        (FINE, REFUSED, Udp, Ok(())),
        (REFUSED, FINE, Tcp, Ok(())),
        (FINE, FINE, Both, Ok(())),
        (FINE, REFUSED, Both, Err("tcp: answered REFUSED, not NOERROR")),
        (REFUSED, FINE, Both, Err("udp: answered REFUSED, not NOERROR")),
        (CUT_OFF, FINE, Udp, Ok(())),
        (CUT_OFF, REFUSED, Udp, Err("tcp: answered REFUSED, not NOERROR")),
        (CUT_OFF, CUT_OFF, Udp, Err("tcp: the answer is marked as cut off, which it cannot be")),
    ] {
        let address = server(udp, tcp).await;
        let said = asked(address, &probe(Some("192.0.2.8"), transport)).await;
        assert_eq!(said, wanted.map_err(str::to_owned), "{transport:?}");
    }
}

#[tokio::test]
async fn bad_answers_are_reported_in_words() {
    let bad: [(Answers, &str); 8] = [
        (|query| query.to_vec(), "the query came back instead of an answer: not a DNS server?"),
        (|query| query[..7].to_vec(), "7 bytes are not a DNS answer"),
        (
            |query| {
                let name = [&[63; 64][..], &[63; 64], &[63; 64], &[62; 63], &[0]].concat();
                let fields = [0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9];
                answer(query, [0x81, 0x80], &[&[&name[..], &fields].concat()])
            },
            "record 1 of 1 in the answer is broken",
        ),
        (|query| answer(query, [0x81, 0x82], &[]), "answered SERVFAIL, not NOERROR"),
        (|query| answer(query, [0x81, 0x80], &[]), "the answer has no A record, not 192.0.2.9"),
        (FINE, "the answer has A 192.0.2.7, 192.0.2.8, not 192.0.2.9"),
        (
            |query| answer(query, [0x81, 0x80], &[&record(1, &[1; 4])[..15]]),
            "record 1 of 1 in the answer is broken",
        ),
        (
            |query| {
                let mut other = answer(query, [0x81, 0x80], &[]);
                other[13] = b'x';
                other
            },
            "the answer is to another question: xww.example. type 1",
        ),
    ];
    for (answers, words) in bad {
        let said = asked(server(answers, FINE).await, &probe(Some("192.0.2.9"), Transport::Udp)).await;
        assert_eq!(said, Err(format!("udp: {words}")));
    }
}

#[tokio::test]
async fn an_answer_to_another_query_is_passed_over() {
    let others: Answers = |query| {
        let mut other = answer(query, [0x81, 0x80], &[]);
        other[0] ^= 1;
        other
    };
    let address = server(others, FINE).await;
    let budget = Budget::new(Duration::from_millis(300));
    let outcome = ask(address, &probe(None, Transport::Udp), budget, &Progress::default()).await;
    let Outcome::Silence(_, words) = outcome else { panic!("{outcome:?}") };
    assert_eq!(words, "udp: no answer within 300 ms, 1 to other queries");
    let said = asked(server(FINE, others).await, &probe(None, Transport::Tcp)).await;
    assert_eq!(said, Err("tcp: the answer has another identifier than the query".to_owned()));
}

#[tokio::test]
async fn what_does_not_begin_with_our_identifier_is_passed_over() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut room = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut room).await {
            let query = &room[..length];
            let other = [!query[0], query[1]];
            // Nothing at all, half an identifier, another one alone, text, and an answer to another query that refuses.
            let refusal = [&other[..], &[0x81, 5], &query[4..]].concat();
            let begin = [query[0]];
            let strays: [&[u8]; 5] = [&[], &begin, &other, &[b'?'; 30], &refusal];
            for stray in strays {
                let _ = socket.send_to(stray, from).await;
            }
            // From a socket of its own, right in every byte but its sender.
            let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let _ = stranger.send_to(&REFUSED(query), from).await;
            let _ = socket.send_to(&FINE(query), from).await;
        }
    });
    assert_eq!(asked(address, &probe(Some("192.0.2.8"), Transport::Udp)).await, Ok(()));
}

#[tokio::test]
async fn a_flood_of_other_answers_ends_with_the_time_and_holds_up_no_other_check() {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let flood = std::thread::spawn(move || {
        let (_, from) = socket.recv_from(&mut [0; 512]).unwrap();
        socket.connect(from).unwrap();
        let mut sent = 0_u32;
        // Until the probe is over and its port is closed.
        while socket.send(&[0; 1]).is_ok() {
            sent += 1;
        }
        sent
    });
    let budget = Budget::new(Duration::from_millis(300));
    let (probe, progress) = (probe(None, Transport::Udp), Progress::default());
    let mut others = 0_u32;
    let outcome = tokio::select! {
        outcome = ask(address, &probe, budget, &progress) => outcome,
        () = async { loop { others += 1; tokio::task::yield_now().await } } => unreachable!(),
    };
    let Outcome::Silence(_, words) = outcome else { panic!("{outcome:?}") };
    assert!(words.starts_with("udp: no answer within 300 ms, "), "{words}");
    assert!(flood.join().unwrap() > 10 && others > 10, "{others}");
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_reported() {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let said = asked(free, &probe(None, Transport::Udp)).await;
    assert_eq!(said, Err("udp: port unreachable, nothing listens there".to_owned()));
    assert_eq!(asked(free, &probe(None, Transport::Tcp)).await, Err("connection refused".to_owned()));
}

#[test]
fn records_are_compared_as_a_zone_file_has_them() {
    let name = b"\x04Mail\xc0\x10";
    for (kind, data, wanted) in [
        (RecordType::Mx, [&[0, 10][..], name].concat(), "10 mail.example"),
        (RecordType::Srv, [&[0, 1, 0, 2, 0, 53][..], name].concat(), "1 2 53 mail.example."),
        (RecordType::Ns, name.to_vec(), "mail.EXAMPLE."),
        (RecordType::Txt, b"\x02is\x03 ok".to_vec(), "is ok"),
        (RecordType::Aaaa, [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat(), "2001:db8:0::1"),
        (RecordType::Soa, [name, &name[..], &[0; 19], &[7]].concat(), "mail.example"),
    ] {
        let query = query("www.example.", kind, 7);
        let record = record(kind.number() as u8, &data);
        let message = Message::read(&answer(&query, [0x81, 0x80], &[&record]), &query).unwrap();
        let probe = DnsProbe { record: kind, ..probe(Some(wanted), Transport::Udp) };
        assert!(judge("udp", &message, &probe).is_ok(), "{message:?}");
    }
}
