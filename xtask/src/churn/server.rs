//! The server of a backend: one process, one thread, TCP and UDP, which answers with its identity. It is a process of its
//! own so that it can be killed as a crash would.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{
    message::{self, Identity, REQUEST},
    world::{LONE_PORT, PORT},
};
use crate::{
    lab::{VIP_V4, VIP_V6},
    wait,
};

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Number of the backend
    #[arg(long)]
    backend: u8,
    /// Which life of it this is
    #[arg(long)]
    life: u32,
}

/// Between the halves of an answer that was to wait.
const HALVES: Duration = Duration::from_secs(1);

/// Tokens below this are sockets that stay: listeners and UDP.
const FIRST_STREAM: usize = 16;

/// Runs the server until it is ended.
pub fn main(arguments: &ServerArgs) -> Result<()> {
    let ServerArgs { backend, life } = *arguments;
    super::raise_open_files()?;
    // Listening sockets answer for both families; UDP answers come from the address a socket is bound to.
    let ports = [PORT, LONE_PORT].map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    let addresses =
        [IpAddr::from(VIP_V4), IpAddr::from(VIP_V6)].map(|address| SocketAddr::new(address, PORT));
    Server::new(Identity { backend, life }, &ports, &addresses)?.run()
}

/// Waits until the server at an address accepts; called in its namespace.
pub(super) fn wait(address: IpAddr) -> Result<()> {
    let address = SocketAddr::new(address, LONE_PORT);
    wait::until(&format!("a server accepts at {address}"), wait::limit(), || {
        let tried = std::net::TcpStream::connect_timeout(&address, wait::limit());
        wait::attempt(tried.map(drop).map_err(Into::into))
    })
}

struct Stream {
    stream: TcpStream,
    /// The beginning of a request that has not arrived whole.
    rest: Vec<u8>,
    /// What is to be sent later, and when, in that order.
    late: VecDeque<(Instant, Vec<u8>)>,
}

struct Server {
    identity: Identity,
    poll: Poll,
    listeners: Vec<TcpListener>,
    sockets: Vec<UdpSocket>,
    streams: HashMap<usize, Stream>,
    next: usize,
    /// When which stream has something to send.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Server {
    fn new(identity: Identity, tcp: &[SocketAddr], udp: &[SocketAddr]) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        let mut sockets = Vec::new();
        for address in tcp {
            let mut listener =
                TcpListener::bind(*address).with_context(|| format!("cannot listen on {address}"))?;
            poll.registry().register(&mut listener, Token(listeners.len()), Interest::READABLE)?;
            listeners.push(listener);
        }
        for address in udp {
            let mut socket = UdpSocket::bind(*address).with_context(|| format!("cannot bind {address}"))?;
            let token = Token(listeners.len() + sockets.len());
            poll.registry().register(&mut socket, token, Interest::READABLE)?;
            sockets.push(socket);
        }
        let (streams, due) = (HashMap::new(), BinaryHeap::new());
        Ok(Self { identity, poll, listeners, sockets, streams, next: FIRST_STREAM, due })
    }

    fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let first = self.due.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, first) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                self.ready(event.token().0)?;
            }
            self.send_what_is_due();
        }
    }

    fn send_what_is_due(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, token))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let Some(stream) = self.streams.get_mut(&token) else { continue };
            let due = stream.late.pop_front_if(|(at, _)| *at <= now);
            let sent = due.is_none_or(|(_, half)| stream.stream.write_all(&half).is_ok());
            // It has had all it waited for, or it is gone.
            if !sent || stream.late.is_empty() {
                self.streams.remove(&token);
            }
        }
    }

    fn ready(&mut self, token: usize) -> Result<()> {
        let Self { identity, poll, listeners, sockets, streams, next, due } = self;
        if let Some(listener) = listeners.get(token) {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nodelay(true).ok();
                poll.registry().register(&mut stream, Token(*next), Interest::READABLE)?;
                streams.insert(*next, Stream { stream, rest: Vec::new(), late: VecDeque::new() });
                *next += 1;
            }
        } else if let Some(socket) = sockets.get(token - listeners.len().min(token)) {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // A client whose answer is lost asks again.
                socket.send_to(&message::answer(*identity, &buffer[..length]), from).ok();
            }
        } else if let Some(stream) = streams.get_mut(&token) {
            let before = stream.late.len();
            let served = serve(stream, *identity);
            due.extend(stream.late.iter().skip(before).map(|(at, _)| Reverse((*at, token))));
            // A client that has closed its side may wait for an answer; one that is gone does not.
            let stays = served.is_ok_and(|more| more || !stream.late.is_empty());
            if !stays {
                streams.remove(&token);
            }
        }
        Ok(())
    }
}

/// Answers what has arrived; whether more may come.
fn serve(stream: &mut Stream, identity: Identity) -> io::Result<bool> {
    let Stream { stream, rest, late } = stream;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => rest.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let whole = rest.len() / REQUEST * REQUEST;
        let mut answers = Vec::new();
        for request in rest[..whole].chunks(REQUEST) {
            let answer = message::answer(identity, request);
            let Some(delay) = message::delay(request) else {
                answers.extend(answer);
                continue;
            };
            let (first, second) = answer.split_at(answer.len() / 2);
            let at = Instant::now() + delay;
            late.extend([(at, first.to_vec()), (at + HALVES, second.to_vec())]);
        }
        rest.drain(..whole);
        // A client waits for an answer before it asks again, so this fits into the socket's buffer.
        stream.write_all(&answers)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> (SocketAddr, SocketAddr) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::new(Identity { backend: 5, life: 2 }, &[any], &[any]).unwrap();
        let addresses = (server.listeners[0].local_addr().unwrap(), server.sockets[0].local_addr().unwrap());
        std::thread::spawn(move || server.run());
        addresses
    }

    #[test]
    fn a_request_in_two_pieces_is_answered_with_the_identity() {
        let mut stream = std::net::TcpStream::connect(running().0).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = message::request(1, 2);
        stream.write_all(&request[..10]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(&request[10..]).unwrap();
        let mut answer = [0; message::ANSWER];
        stream.read_exact(&mut answer).unwrap();
        let (identity, echoed) = message::read(&answer).unwrap();
        assert_eq!((identity, echoed), (Identity { backend: 5, life: 2 }, request.as_slice()));
    }

    #[test]
    fn a_client_that_has_closed_its_side_gets_the_answer_it_waits_for() {
        let mut stream = std::net::TcpStream::connect(running().0).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = message::later(1, Duration::from_millis(50));
        stream.write_all(&request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let wanted = (Identity { backend: 5, life: 2 }, request.as_slice());
        assert_eq!(message::read(&answer), Some(wanted));
    }

    #[test]
    fn a_datagram_is_answered_with_the_identity() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = message::request(3, 4);
        socket.send_to(&request, running().1).unwrap();
        let mut answer = [0; 100];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(message::read(&answer[..length]).unwrap().0, Identity { backend: 5, life: 2 });
    }
}
