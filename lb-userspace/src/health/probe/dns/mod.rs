//! A DNS query (RFC 1035) over UDP, TCP or both, and what is expected of its answer. Over UDP an answer that is cut off is asked
//! for again over TCP, as a resolver does (RFC 7766).

mod message;

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
};

use self::message::{Bad, Message, query};
use super::{ANSWER, Budget, Failure, Outcome, Progress, connect, tcp, words::shortened};
use crate::config::{
    spec::{DnsProbe, Transport},
    words::Word as _,
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
            // Another query's answer, or forged, or no DNS at all: it proves nothing, and ours may still come.
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
mod tests;
