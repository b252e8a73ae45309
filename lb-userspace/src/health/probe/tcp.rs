//! The TCP part of every probe: connect, and leave no trace. As a probe of its own that is all of it: the kernel of
//! the backend accepted the connection, so something listens there and its queue is not full.

use std::{io, net::SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

use super::Failure;

/// Connects to `address`; the caller bounds the time. The socket is non-blocking and close-on-exec.
///
/// Closing the connection will reset it (`SO_LINGER` of 0 seconds) instead of saying goodbye. Whoever closes first
/// keeps a polite connection's ports in TIME_WAIT for 60 s: 10,000 backends probed every 5 s would hold 120,000
/// sockets here, or dozens on each backend. A reset leaves nothing on either side.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| Failure::NotAsked(format!("no socket: {error}")))?;
    socket.set_zero_linger().map_err(|error| Failure::NotAsked(format!("SO_LINGER: {error}")))?;
    socket.connect(address).await.map_err(|error| refused(&error))
}

fn refused(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Failure::Backend("connection refused".into()),
        Some(libc::ECONNRESET) => Failure::Backend("connection reset".into()),
        Some(libc::ENETUNREACH) => Failure::Backend("network unreachable".into()),
        Some(libc::EHOSTUNREACH) => Failure::Backend("host unreachable".into()),
        Some(libc::EADDRNOTAVAIL) => Failure::NotAsked("no free local port".into()),
        Some(libc::EACCES | libc::EPERM) => {
            Failure::NotAsked(format!("connect forbidden on this host, look at its firewall: {error}"))
        }
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => {
            Failure::NotAsked(format!("connect: {error}"))
        }
        _ => Failure::Backend(format!("connect: {error}")),
    }
}
