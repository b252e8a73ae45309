//! A cable made of two TAP devices: two threads carry the frames that one device sends to the other device.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsRawFd,
    thread,
};

use anyhow::{Context as _, Result};

use super::scene::inside;

/// `TUNSETIFF` (linux/if_tun.h).
const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;

/// Makes `name` in the calling thread's network namespace. The device exists for as long as the file is open.
fn device(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a value of this struct of numbers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: the request is whole and outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), SET_INTERFACE, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Makes `near` here and `far` in the namespace, and carries frames between both for as long as they exist.
pub(super) fn cable(near: &str, namespace: &str, far: &'static str) -> Result<()> {
    let here = device(near).context("no TAP device")?;
    let there = inside(namespace, move || Ok(device(far)?))?;
    for (mut from, mut to) in [(here.try_clone()?, there.try_clone()?), (there, here)] {
        thread::spawn(move || {
            let mut frame = vec![0; 65536];
            loop {
                match from.read(&mut frame) {
                    // A device that is down takes no frames.
                    Ok(length) => drop(to.write(&frame[..length])),
                    Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
        });
    }
    Ok(())
}
