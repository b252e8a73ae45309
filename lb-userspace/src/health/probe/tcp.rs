//! The TCP part of every probe: connect, and leave no trace. As a probe of its own that is all of it: the kernel of
//! the backend accepted the connection, so something listens there and its queue is not full.

use std::{io, net::SocketAddr, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, setsockopt, socket, sockopt::Linger,
    },
};
use tokio::net::TcpStream;

use super::Failure;

/// A connection, and the reset that followed its making at once. What the backend sent before the reset is still there
/// to be read.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    pub reset: Option<io::Error>,
}

/// Connects to `address`; the caller bounds the time. The socket is non-blocking and close-on-exec.
///
/// Closing the connection will reset it (`SO_LINGER` of 0 seconds) instead of saying goodbye. The side that closes first
/// keeps a polite connection's ports in TIME_WAIT for 60 s: 10,000 backends probed every 5 s would hold 120,000
/// sockets here, or dozens on each backend. A reset leaves nothing on either side.
///
/// Made from system calls, because tokio's `connect` gives the socket up where a reset came before it looked; some servers
/// answer and reset without waiting for a request.
///
/// # Errors
///
/// The connection could not be made, or this host could not ask.
pub async fn connect(address: SocketAddr) -> Result<Connection, Failure> {
    let not_asked =
        |what: &str, error: Errno| Failure::LocalError(format!("{what}: {}", io::Error::from(error)));
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, SockProtocol::Tcp)
        .map_err(|error| not_asked("no socket", error))?;
    setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
        .map_err(|error| not_asked("SO_LINGER", error))?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
        Err(error) => return Err(refused(&error.into())),
    }
    let stream = TcpStream::from_std(socket.into())
        .map_err(|error| Failure::LocalError(format!("the socket cannot be watched: {error}")))?;
    stream.writable().await.map_err(|error| refused(&error))?;
    match stream.take_error().map_err(|error| refused(&error))? {
        None => Ok(Connection { stream, reset: None }),
        // Of a connection that was there: one that was never made is refused instead (Linux `tcp_reset`).
        Some(error) if matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)) => {
            Ok(Connection { stream, reset: Some(error) })
        }
        Some(error) => Err(refused(&error)),
    }
}

/// The words of a host that is there, and on which nothing listens at that port.
pub(super) const REFUSED: &str = "connection refused";

pub(super) fn refused(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Failure::Backend(REFUSED.into()),
        Some(libc::ECONNRESET | libc::EPIPE) => Failure::Backend("connection reset".into()),
        Some(libc::ENETUNREACH) => Failure::Backend("network unreachable".into()),
        Some(libc::EHOSTUNREACH) => Failure::Backend("host unreachable".into()),
        Some(libc::EADDRNOTAVAIL) => Failure::LocalError("no free local port".into()),
        Some(libc::EACCES | libc::EPERM) => {
            Failure::LocalError(format!("connect forbidden on this host, look at its firewall: {error}"))
        }
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => {
            Failure::LocalError(format!("connect: {error}"))
        }
        _ => Failure::Backend(format!("connect: {error}")),
    }
}
