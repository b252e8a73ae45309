//! Requests: a server on a backend that echoes, and clients that wait for each answer before their next request.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xtask::lab::Node;

/// The port of the servers.
pub(super) const PORT: u16 = 7000;
/// Bytes of a request and of its answer.
const SIZE: usize = 64;
/// How long an answer may take before the run fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts a server that lives as long as the process; its connections end with their clients.
pub(super) fn serve(node: &Node) -> Result<()> {
    let listener = node.enter(|| TcpListener::bind(("0.0.0.0", PORT)))?.context("listening")?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An error of one client, for example one that goes away, does not matter to the server.
            std::thread::spawn(move || echo(stream).ok());
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; SIZE];
    loop {
        stream.read_exact(&mut buffer)?;
        stream.write_all(&buffer)?;
    }
}

/// The load of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) to: SocketAddr,
    /// Clients at once.
    pub(super) clients: usize,
    /// Requests a second of all clients together; `None` = as many as possible.
    pub(super) pace: Option<f64>,
    /// A new connection for each request.
    pub(super) reconnect: bool,
    pub(super) time: Duration,
}

/// Runs the load. Returns the times of the answers in µs, sorted, and the requests a second.
pub(super) fn run(node: &Node, load: Load) -> Result<(Vec<f64>, f64)> {
    let begun = Instant::now();
    let results: Vec<Result<Vec<f64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..load.clients).map(|number| scope.spawn(move || one(node, load, number))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let took = begun.elapsed().as_secs_f64();
    let mut all = Vec::new();
    for times in results {
        all.extend(times?);
    }
    all.sort_by(f64::total_cmp);
    let rate = all.len() as f64 / took;
    Ok((all, rate))
}

/// One client.
fn one(node: &Node, load: Load, number: usize) -> Result<Vec<f64>> {
    node.move_thread()?;
    let between = load.pace.map(|pace| Duration::from_secs_f64(load.clients as f64 / pace));
    let mut kept = if load.reconnect { None } else { Some(connect(load.to)?) };
    let begun = Instant::now();
    // The clients start at different times, so that they do not all ask at the same moment.
    let mut due = begun + between.unwrap_or_default().mul_f64(number as f64 / load.clients as f64);
    let mut times = Vec::new();
    while begun.elapsed() < load.time {
        if let Some(between) = between {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += between;
        }
        let asked = Instant::now();
        match &mut kept {
            Some(stream) => request(stream)?,
            None => {
                let mut stream = connect(load.to)?;
                request(&mut stream)?;
                // Ends the connection by a reset: ports in TIME_WAIT would run out.
                let none = libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &none)?;
            }
        }
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn request(stream: &mut TcpStream) -> Result<()> {
    let mut answer = [0; SIZE];
    stream.write_all(&[0x5a; SIZE])?;
    stream.read_exact(&mut answer).context("waiting for an answer")
}
