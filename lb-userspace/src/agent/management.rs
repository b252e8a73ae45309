//! What the agent is reached by, looked at each tick: its control socket with the group that may use it, the lock that keeps a
//! second agent off, and the address where metrics are scraped. Packets need none of it. So what another process takes away is
//! made again, and what the host lacks at a start keeps no agent from starting whose file was in force before.

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
    config::host,
    control::{
        kind::Kind,
        request::Sender,
        server,
        socket::{Bound, Socket, SocketError},
    },
    dataplane::{Tables, lock::Lock},
};

/// Why metrics are not served where they are to be; `None` = they are.
type Unserved = Option<String>;

/// See the head of this file. By default there is nothing to look at.
#[derive(Debug, Default)]
pub(super) struct Management {
    socket: Option<ControlSocket>,
    lock: Option<Lock>,
    scrapes: Option<watch::Receiver<Unserved>>,
    state: Watched,
}

/// The control socket, and the way of another one to the server.
#[derive(Debug)]
struct ControlSocket {
    path: PathBuf,
    group: Option<String>,
    /// `None` = there is none.
    bound: Option<Bound>,
    next: mpsc::Sender<Socket>,
}

impl Management {
    /// Tries everything; what cannot be had is an error, unless `lenient`: then the agent does without it for now.
    ///
    /// # Errors
    /// Why there is no control socket, or it cannot be the group's.
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
            // For its owner alone, where the group is what is missing.
            Err(_) => Socket::bind(path, None).ok(),
        };
        let (next, sockets) = mpsc::channel(1);
        let (path, group) = (path.to_owned(), group.map(str::to_owned));
        let socket = ControlSocket { path, group, bound: first.as_ref().map(Socket::bound), next };
        let management = Self { socket: Some(socket), lock: Some(lock), ..Self::default() };
        Ok((management, server::Sockets::new(first, sockets)))
    }

    /// Metrics are to be scraped, too: of what becomes of that `served` tells.
    pub(super) fn watch_scrapes(&mut self, served: watch::Receiver<Unserved>) {
        self.scrapes = Some(served);
    }

    /// The lock, which is to be kept to the end.
    pub(super) fn lock(&mut self) -> Option<Lock> {
        self.lock.take()
    }

    /// What is not as it should be, and how often something was made again.
    pub(super) fn state(&self) -> &Watched {
        &self.state
    }

    /// Looks at everything and mends what can be mended: what that was, and what is wrong now.
    fn look(&mut self) -> (Vec<String>, Vec<String>) {
        let Self { socket, lock, scrapes, .. } = self;
        let looks = [
            lock.as_mut().map(|lock| match lock.mend() {
                Ok(true) => Ok(Some("the lock file was gone, and is there again".to_owned())),
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
    /// Makes sure that the socket is there and the group's: what had to be done for it, or why it is not so.
    fn look(&mut self) -> Result<Option<String>, String> {
        let Self { path, group, bound, next } = self;
        let said = |error: SocketError| error.to_string();
        let mut mended = None;
        if !bound.as_ref().is_some_and(|bound| bound.is_at(path)) {
            let socket = Socket::bind(path, None).map_err(said)?;
            let now = socket.bound();
            // Dropped, it takes its file along.
            next.try_send(socket)
                .map_err(|_| format!("control socket {}: the server is busy", path.display()))?;
            let was =
                if bound.replace(now).is_some() { "was gone, and is there again" } else { "is there now" };
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

/// An address where metrics are to be scraped, taken or not.
pub(super) struct Scrapes {
    address: SocketAddr,
    listener: Option<TcpListener>,
    served: watch::Sender<Unserved>,
}

impl Scrapes {
    /// Tries to listen; that it cannot be is an error, unless `lenient`: then it is tried again with time.
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

    /// Serves metrics, from when the address can be had until `stopped`.
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
