//! Echo servers on the backends, and connections that stay open, so that a test sees whether they survive.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use xtask::{
    lab::{CLIENT, Lab, Node, VIP_V4, VIP_V6},
    wait,
};

/// The port of the echo servers, TCP and UDP.
pub(crate) const PORT: u16 = 7;

const TICK: Duration = Duration::from_millis(20);

/// The message after which a server ends the connection by a reset.
const RESET: [u8; 8] = u64::MAX.to_be_bytes();

/// The echo servers of one backend: the TCP server greets with the backend's name and a line end, the UDP server puts the name
/// before the bytes that it sends back. Dropping this ends the servers and their connections.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (listener, sockets) = node.enter(|| -> std::io::Result<_> {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
            listener.set_nonblocking(true)?;
            // An answer comes from the address to which its socket is bound.
            let bind = |address: IpAddr| {
                let socket = UdpSocket::bind((address, PORT))?;
                socket.set_read_timeout(Some(TICK)).map(|()| socket)
            };
            Ok((listener, [bind(VIP_V4.into())?, bind(VIP_V6.into())?]))
        })??;
        let mut threads = Vec::new();
        for socket in sockets {
            let (stop, name) = (Arc::clone(&stop), node.name.clone());
            threads.push(std::thread::spawn(move || udp(&socket, &name, &stop)));
        }
        let (until, name) = (Arc::clone(&stop), node.name.clone());
        threads.push(std::thread::spawn(move || tcp(&listener, &name, &until)));
        Ok(Self { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn tcp(listener: &TcpListener, name: &str, stop: &Arc<AtomicBool>) {
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                // An error of one client, for example one that goes away, does not matter to the server.
                Ok((stream, _)) => drop(scope.spawn(move || echo(stream, name, stop).ok())),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
}

fn echo(mut stream: TcpStream, name: &str, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name}\n").as_bytes())?;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if buffer[..length] == RESET => {
                // Ends the connection by a reset instead of a FIN.
                setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
                break;
            }
            Ok(length) => stream.write_all(&buffer[..length])?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
            socket.send_to(&answer, from).ok();
        }
    }
}

/// A connection to an echo service, and the backend that answers.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    pub(crate) backend: String,
}

impl Connection {
    /// Opens a connection from the client, over either family.
    pub(crate) fn open(lab: &Lab, v6: bool) -> Result<Self> {
        Self::open_within(lab, v6, wait::limit())
    }

    /// The same, where the connection may fail.
    pub(crate) fn open_within(lab: &Lab, v6: bool, limit: Duration) -> Result<Self> {
        let address: IpAddr = if v6 { VIP_V6.into() } else { VIP_V4.into() };
        let address = SocketAddr::new(address, PORT);
        let connect = || TcpStream::connect_timeout(&address, limit);
        let stream = lab.node(CLIENT)?.enter(connect)?.context("cannot connect")?;
        stream.set_read_timeout(Some(wait::limit()))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut backend = String::new();
        reader.read_line(&mut backend).context("no greeting")?;
        Ok(Self { reader, backend: backend.trim().to_owned() })
    }

    /// Sends some bytes and waits until they come back.
    pub(crate) fn exchange(&mut self, number: u64) -> std::io::Result<()> {
        let token = number.to_be_bytes();
        self.reader.get_mut().write_all(&token)?;
        let mut back = [0; 8];
        self.reader.read_exact(&mut back)?;
        if back == token { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// Makes the server end the connection by a reset; returns how the connection ended. The client itself sends nothing more.
    pub(crate) fn ask_for_reset(mut self) -> Option<ErrorKind> {
        self.reader
            .get_mut()
            .write_all(&RESET)
            .err()
            .map(|error| error.kind())
            .or_else(|| self.reader.read(&mut [0; 8]).err().map(|error| error.kind()))
    }
}

/// Many connections that exchange bytes all the time, on a thread of their own.
pub(crate) struct Held {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    broken: Arc<Mutex<Vec<(String, String)>>>,
    thread: Option<JoinHandle<()>>,
    /// The backends that answer them, at the beginning.
    pub(crate) backends: Vec<String>,
}

impl Held {
    /// Opens `count` connections, every other one over IPv6.
    pub(crate) fn open(lab: &Lab, count: usize) -> Result<Self> {
        let mut connections: Vec<Connection> =
            (0..count).map(|number| Connection::open(lab, number % 2 == 1)).collect::<Result<_>>()?;
        let backends = connections.iter().map(|connection| connection.backend.clone()).collect();
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let broken = Arc::new(Mutex::new(Vec::new()));
        let (until, counter, list) = (Arc::clone(&stop), Arc::clone(&rounds), Arc::clone(&broken));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let round = counter.fetch_add(1, Ordering::Relaxed);
                connections.retain_mut(|connection| match connection.exchange(round) {
                    Ok(()) => true,
                    Err(error) => {
                        let entry = (connection.backend.clone(), error.to_string());
                        list.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                        false
                    }
                });
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Ok(Self { stop, rounds, broken, thread: Some(thread), backends })
    }

    /// Lets the connections exchange some more bytes and fails when one broke, except those of `dead`.
    pub(crate) fn check(&self, dead: Option<&str>) -> Result<()> {
        let from = self.rounds.load(Ordering::Relaxed);
        // A silent connection holds a round up until its own time limit is reached.
        wait::until("connections exchange bytes", wait::limit() * 3, || {
            let rounds = self.rounds.load(Ordering::Relaxed) - from;
            Ok(if rounds > 3 { Ok(()) } else { Err(format!("{rounds} rounds")) })
        })?;
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let broken: Vec<_> = broken.iter().filter(|(name, _)| Some(name.as_str()) != dead).collect();
        ensure!(
            broken.is_empty(),
            "{} of {} connections broke: {:?}",
            broken.len(),
            self.backends.len(),
            broken[0]
        );
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
