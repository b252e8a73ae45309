//! Accepts connections, on the control socket and on the metrics port, and keeps their number bounded. What one
//! connection does is in `connection`.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

pub use super::shared::Settings;
use super::{
    connection::{self, Progress},
    shared::{Client, ServerState, stopped},
    socket::Socket,
};
use crate::api::request::Sender;

/// After a failed `accept`: most often descriptors ran out, and some time has to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// No connection is closed for another before: a client that has just connected gets to say what it wants, also in a
/// crowd of those who say nothing.
const COURTESY: Duration = Duration::from_millis(20);
/// Between two looks for a connection that may be closed for one that waits.
const LOOK: Duration = Duration::from_millis(5);

/// Serves the control socket until `shutdown` turns true or its sender is gone; then the socket's file is removed,
/// silent connections are closed, and requests under way get [`Settings::grace`].
pub async fn serve(sockets: Sockets, sender: Sender, shutdown: watch::Receiver<bool>) {
    serve_with(sockets, sender, shutdown, Settings::default()).await;
}

/// [`serve`] with other bounds.
pub async fn serve_with(
    sockets: Sockets,
    sender: Sender,
    shutdown: watch::Receiver<bool>,
    settings: Settings,
) {
    run(sockets, ServerState::new(settings, sender, shutdown)).await;
}

/// Serves `GET /metrics`, `/healthz` and `/readyz`, and nothing else, on a TCP port until `shutdown`, as [`serve`] does.
pub async fn serve_metrics(listener: TcpListener, sender: Sender, shutdown: watch::Receiver<bool>) {
    // Scrapers are few; strangers who connect and say nothing must not cost the agent its descriptors.
    let settings = Settings { connections: 64, ..Settings::default() };
    run(listener, ServerState::new(settings, sender, shutdown)).await;
}

/// A source of connections.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// May be dropped and called again.
    fn next(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Client)>> + Send;
}

/// The control socket, and others that take its place: connections that there are go on.
pub struct Sockets {
    current: Option<Socket>,
    next: mpsc::Receiver<Socket>,
}

impl Sockets {
    /// `None` = there is none before the first of `next`.
    pub fn new(current: Option<Socket>, next: mpsc::Receiver<Socket>) -> Self {
        Self { current, next }
    }
}

impl Accept for Sockets {
    type Stream = UnixStream;

    async fn next(&mut self) -> io::Result<(UnixStream, Client)> {
        let Self { current, next } = self;
        loop {
            tokio::select! {
                Some(socket) = next.recv() => *current = Some(socket),
                accepted = accept(current.as_ref()) => return accepted,
            }
        }
    }
}

async fn accept(socket: Option<&Socket>) -> io::Result<(UnixStream, Client)> {
    let Some(socket) = socket else { return std::future::pending().await };
    let (stream, _) = socket.listener().accept().await?;
    let peer = stream.peer_cred()?;
    Ok((stream, Client::Local { uid: peer.uid(), pid: peer.pid() }))
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&mut self) -> io::Result<(TcpStream, Client)> {
        let (stream, address) = self.accept().await?;
        Ok((stream, Client::Scraper(address)))
    }
}

async fn run<A: Accept>(mut listener: A, shared: Arc<ServerState>) {
    let mut shutdown = shared.shutdown.clone();
    let mut connections = Connections { places: VecDeque::new(), tasks: JoinSet::new() };
    loop {
        let full = connections.tasks.len() >= shared.settings.connections;
        let room = !full || connections.waited_for(COURTESY).is_some();
        tokio::select! {
            () = stopped(&mut shutdown) => break,
            Some(ended) = connections.tasks.join_next_with_id(), if !connections.tasks.is_empty() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => {
                        if error.is_panic() {
                            log::error!("control: a connection failed: {error}");
                        }
                        error.id()
                    }
                };
                connections.places.retain(|place| place.task.id() != id);
            }
            // Whether a client keeps us waiting changes without an event.
            () = sleep(LOOK), if !room => {}
            accepted = listener.next(), if room => match accepted {
                Ok((stream, client)) => {
                    if full {
                        connections.close_one(COURTESY);
                    }
                    let progress = Arc::new(Progress::default());
                    let served = connection::serve(stream, client, Arc::clone(&shared), Arc::clone(&progress));
                    let task = connections.tasks.spawn(served);
                    connections.places.push_back(Place { task, progress, since: Instant::now() });
                }
                Err(error) => {
                    log::warn!("control: cannot accept a connection: {error}");
                    connections.close_one(Duration::ZERO);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.close_receiving();
    let all_ended = async { while connections.tasks.join_next().await.is_some() {} };
    if timeout(shared.settings.grace, all_ended).await.is_err() {
        log::debug!("control: connections were still busy when the agent stopped");
    }
}

/// The connections there are, oldest first.
struct Connections {
    places: VecDeque<Place>,
    tasks: JoinSet<()>,
}

struct Place {
    task: AbortHandle,
    progress: Arc<Progress>,
    since: Instant,
}

impl Connections {
    /// The oldest connection, of at least `age`, whose client keeps us waiting: for the rest of its request before
    /// those that do not read their answers.
    fn waited_for(&self, age: Duration) -> Option<usize> {
        let old = |place: &Place| place.since.elapsed() >= age;
        let first = |waits: fn(&Progress) -> bool| {
            self.places.iter().position(|place| old(place) && waits(&place.progress))
        };
        first(Progress::is_receiving).or_else(|| first(Progress::is_stalled))
    }

    /// Makes room where that can be done without cutting off a client that waits for us.
    fn close_one(&mut self, age: Duration) {
        if let Some(place) = self.waited_for(age).and_then(|at| self.places.remove(at)) {
            place.task.abort();
        }
    }

    /// Closes all whose requests have not arrived.
    fn close_receiving(&mut self) {
        for place in self.places.iter().filter(|place| place.progress.is_receiving()) {
            place.task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
