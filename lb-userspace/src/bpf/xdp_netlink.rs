//! Asks the kernel over netlink for the XDP program on an interface, and attaches a program without a link. One request,
//! one answer; `net` watches interfaces.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's generic path, after the kernel has made a socket buffer: works with every driver, but slower.
    Generic,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Present {
    pub program: u32,
    pub mode: Mode,
}

/// The XDP program on an interface; `None` = no program. An offloaded program, and several programs at once, count as native.
pub fn program_on(interface: u32) -> io::Result<Option<Present>> {
    let mut message = LinkMessage::default();
    message.header.index = interface;
    let answer = ask(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer else {
        return Err(io::Error::other("the kernel did not answer with a link"));
    };
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    let Some(xdp) = xdp else { return Ok(None) };
    let mut mode = None;
    let mut program = 0;
    for part in xdp {
        match part {
            LinkXdp::Attached(XdpAttached::None) => return Ok(None),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(Mode::Generic),
            LinkXdp::Attached(_) => mode = Some(Mode::Native),
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id)
                if program == 0 =>
            {
                program = *id;
            }
            _ => {}
        }
    }
    Ok(mode.map(|mode| Present { program, mode }))
}

/// `XDP_FLAGS_*` (linux/if_link.h).
const UPDATE_IF_NOEXIST: u32 = 1 << 0;
const fn flag(mode: Mode) -> u32 {
    match mode {
        Mode::Generic => 1 << 1,
        Mode::Native => 1 << 2,
    }
}

/// Puts a program on an interface so that it stays without a process that holds it; the kernel refuses with EBUSY where a
/// program is already there.
pub fn attach(interface: u32, program: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
    set(interface, program.as_raw_fd(), UPDATE_IF_NOEXIST | flag(mode))
}

/// Takes off the program that [`attach`] put there.
pub fn detach(interface: u32, mode: Mode) -> io::Result<()> {
    set(interface, -1, flag(mode))
}

fn set(interface: u32, program: i32, flags: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = interface;
    message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(program), LinkXdp::Flags(flags)]));
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = open()?;
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut answer = vec![0; 64 * 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..length])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        payload => Ok(payload),
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    // The kernel answers within the call to send. The timeout keeps the agent from hanging if it does not.
    let second = nix::sys::time::TimeVal::new(1, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &second)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_program_missing_interfaces_fail() {
        assert_eq!(program_on(1).unwrap(), None);
        assert_eq!(program_on(0x7fff_fff0).unwrap_err().raw_os_error(), Some(nix::libc::ENODEV));
    }
}
