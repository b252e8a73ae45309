//! A datagram, and what comes back: an answer that has the expected bytes in it, or, where none is expected, no ICMP error in the
//! time of the probe. The socket is connected: datagrams of others never get here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::{
    libc,
    sys::socket::{
        setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use tokio::net::UdpSocket;

use super::{
    ANSWER, Budget, Failure, Outcome, tcp,
    words::{quoted, shortened},
};
use crate::config::spec::UdpProbe;

/// Bytes of an answer in which the expected ones must be.
const ROOM: usize = 4096;

/// Sends the datagram and judges what comes.
pub(super) async fn ask(address: SocketAddr, probe: &UdpProbe, budget: Budget) -> Outcome {
    let socket = match sent(address, probe).await {
        Ok(socket) => socket,
        Err(failure) => return Outcome::Answer(Err(failure)),
    };
    let mut room = vec![0; ROOM];
    let length = loop {
        match (budget.within(socket.recv(&mut room)).await, &probe.reply) {
            (Some(Ok(length)), _) => break length,
            // A longer packet's than ours, which a router has refused: not about this probe.
            (Some(Err(error)), _) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            (Some(Err(error)), _) => return Outcome::Answer(Err(reported(&error))),
            (None, None) => return Outcome::Answer(Ok(())),
            (None, Some(_)) => {
                let words = format!("udp: no answer within {} ms", budget.milliseconds());
                return Outcome::Silence(ANSWER, words);
            }
        }
    };
    let answer = room.get(..length).unwrap_or_default();
    let Some(wanted) = probe.reply.as_ref().filter(|wanted| !has(answer, &wanted.bytes())) else {
        return Outcome::Answer(Ok(()));
    };
    let wanted = shortened(wanted.text());
    let words = match answer {
        [] => format!("udp: the answer is empty, not {wanted:?}"),
        _ => format!("udp: the answer has no {wanted:?} in it: begins with {}", quoted(answer)),
    };
    Outcome::Answer(Err(Failure::Backend(words)))
}

async fn sent(address: SocketAddr, probe: &UdpProbe) -> Result<UdpSocket, Failure> {
    let local = |what: &str, error: &io::Error| Failure::LocalError(format!("{what}: {error}"));
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| local("no socket", &error))?;
    // Without it the kernel keeps to itself that a host is unreachable, and reports only closed ports.
    let errors = match address {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true),
    };
    errors.map_err(|error| local("IP_RECVERR", &error.into()))?;
    let failed = |error: io::Error| prefixed(tcp::refused(&error));
    socket.connect(address).await.map_err(failed)?;
    socket.send(&probe.payload.bytes()).await.map_err(failed)?;
    Ok(socket)
}

/// What an ICMP error says, or this host.
fn reported(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => {
            Failure::Backend("udp: port unreachable, nothing listens there".to_owned())
        }
        Some(libc::EACCES) => Failure::Backend("udp: administratively prohibited".to_owned()),
        _ => prefixed(tcp::refused(error)),
    }
}

fn prefixed(failure: Failure) -> Failure {
    match failure {
        Failure::Backend(words) => Failure::Backend(format!("udp: {words}")),
        local => local,
    }
}

fn has(answer: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || answer.windows(wanted.len()).any(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config::spec::Bytes, wait::LIMIT};

    const SHORT: Duration = Duration::from_millis(200);

    fn probe(payload: &str, reply: Option<&str>) -> UdpProbe {
        UdpProbe { payload: payload.into(), reply: reply.map(Bytes::from) }
    }

    /// A server that sends these datagrams for each one that comes.
    async fn server(answers: fn(&[u8]) -> Vec<Vec<u8>>) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut room = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut room).await {
                for answer in answers(&room[..length]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        address
    }

    async fn asked(time: Duration, address: SocketAddr, probe: &UdpProbe) -> Result<(), String> {
        match ask(address, probe, Budget::new(time)).await {
            Outcome::Answer(answer) => answer.map_err(|failure| failure.to_string()),
            Outcome::Silence(_, words) => Err(words),
        }
    }

    #[tokio::test]
    async fn the_answer_must_have_the_expected_bytes_in_it() {
        let echo = server(|asked| vec![[b"<", asked, b">"].concat()]).await;
        for (payload, reply, wanted) in [
            ("ping", "ping>", Ok(())),
            ("hex:00ff", "hex:3c00ff3e", Ok(())),
            ("", "<>", Ok(())),
            ("ping", "", Ok(())),
            (
                "hex:0a1b5b",
                "pong",
                Err("udp: the answer has no \"pong\" in it: begins with \"<\\n\\u{1b}[>\""),
            ),
        ] {
            let said = asked(LIMIT, echo, &probe(payload, Some(reply))).await;
            assert_eq!(said, wanted.map_err(str::to_owned), "{payload} {reply}");
        }
        let empty = server(|_| vec![vec![]]).await;
        let said = asked(LIMIT, empty, &probe("x", Some("y"))).await;
        assert_eq!(said, Err("udp: the answer is empty, not \"y\"".to_owned()));
        assert_eq!(asked(LIMIT, empty, &probe("x", Some(""))).await, Ok(()));
        assert_eq!(asked(LIMIT, empty, &probe("x", None)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_long_answer_is_searched_in_its_first_4_kib() {
        let long = server(|asked| vec![[&vec![b'x'; 4000], asked, &vec![b'x'; 60_000]].concat()]).await;
        assert_eq!(asked(LIMIT, long, &probe("here", Some("here"))).await, Ok(()));
        let far = server(|asked| vec![[&vec![b'x'; 4096], asked].concat()]).await;
        let said = asked(LIMIT, far, &probe("here", Some("here"))).await.unwrap_err();
        assert!(said.starts_with("udp: the answer has no \"here\" in it: begins with \"xxx"), "{said}");
    }

    #[tokio::test]
    async fn silence_fails_where_an_answer_is_expected_and_passes_where_none_is() {
        let silent = server(|_| vec![]).await;
        let said = asked(SHORT, silent, &probe("x", Some(""))).await;
        assert_eq!(said, Err("udp: no answer within 200 ms".to_owned()));
        assert_eq!(asked(SHORT, silent, &probe("x", None)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_fails_either_way() {
        for any in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(taken) = UdpSocket::bind((any, 0)).await else { continue };
            let closed = taken.local_addr().unwrap();
            drop(taken);
            for reply in [None, Some("")] {
                let said = asked(LIMIT, closed, &probe("x", reply)).await;
                assert_eq!(said, Err("udp: port unreachable, nothing listens there".to_owned()));
            }
        }
    }

    #[tokio::test]
    async fn a_datagram_of_another_sender_is_not_an_answer() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 64]).await {
                let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                let _ = stranger.send_to(b"fine", from).await;
            }
        });
        let said = asked(SHORT, address, &probe("x", Some("fine"))).await;
        assert_eq!(said, Err("udp: no answer within 200 ms".to_owned()));
    }

    #[test]
    fn what_routers_report_counts_and_what_this_host_reports_does_not() {
        let said = |number| reported(&io::Error::from_raw_os_error(number));
        for (number, words) in [
            (libc::EHOSTUNREACH, "udp: host unreachable"),
            (libc::ENETUNREACH, "udp: network unreachable"),
            (libc::EACCES, "udp: administratively prohibited"),
        ] {
            assert_eq!(said(number), Failure::Backend(words.to_owned()));
        }
        assert!(matches!(said(libc::ENOBUFS), Failure::LocalError(_)));
    }
}
