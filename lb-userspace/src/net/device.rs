//! What one interface is, as far as it decides whether it can send XDP frames: asked of the kernel at once, by number,
//! in the calling thread's network namespace. What follows from it is in `ability`.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

use super::{link, message::attributes};

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    /// Kind of a virtual device, for example `bridge`; `None` = hardware, or one of the few that do not say.
    pub kind: Option<String>,
    /// The kernel's driver.
    pub driver: Option<String>,
    /// What the driver says it can do ([`feature`]); `None` = the kernel does not tell (it is older than 6.3).
    pub features: Option<u64>,
    /// Has an XDP program in the driver.
    pub program: bool,
    /// The other end of a veth.
    pub far_end: Option<FarEnd>,
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarEnd {
    /// Its name where it is; `None` = we may not look there.
    pub name: Option<String>,
    /// Has an XDP program in the driver; `None` = we may not look there.
    pub program: Option<bool>,
    /// It is in another network namespace.
    pub elsewhere: bool,
}

/// Bits of `enum netdev_xdp_act` (linux/netdev.h).
pub mod feature {
    /// Takes a program in the driver.
    pub const BASIC: u64 = 1 << 0;
    /// Sends frames that are redirected to it.
    pub const SEND: u64 = 1 << 2;
}

/// Attributes of `linux/if_link.h`.
mod attribute {
    pub(super) const IFNAME: u16 = 3;
    pub(super) const LINK: u16 = 5;
    pub(super) const LINKINFO: u16 = 18;
    pub(super) const LINK_NETNSID: u16 = 37;
    pub(super) const XDP: u16 = 43;
    pub(super) const TARGET_NETNSID: u16 = 46;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const XDP_ATTACHED: u16 = 2;
    /// `XDP_ATTACHED_DRV`, `…_HW` and `…_MULTI`.
    pub(super) const IN_DRIVER: [u8; 3] = [1, 3, 4];
}

/// `linux/genetlink.h` and `linux/netdev.h`.
mod generic {
    pub(super) const CONTROL: u16 = 0x10;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const DEVICE_GET: u8 = 1;
    pub(super) const DEVICE_NUMBER: u16 = 1;
    pub(super) const DEVICE_FEATURES: u16 = 3;
}

/// Bytes of `nlmsghdr`, `ifinfomsg` and `genlmsghdr`.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// Asks the kernel.
///
/// # Errors
/// No such interface (`ENODEV`), or no socket.
pub fn ask(index: u32) -> io::Result<Device> {
    let routing = open(SockProtocol::NetlinkRoute)?;
    let link = Link::ask(&routing, index, None)?;
    let far_end = match (&*link.kind, link.peer) {
        ("veth", Some(peer)) => {
            let there = Link::ask(&routing, peer, link.peer_namespace).ok();
            Some(FarEnd {
                name: there.as_ref().map(|there| there.name.clone()),
                program: there.map(|there| there.program),
                elsewhere: link.peer_namespace.is_some(),
            })
        }
        _ => None,
    };
    Ok(Device {
        driver: link::info(&link.name).ok().and_then(|info| info.driver),
        kind: Some(link.kind).filter(|kind| !kind.is_empty()),
        features: features(index).ok(),
        name: link.name,
        program: link.program,
        far_end,
    })
}

/// What the kernel says of a link.
#[derive(Default)]
struct Link {
    name: String,
    /// Empty = none.
    kind: String,
    program: bool,
    /// Number of the lower device, or of a veth's other end.
    peer: Option<u32>,
    /// The number under which our namespace knows that of `peer`; `None` = it is ours.
    peer_namespace: Option<u32>,
}

impl Link {
    fn ask(socket: &OwnedFd, index: u32, namespace: Option<u32>) -> io::Result<Self> {
        let mut body = vec![0; LINK_HEADER];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        if let Some(namespace) = namespace {
            append(&mut body, attribute::TARGET_NETNSID, &namespace.to_ne_bytes());
        }
        let answer = exchange(socket, libc::RTM_GETLINK, &body)?;
        Ok(Self::read(answer.get(LINK_HEADER..).unwrap_or_default()))
    }

    fn read(bytes: &[u8]) -> Self {
        let mut link = Self::default();
        for (kind, value) in attributes(bytes) {
            match kind {
                attribute::IFNAME => link.name = text(value),
                attribute::LINK => link.peer = number(value),
                attribute::LINK_NETNSID => link.peer_namespace = number(value),
                attribute::LINKINFO => {
                    let kind = attributes(value).find(|(kind, _)| *kind == attribute::INFO_KIND);
                    link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
                }
                attribute::XDP => {
                    link.program = attributes(value).any(|(kind, value)| {
                        kind == attribute::XDP_ATTACHED
                            && value.first().is_some_and(|mode| attribute::IN_DRIVER.contains(mode))
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// The features that the interface's driver announces (since kernel 6.3).
fn features(index: u32) -> io::Result<u64> {
    let socket = open(SockProtocol::NetlinkGeneric)?;
    let mut body = vec![generic::GET_FAMILY, 1, 0, 0];
    append(&mut body, generic::FAMILY_NAME, b"netdev\0");
    let answer = exchange(&socket, generic::CONTROL, &body)?;
    let family = find(&answer, generic::FAMILY_ID)
        .and_then(|value| value.first_chunk())
        .map(|bytes| u16::from_ne_bytes(*bytes))
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![generic::DEVICE_GET, 1, 0, 0];
    append(&mut body, generic::DEVICE_NUMBER, &index.to_ne_bytes());
    let answer = exchange(&socket, family, &body)?;
    let bytes = find(&answer, generic::DEVICE_FEATURES).and_then(|value| value.first_chunk());
    bytes.map(|bytes| u64::from_ne_bytes(*bytes)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn find(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let attribute = attributes(answer.get(GENERIC_HEADER..)?).find(|(kind, _)| *kind == wanted);
    attribute.map(|(_, value)| value)
}

fn append(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// One question, one answer: what follows its header.
fn exchange(socket: &OwnedFd, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Number of the request, and of the socket: the kernel fills it in.
    request.extend([0; 8]);
    request.extend(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; 32 * 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    let field = |at: usize| answer.get(at..).and_then(|bytes| bytes.first_chunk::<4>().copied());
    let (Some(length), Some(kind)) = (field(0), field(4)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let end = (u32::from_ne_bytes(length) as usize).clamp(HEADER, answer.len().max(HEADER));
    if u16::from_ne_bytes([kind[0], kind[1]]) == libc::NLMSG_ERROR as u16 {
        let error = field(HEADER).map_or(libc::EBADMSG, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(error.saturating_neg()));
    }
    Ok(answer.get(HEADER..end).unwrap_or_default().to_vec())
}

fn open(protocol: SockProtocol) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    // The kernel answers within the call to send; this only keeps a surprise from hanging the agent.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    Ok(socket)
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_asked_and_sends_no_xdp_frames() {
        let device = ask(1).unwrap();
        assert_eq!((&*device.name, device.kind, device.program, device.far_end), ("lo", None, false, None));
        assert!(device.features.is_none_or(|features| features & feature::SEND == 0));
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert_eq!(ask(0x7fff_fff0).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn unknown_attributes_leave_the_rest_readable() {
        let mut bytes = Vec::new();
        append(&mut bytes, 999, b"news");
        append(&mut bytes, attribute::IFNAME, b"br0\0");
        let mut kind = Vec::new();
        append(&mut kind, attribute::INFO_KIND, b"bridge\0");
        append(&mut bytes, attribute::LINKINFO, &kind);
        let link = Link::read(&bytes);
        assert_eq!((&*link.name, &*link.kind, link.program, link.peer), ("br0", "bridge", false, None));
        for cut in 0..bytes.len() {
            let _ = Link::read(&bytes[..cut]);
        }
    }
}
