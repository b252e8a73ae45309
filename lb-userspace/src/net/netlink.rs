//! The two netlink sockets: one that hears of changes, one that asks. Moves bytes and counts answers; what they say
//! is read in `message`.

use std::{io, time::Duration};

use bytes::BytesMut;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};

use super::message;

/// Multicast groups we follow (`linux/rtnetlink.h`). The last is newer (Linux 5.3) than what we need.
const GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];
const OPTIONAL_GROUP: u32 = libc::RTNLGRP_NEXTHOP;

/// Bytes the kernel may hold for us in notifications: ten thousand neighbours change state at once when a rack starts.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Larger than any datagram the kernel makes (32 KiB since Linux 4.9).
const DATAGRAM: usize = 64 * 1024;
/// Requests under way at once: their answers fit into the smallest receive buffer, and one bit each into a word.
const WINDOW: usize = 64;
/// The kernel answers while it takes the request; a longer wait is for an answer that was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Dumps that were disturbed by changes are repeated this often, then taken as they are.
const DUMP_ATTEMPTS: usize = 4;

pub(super) struct Socket {
    socket: TokioSocket,
    buffer: BytesMut,
    sequence: u32,
}

/// One message of an answer.
pub(super) enum Answer<'a> {
    Message(&'a [u8]),
    /// An error number, or 0 for an acknowledgement.
    Status(i32),
}

impl Socket {
    /// A socket that hears of changes, in the network namespace of the calling thread.
    pub(super) fn listening() -> io::Result<Self> {
        let mut this = Self::asking()?;
        // Beyond the system's limit with the privilege, up to it without.
        if setsockopt(&this.socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            this.socket.socket_ref().set_rx_buf_sz(RECEIVE_BUFFER as libc::c_int)?;
        }
        this.socket.socket_mut().bind_auto()?;
        for group in GROUPS {
            this.socket.socket_ref().add_membership(group)?;
        }
        if let Err(error) = this.socket.socket_ref().add_membership(OPTIONAL_GROUP) {
            log::debug!("next-hop objects are not followed: {error}");
        }
        Ok(this)
    }

    /// A socket for [`Socket::exchange`] and [`Socket::dump`].
    pub(super) fn asking() -> io::Result<Self> {
        let socket = TokioSocket::new(NETLINK_ROUTE)?;
        // Errors without a copy of the request. Linux 4.2; without it they are merely longer.
        let _ = socket.socket_ref().set_cap_ack(true);
        Ok(Self { socket, buffer: BytesMut::new(), sequence: 0 })
    }

    /// Waits for notifications and hands each, kind and payload, to `each`. Safe to cancel.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when notifications were lost, `InvalidData` when one did not fit: both ask for a fresh dump.
    pub(super) async fn receive(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.fill().await?;
        messages(&self.buffer, |header, payload| each(header.message_type(), payload))
    }

    /// Throws away what waits to be received. After an overrun the kernel drops everything, without saying so again,
    /// until its queue is empty: only a dump made after this is complete.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(DATAGRAM);
            match self.socket.socket_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the request that `request` makes of each item and waits for exactly one answer to each, which `each` gets
    /// with its item.
    ///
    /// # Errors
    ///
    /// An answer did not come, or the socket failed: the socket is of no more use.
    pub(super) async fn exchange<T: Copy>(
        &mut self,
        items: &[T],
        request: fn(T) -> RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(T, Answer<'_>),
    ) -> io::Result<()> {
        let mut batch = Vec::new();
        for items in items.chunks(WINDOW) {
            batch.clear();
            let first = self.sequence;
            let mut waiting = 0_u64;
            for (bit, &item) in items.iter().enumerate() {
                waiting |= 1 << bit;
                message::encode(request(item), NLM_F_REQUEST | flags, self.sequence, &mut batch);
                self.sequence = self.sequence.wrapping_add(1);
            }
            self.send(&batch).await?;
            while waiting != 0 {
                self.fill_in_time().await?;
                messages(&self.buffer, |header, payload| {
                    let bit = header.sequence_number().wrapping_sub(first);
                    // Else an answer to something given up long ago.
                    if let Some(&item) = items.get(bit as usize)
                        && waiting & 1 << bit != 0
                    {
                        waiting &= !(1 << bit);
                        each(item, answer(header, payload));
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Asks for all entries of a table, which `each` puts into it one by one. A dump that was disturbed by a change is
    /// repeated with an empty table.
    pub(super) async fn dump<T: Default>(
        &mut self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(&mut T, u16, &[u8]),
    ) -> io::Result<T> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        message::encode(request, NLM_F_REQUEST | NLM_F_DUMP, sequence, &mut bytes);
        let mut attempt = 1;
        loop {
            let mut table = T::default();
            self.send(&bytes).await?;
            let (mut done, mut disturbed, mut failed) = (false, false, 0);
            while !done {
                self.fill_in_time().await?;
                messages(&self.buffer, |header, payload| {
                    if header.sequence_number() != sequence {
                        return;
                    }
                    disturbed |= header.flags() & NLM_F_DUMP_INTR != 0;
                    match header.message_type() {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            done = true;
                            failed = status(payload);
                        }
                        kind => each(&mut table, kind, payload),
                    }
                })?;
            }
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            if !disturbed || attempt == DUMP_ATTEMPTS {
                return Ok(table);
            }
            attempt += 1;
        }
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send_to(bytes, &netlink_sys::SocketAddr::new(0, 0)).await?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    async fn fill_in_time(&mut self) -> io::Result<()> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.fill()).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer")),
        }
    }

    /// Reads one datagram. What does not come from the kernel is dropped.
    async fn fill(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(DATAGRAM);
            let from = self.socket.recv_from(&mut self.buffer).await?;
            if from.port_number() == 0 {
                return Ok(());
            }
        }
    }
}

fn answer<'a>(header: &NetlinkBuffer<&[u8]>, payload: &'a [u8]) -> Answer<'a> {
    match header.message_type() {
        NLMSG_ERROR => Answer::Status(status(payload)),
        _ => Answer::Message(payload),
    }
}

/// The positive error number of an `NLMSG_ERROR`; 0 = acknowledged.
fn status(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes).saturating_neg())
}

/// Walks through the messages of a datagram.
fn messages(mut bytes: &[u8], mut each: impl FnMut(&NetlinkBuffer<&[u8]>, &[u8])) -> io::Result<()> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a netlink message was cut short"))?;
        let length = message.length() as usize;
        each(&message, bytes.get(16..length).unwrap_or_default());
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_datagram_makes_walking_fail_or_go_on_forever(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut seen = 0;
            let _ = messages(&bytes, |_, _| seen += 1);
            prop_assert!(seen <= bytes.len() / 16);
        }
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let mut bytes = Vec::new();
        message::encode(message::link_dump(), 1, 1, &mut bytes);
        assert!(messages(&bytes, |_, _| {}).is_ok());
        assert!(messages(&bytes[..bytes.len() - 1], |_, _| {}).is_err());
    }
}
