//! A DNS query (RFC 1035) over UDP, TCP or both, and what is expected of its answer. Over UDP an answer that is cut off is asked
//! for again over TCP, as a resolver does (RFC 7766).

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
};

use super::{ANSWER, Budget, Failure, Outcome, Progress, connect, tcp, words::shortened};
use crate::config::{
    spec::{DnsProbe, RecordType, Transport},
    words::{Word as _, plural},
};

/// Room for an answer over UDP. Without EDNS servers send 512 bytes (RFC 1035, 4.2.1).
const ROOM: usize = 4096;

/// Asks as the probe says.
pub(super) async fn ask(
    address: SocketAddr,
    probe: &DnsProbe,
    budget: Budget,
    progress: &Progress,
) -> Outcome {
    let query = query(&probe.name, probe.record, fastrand::u16(..));
    let asked = async {
        let mut over_tcp = probe.transport != Transport::Udp;
        if probe.transport != Transport::Tcp {
            let answer = over_udp(address, &query, budget).await?;
            over_tcp |= answer.cut_off;
            judge("udp", &answer, probe)?;
        }
        if over_tcp {
            let answer = over_a_connection(address, &query, budget, progress).await?;
            if answer.cut_off {
                return Err(backend("tcp: the answer is marked as cut off, which it cannot be".to_owned()));
            }
            judge("tcp", &answer, probe)?;
        }
        Ok(())
    };
    asked.await.map_or_else(|outcome| outcome, |()| Outcome::Answer(Ok(())))
}

fn backend(words: String) -> Outcome {
    Outcome::Answer(Err(Failure::Backend(words)))
}

fn failed(over: &str, error: &io::Error) -> Outcome {
    match (error.kind(), tcp::refused(error)) {
        (io::ErrorKind::ConnectionRefused, _) if over == "udp" => {
            backend("udp: port unreachable, nothing listens there".to_owned())
        }
        (io::ErrorKind::UnexpectedEof, _) => {
            backend(format!("{over}: closed before the answer was complete"))
        }
        (_, Failure::Backend(words)) => backend(format!("{over}: {words}")),
        (_, local) => Outcome::Answer(Err(local)),
    }
}

async fn over_udp(address: SocketAddr, query: &[u8], budget: Budget) -> Result<Message, Outcome> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))
        .await
        .map_err(|error| Outcome::Answer(Err(Failure::LocalError(format!("no socket: {error}")))))?;
    socket.connect(address).await.map_err(|error| failed("udp", &error))?;
    socket.send(query).await.map_err(|error| failed("udp", &error))?;
    let mut room = vec![0; ROOM];
    let mut strays = 0_u32;
    loop {
        let Some(received) = budget.within(socket.recv(&mut room)).await else {
            let mut words = format!("udp: no answer within {} ms", budget.milliseconds());
            if strays > 0 {
                let _ = write!(words, ", {strays} to other queries");
            }
            return Err(Outcome::Silence(ANSWER, words));
        };
        let length = received.map_err(|error| failed("udp", &error))?;
        match Message::read(room.get(..length).unwrap_or_default(), query) {
            Ok(message) => return Ok(message),
            // Another query's answer, or forged: ours may still come.
            Err(Bad::OtherId) => strays += 1,
            Err(Bad::Message(words)) => return Err(backend(format!("udp: {words}"))),
        }
    }
}

async fn over_a_connection(
    address: SocketAddr,
    query: &[u8],
    budget: Budget,
    progress: &Progress,
) -> Result<Message, Outcome> {
    let tcp::Connection { mut stream, reset } = connect(address, budget, progress).await?;
    if let Some(error) = reset {
        return Err(failed("tcp", &error));
    }
    let exchange = async {
        // Length and query in one segment (RFC 7766, 8).
        let mut framed = Vec::from((query.len() as u16).to_be_bytes());
        framed.extend(query);
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let Some(answer) = budget.within(exchange).await else {
        let words = format!("tcp: no answer within {} ms", budget.milliseconds());
        return Err(Outcome::Silence(ANSWER, words));
    };
    Message::read(&answer.map_err(|error| failed("tcp", &error))?, query).map_err(|bad| {
        backend(match bad {
            Bad::OtherId => "tcp: the answer has another identifier than the query".to_owned(),
            Bad::Message(words) => format!("tcp: {words}"),
        })
    })
}

/// A query with recursion desired. The name was checked with the configuration.
fn query(name: &str, record: RecordType, id: u16) -> Vec<u8> {
    let mut query = Vec::from(id.to_be_bytes());
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(record.number().to_be_bytes());
    // The class of the Internet.
    query.extend([0, 1]);
    query
}

/// What there is of an answer.
#[derive(Debug)]
struct Message {
    code: u8,
    cut_off: bool,
    /// Type and text of each record of the answer.
    records: Vec<(u16, String)>,
}

/// Why bytes are not an answer to a query.
#[derive(Debug, PartialEq, Eq)]
enum Bad {
    OtherId,
    Message(String),
}

impl Message {
    fn read(bytes: &[u8], query: &[u8]) -> Result<Self, Bad> {
        let bad = |words: &str| Bad::Message(words.to_owned());
        let [i, d, flags, more, q, qq, a, aa, ..] = *bytes else {
            return Err(Bad::Message(format!(
                "{} not a DNS answer",
                plural(bytes.len() as u64, "byte is", "bytes are")
            )));
        };
        if query.get(..2) != Some(&[i, d]) {
            return Err(Bad::OtherId);
        }
        if flags & 0x80 == 0 {
            return Err(bad("the query came back instead of an answer: not a DNS server?"));
        }
        let (code, cut_off) = (more & 0xf, flags & 2 != 0);
        let mut reader = Reader { bytes, at: 12 };
        match u16::from_be_bytes([q, qq]) {
            // Some servers leave the question out of what is an error.
            0 if code != 0 => {}
            1 => {
                let mut asked = Reader { bytes: query, at: 12 };
                let question = |reader: &mut Reader<'_>| Some((reader.name()?, reader.u16()?, reader.u16()?));
                let theirs = question(&mut reader).ok_or_else(|| bad("the answer ends in its question"))?;
                let ours = question(&mut asked);
                if ours.is_none_or(|ours| {
                    !ours.0.eq_ignore_ascii_case(&theirs.0) || ours.1 != theirs.1 || ours.2 != theirs.2
                }) {
                    let asked = shortened(&theirs.0);
                    return Err(Bad::Message(format!(
                        "the answer is to another question: {asked} type {}",
                        theirs.1
                    )));
                }
            }
            number => return Err(Bad::Message(format!("the answer has {number} questions"))),
        }
        let mut records = Vec::new();
        let count = if cut_off { 0 } else { u16::from_be_bytes([a, aa]) };
        for number in 1..=count {
            let record = reader.record();
            let record = record
                .ok_or_else(|| Bad::Message(format!("record {number} of {count} in the answer is broken")))?;
            records.push(record);
        }
        Ok(Self { code, cut_off, records })
    }
}

/// A place in a message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// A name with its last dot. Pointers (RFC 1035, 4.1.4) go backwards only, and a name of
    /// 255 bytes has fewer labels and pointers than the loop has turns.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut behind = None;
        let mut before = self.at;
        for _ in 0..256 {
            match self.u8()? {
                0 => {
                    self.at = behind.unwrap_or(self.at);
                    if name.is_empty() {
                        name.push('.');
                    }
                    return Some(name);
                }
                length @ 1..=63 => {
                    for _ in 0..length {
                        match self.u8()? {
                            byte @ b'!'..=b'~' if byte != b'.' && byte != b'\\' => name.push(byte.into()),
                            other => {
                                let _ = write!(name, "\\{other:03}");
                            }
                        }
                    }
                    name.push('.');
                }
                high @ 192.. => {
                    let to = usize::from(high & 63) << 8 | usize::from(self.u8()?);
                    behind.get_or_insert(self.at);
                    if to >= before {
                        return None;
                    }
                    (self.at, before) = (to, to);
                }
                _ => return None,
            }
        }
        None
    }

    /// Type and text of a record; what it has is written as in a zone file.
    fn record(&mut self) -> Option<(u16, String)> {
        self.name()?;
        let (kind, _class, _ttl, length) = (self.u16()?, self.u16()?, self.u32()?, self.u16()?);
        let end = self.at + usize::from(length);
        let data = self.bytes.get(self.at..end)?;
        let record = RecordType::WORDS.iter().find(|(_, record)| record.number() == kind);
        let text = match record.map(|(_, record)| record) {
            Some(RecordType::A) => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
            Some(RecordType::Aaaa) => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
            // Of a SOA its first name, the primary server.
            Some(RecordType::Cname | RecordType::Ns | RecordType::Ptr | RecordType::Soa) => self.name()?,
            Some(RecordType::Mx) => format!("{} {}", self.u16()?, self.name()?),
            Some(RecordType::Srv) => {
                format!("{} {} {} {}", self.u16()?, self.u16()?, self.u16()?, self.name()?)
            }
            Some(RecordType::Txt) => {
                let (mut text, mut rest) = (Vec::new(), data);
                while let [length, tail @ ..] = rest {
                    let (string, tail) = tail.split_at_checked(usize::from(*length))?;
                    text.extend(string);
                    rest = tail;
                }
                String::from_utf8_lossy(&text).into_owned()
            }
            None => String::new(),
        };
        self.at = end;
        Some((kind, text))
    }
}

/// Whether the answer is the expected one, unless it is cut off.
fn judge(over: &str, answer: &Message, probe: &DnsProbe) -> Result<(), Outcome> {
    let wrong = |words: String| Err(backend(format!("{over}: {words}")));
    if answer.cut_off {
        return Ok(());
    }
    if probe.code.number().is_some_and(|wanted| wanted != answer.code) {
        return wrong(format!("answered {}, not {}", code(answer.code), probe.code.word().to_uppercase()));
    }
    let Some(wanted) = &probe.answer else { return Ok(()) };
    let of_type = answer.records.iter().filter(|(kind, _)| *kind == probe.record.number());
    let texts: Vec<&str> = of_type.map(|(_, text)| text.as_str()).collect();
    if texts.iter().any(|text| is_same(text, wanted)) {
        return Ok(());
    }
    let (kind, wanted) = (probe.record.word(), shortened(wanted));
    match texts[..] {
        [] => wrong(format!("the answer has no {kind} record, not {wanted}")),
        _ => wrong(format!("the answer has {kind} {}, not {wanted}", shortened(&texts.join(", ")))),
    }
}

/// Addresses are compared by value, names in any case and with or without the last dot.
fn is_same(text: &str, wanted: &str) -> bool {
    match (text.parse::<IpAddr>(), wanted.parse::<IpAddr>()) {
        (Ok(text), Ok(wanted)) => text == wanted,
        _ => text.trim_end_matches('.').eq_ignore_ascii_case(wanted.trim_end_matches('.')),
    }
}

fn code(code: u8) -> String {
    let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    names.get(usize::from(code)).map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::{config::spec::Code, wait::LIMIT};

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
        let bad: [(Answers, &str); 7] = [
            (|query| query.to_vec(), "the query came back instead of an answer: not a DNS server?"),
            (|query| query[..7].to_vec(), "7 bytes are not a DNS answer"),
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

    #[test]
    fn a_name_that_points_forwards_or_to_itself_is_broken() {
        for pointer in [[0xc0, 12], [0xc0, 14]] {
            assert_eq!(Reader { bytes: &[&[0; 12], &pointer[..], &[0; 4]].concat(), at: 12 }.name(), None);
        }
        let chain: Vec<u8> = (0..2_000_u16).flat_map(|n| (0xc000 | (n * 2)).to_be_bytes()).collect();
        assert_eq!(Reader { bytes: &[&[0, 0][..], &chain].concat(), at: 4_000 }.name(), None);
    }
}
