//! What the client does: requests with curl, many requests over sockets of our own, datagrams.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result};
use xtask::{
    lab::{CLIENT, Lab, VIP_V4, VIP_V6},
    run,
    stack::web,
};

use crate::echo::PORT;

fn vip(v6: bool) -> IpAddr {
    if v6 { VIP_V6.into() } else { VIP_V4.into() }
}

/// One request with curl: what it got.
pub(crate) fn curl(lab: &Lab, v6: bool, path: &str) -> Result<String> {
    let mut command = lab.node(CLIENT)?.command("curl");
    run::capture(command.args(["-gsSf", "--max-time", "20", &web::url(v6, path)]))
}

/// Requests over a connection each: who answered, or what went wrong.
pub(crate) fn requests(lab: &Lab, v6: bool, count: usize) -> Result<Vec<Result<String, String>>> {
    lab.node(CLIENT)?.enter(|| (0..count).map(|_| request(v6).map_err(|error| error.to_string())).collect())
}

fn request(v6: bool) -> std::io::Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::new(vip(v6), web::PORT), Duration::from_millis(1500))?;
    stream.set_read_timeout(Some(Duration::from_millis(1500)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    Ok(body.trim().to_owned())
}

/// How often each backend answered.
pub(crate) fn spread(answers: &[Result<String, String>]) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for name in answers.iter().flatten() {
        *spread.entry(name.clone()).or_default() += 1;
    }
    spread
}

/// A datagram from a new port: what came back.
pub(crate) fn datagram(lab: &Lab, v6: bool, text: &str) -> Result<String> {
    let ask = || -> std::io::Result<String> {
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        // Connected: an answer from another address than the service's would not arrive.
        socket.connect((vip(v6), PORT))?;
        socket.send(text.as_bytes())?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    lab.node(CLIENT)?.enter(ask)?.context("no answer to a datagram")
}
