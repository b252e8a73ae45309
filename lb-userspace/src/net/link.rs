//! One interface, asked for by name: for code that needs to know before, or without, a running watcher. By ioctl on a
//! socket of the calling thread's network namespace; `/sys/class/net` would show the namespace it was mounted in.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `linux/ethtool.h`.
const ETHTOOL_GDRVINFO: u32 = 3;
pub(super) const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// What there is to know of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub index: u32,
    /// `None` = it has no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Wanted up by the administrator.
    pub up: bool,
    /// Has a carrier, or counts as if it had.
    pub running: bool,
    /// Name of the kernel's driver; `None` = it tells none.
    pub driver: Option<String>,
}

/// The number of the interface, or `None` if there is none of that name in the calling thread's network namespace.
pub fn index_of(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Asks the kernel for all of [`Info`].
///
/// # Errors
///
/// No such interface (`ENODEV`), or no socket.
pub fn info(name: &str) -> io::Result<Info> {
    let index = index_of(name).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let socket = socket()?;
    let mut request = request(name)?;
    ask(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call filled this member of the union, and every bit pattern is a number.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    ask(&socket, libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: as above.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    ask(&socket, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: as above.
    let hardware = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mac = (hardware.sa_family == libc::ARPHRD_ETHER)
        .then(|| std::array::from_fn(|n| hardware.sa_data[n].cast_unsigned()));
    Ok(Info {
        index,
        mac,
        mtu: u32::try_from(mtu).unwrap_or(0),
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_RUNNING != 0,
        driver: driver(&socket, name).ok().flatten(),
    })
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

fn driver(socket: &OwnedFd, name: &str) -> io::Result<Option<String>> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    ask(socket, SIOCETHTOOL, &mut request)?;
    let name = info.driver.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()))
}

pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

pub(super) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeroes is a value of this struct of numbers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

pub(super) fn ask(socket: &OwnedFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `request` is a whole ifreq that outlives the call; where it points to further data, so does that.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_and_has_no_ethernet_header() {
        let info = info("lo").unwrap();
        assert_eq!((info.index, info.mac), (index_of("lo").unwrap(), None));
        assert!(info.mtu >= 1500);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert_eq!(index_of("lb-not-there"), None);
        for name in ["lb-not-there", "", "a-name-far-too-long-for-an-interface", "l\0o"] {
            assert_eq!(info(name).unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }
}
