//! Accepts connections, on the control socket and on the metrics port, and keeps their number bounded. What one
//! connection does is in `connection`.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

pub use super::handler::Settings;
use super::{
    connection,
    handler::{Client, Shared, stopped},
    request::Sender,
    socket::Socket,
};

/// After a failed `accept`: most often descriptors ran out, and some time has to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the control socket until `shutdown` turns true or its sender is gone; then the socket's file is removed,
/// silent connections are closed, and requests under way get [`Settings::grace`].
pub async fn serve(socket: Socket, sender: Sender, shutdown: watch::Receiver<bool>) {
    serve_with(socket, sender, shutdown, Settings::default()).await;
}

/// [`serve`] with other bounds.
pub async fn serve_with(socket: Socket, sender: Sender, shutdown: watch::Receiver<bool>, settings: Settings) {
    run(socket, Shared::new(settings, sender, shutdown)).await;
}

/// Serves `GET /metrics`, and nothing else, on a TCP port until `shutdown`, as [`serve`] does.
pub async fn serve_metrics(listener: TcpListener, sender: Sender, shutdown: watch::Receiver<bool>) {
    // Scrapers are few; strangers who connect and say nothing must not cost the agent its descriptors.
    let settings = Settings { connections: 64, ..Settings::default() };
    run(listener, Shared::new(settings, sender, shutdown)).await;
}

/// A source of connections.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Client)>> + Send;
}

impl Accept for Socket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Client)> {
        let (stream, _) = self.listener().accept().await?;
        let peer = stream.peer_cred()?;
        Ok((stream, Client::Local { uid: peer.uid(), pid: peer.pid() }))
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Client)> {
        let (stream, address) = self.accept().await?;
        Ok((stream, Client::Scraper(address)))
    }
}

async fn run<A: Accept>(listener: A, shared: Arc<Shared>) {
    let mut shutdown = shared.shutdown.clone();
    let mut connections = Connections { places: VecDeque::new(), tasks: JoinSet::new() };
    loop {
        let room = connections.tasks.len() < shared.settings.connections || connections.any_silent();
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
            accepted = listener.next(), if room => match accepted {
                Ok((stream, client)) => {
                    if connections.tasks.len() >= shared.settings.connections {
                        connections.close_oldest_silent();
                    }
                    let begun = Arc::new(AtomicBool::new(false));
                    let served = connection::serve(stream, client, Arc::clone(&shared), Arc::clone(&begun));
                    let task = connections.tasks.spawn(served);
                    connections.places.push_back(Place { task, begun });
                }
                Err(error) => {
                    log::warn!("control: cannot accept a connection: {error}");
                    connections.close_oldest_silent();
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.close_oldest_silent() {}
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
    /// Whether it has sent the head of its request.
    begun: Arc<AtomicBool>,
}

impl Connections {
    fn silent(&self) -> Option<usize> {
        self.places.iter().position(|place| !place.begun.load(Ordering::Relaxed))
    }

    fn any_silent(&self) -> bool {
        self.silent().is_some()
    }

    /// Makes room; false = every connection is at work.
    fn close_oldest_silent(&mut self) -> bool {
        let place = self.silent().and_then(|oldest| self.places.remove(oldest));
        if let Some(place) = &place {
            place.task.abort();
        }
        place.is_some()
    }
}

#[cfg(test)]
mod tests;
