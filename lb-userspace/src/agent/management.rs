//! How clients reach the agent, checked at each tick: its control socket with the group that may use it, the lock that
//! keeps a second agent out, and the address where metrics are scraped. Packets need none of these. So the agent makes
//! again what another process takes away, and what the host lacks at a start does not keep an agent from starting whose
//! file was in force before.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    Agent, TICK,
    interfaces::Host,
    watched::{News, Watched},
};
use crate::{
    api::{kind::Kind, request::Sender},
    control::{
        server,
        socket::{Bound, Socket, SocketError},
    },
    host,
    instance::lock::Lock,
    tables::Tables,
};

/// Why metrics are not served at their address; `None` = they are.
type Unserved = Option<String>;

/// See the head of this file. By default there is nothing to check.
#[derive(Debug, Default)]
pub(super) struct Management {
    socket: Option<ControlSocket>,
    lock: Option<Lock>,
    scrapes: Option<watch::Receiver<Unserved>>,
    state: Watched,
}

/// The control socket, and the channel that hands a new one to the server.
#[derive(Debug)]
struct ControlSocket {
    path: PathBuf,
    group: Option<String>,
    /// `None` = there is no socket.
    bound: Option<Bound>,
    next: mpsc::Sender<Socket>,
}

impl Management {
    /// Tries everything; what the agent cannot get is an error, unless `lenient`: then the agent does without it for
    /// now.
    ///
    /// # Errors
    /// Why there is no control socket, or why it cannot belong to the group.
    pub(super) fn open(
        lock: Lock,
        path: &Path,
        group: Option<&str>,
        lenient: bool,
    ) -> Result<(Self, server::Sockets), SocketError> {
        let first = match Socket::bind(path, group) {
            Ok(socket) => Some(socket),
            // Another agent serves there.
            Err(error @ SocketError::InUse { .. }) => return Err(error),
            Err(error) if !lenient => return Err(error),
            // A socket for its owner alone, where only the group is missing.
            Err(_) => Socket::bind(path, None).ok(),
        };
        let (next, sockets) = mpsc::channel(1);
        let (path, group) = (path.to_owned(), group.map(str::to_owned));
        let socket = ControlSocket { path, group, bound: first.as_ref().map(Socket::bound), next };
        let management = Self { socket: Some(socket), lock: Some(lock), ..Self::default() };
        Ok((management, server::Sockets::new(first, sockets)))
    }

    /// Also watches the metrics address: `served` reports what becomes of it.
    pub(super) fn watch_scrapes(&mut self, served: watch::Receiver<Unserved>) {
        self.scrapes = Some(served);
    }

    /// The lock, which the caller has to keep until the end.
    pub(super) fn lock(&mut self) -> Option<Lock> {
        self.lock.take()
    }

    /// What is not as it should be, and how often something was made again.
    pub(super) fn state(&self) -> &Watched {
        &self.state
    }

    /// Checks everything and mends what it can. Returns what it mended, and what is still wrong.
    fn look(&mut self) -> (Vec<String>, Vec<String>) {
        let Self { socket, lock, scrapes, .. } = self;
        let looks = [
            lock.as_mut().map(|lock| match lock.mend() {
                Ok(true) => Ok(Some("the lock file was missing and has been restored".to_owned())),
                Ok(false) => Ok(None),
                Err(error) => {
                    Err(format!("{error}; a second agent is kept off by the pinned directory alone"))
                }
            }),
            socket.as_mut().map(ControlSocket::look),
            scrapes.as_ref().map(|served| match &*served.borrow() {
                None => Ok(None),
                Some(why) => Err(why.clone()),
            }),
        ];
        let (mut mended, mut wrong) = (Vec::new(), Vec::new());
        for look in looks.into_iter().flatten() {
            match look {
                Ok(what) => mended.extend(what),
                Err(why) => wrong.push(why),
            }
        }
        (mended, wrong)
    }
}

impl ControlSocket {
    /// Makes sure that the socket exists and belongs to the group. Returns what it did for that, or why it failed.
    fn look(&mut self) -> Result<Option<String>, String> {
        let Self { path, group, bound, next } = self;
        let said = |error: SocketError| error.to_string();
        let mut mended = None;
        if !bound.as_ref().is_some_and(|bound| bound.is_at(path)) {
            let socket = Socket::bind(path, None).map_err(said)?;
            let now = socket.bound();
            // If it is dropped, the socket removes its file.
            next.try_send(socket)
                .map_err(|_| format!("control socket {}: the server is busy", path.display()))?;
            let was = if bound.replace(now).is_some() {
                "was missing and has been restored"
            } else {
                "is there now"
            };
            mended = Some(format!("control socket {} {was}", path.display()));
        }
        let Some(bound) = bound.as_mut() else { return Ok(mended) };
        if let Some(group) = group
            && !bound.is_for(group)
        {
            bound.give_to(path, group).map_err(said)?;
            mended.get_or_insert(format!("control socket {}: group {group} may use it now", path.display()));
        }
        Ok(mended)
    }
}

impl<T: Tables + Host> Agent<T> {
    pub(super) fn look_at_management(&mut self) {
        let (mended, wrong) = self.management.look();
        let News { begins, ends } = self.management.state.look(wrong);
        self.management.state.mend(mended.len() + ends.len());
        for what in mended {
            self.journal.note(Kind::ManagementMended, self.instance.clone(), what);
        }
        for why in begins {
            self.journal.note(Kind::ManagementTrouble, self.instance.clone(), why);
        }
        for why in ends {
            self.journal.note(Kind::ManagementMended, self.instance.clone(), format!("no longer so: {why}"));
        }
    }
}

/// An address where metrics are to be scraped, with or without a listener.
pub(super) struct Scrapes {
    address: SocketAddr,
    listener: Option<TcpListener>,
    served: watch::Sender<Unserved>,
}

impl Scrapes {
    /// Tries to listen; a failure is an error, unless `lenient`: then `serve` tries again later.
    pub(super) async fn open(address: SocketAddr, lenient: bool) -> anyhow::Result<Self> {
        let (listener, unserved) = match listen(address).await {
            Ok(listener) => (Some(listener), None),
            Err(why) if lenient => (None, Some(why)),
            Err(why) => anyhow::bail!(why),
        };
        Ok(Self { address, listener, served: watch::Sender::new(unserved) })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Unserved> {
        self.served.subscribe()
    }

    /// Serves metrics, from the moment when the address is free until `stopped`.
    pub(super) async fn serve(self, sender: Sender, mut stopped: watch::Receiver<bool>) {
        let Self { address, mut listener, served } = self;
        let listener = loop {
            match listener.take() {
                Some(listener) => break listener,
                None => listener = listen(address).await.ok(),
            }
            let stops = stopped.wait_for(|stopped| *stopped);
            if listener.is_none() && timeout(TICK, stops).await.is_ok() {
                return;
            }
        };
        served.send_replace(None);
        server::serve_metrics(listener, sender, stopped).await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| {
        let why = host::cannot_listen(address, &error);
        format!("cannot listen for metrics on {address} (node.metrics): {why}")
    })
}
