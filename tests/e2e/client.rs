//! What the client does: requests with curl, many requests over sockets of the test, datagrams.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
};

use anyhow::{Context, Result, anyhow, ensure};
use xtask::{
    lab::{CLIENT, Lab, Node, VIP_V4, VIP_V6},
    run,
    stack::web,
    wait,
};

use crate::echo::PORT;

fn vip(v6: bool) -> IpAddr {
    if v6 { VIP_V6.into() } else { VIP_V4.into() }
}

/// One request with curl, and its answer.
pub(crate) fn curl(lab: &Lab, v6: bool, path: &str) -> Result<String> {
    let mut command = lab.node(CLIENT)?.command("curl");
    run::capture(command.args(["-gsSf", "--max-time", "60", &web::url(v6, path)]))
}

/// Requests over one connection each: which backend answered, or the error.
pub(crate) fn requests(lab: &Lab, v6: bool, count: usize) -> Result<Vec<Result<String, String>>> {
    requests_from(lab.node(CLIENT)?, v6, count)
}

/// The same of a client that is known already, for threads.
pub(crate) fn requests_from(client: &Node, v6: bool, count: usize) -> Result<Vec<Result<String, String>>> {
    client.enter(|| (0..count).map(|_| request(v6).map_err(|error| error.to_string())).collect())
}

fn request(v6: bool) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(vip(v6), web::PORT), wait::limit())?;
    stream.set_read_timeout(Some(wait::limit()))?;
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

/// Sends this many bytes to the echo service over one connection, reads them back and compares them: which backend answered.
pub(crate) fn there_and_back(lab: &Lab, v6: bool, bytes: usize) -> Result<String> {
    let data = lb_tests::bytes::unlike(bytes);
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(vip(v6), PORT), wait::limit());
    let mut sender = lab.node(CLIENT)?.enter(connect)?.context("cannot connect")?;
    sender.set_read_timeout(Some(wait::limit()))?;
    sender.set_write_timeout(Some(wait::limit()))?;
    let mut reader = BufReader::new(sender.try_clone()?);
    let (mut name, mut back) = (String::new(), vec![0; bytes]);
    let exchanged = std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.write_all(&data));
        let received = reader.read_line(&mut name).and_then(|_| reader.read_exact(&mut back));
        sending.join().map(|sent| sent.and(received))
    });
    let exchanged = exchanged.map_err(|_| anyhow!("the sender panicked"))?;
    exchanged.with_context(|| format!("{bytes} bytes did not come back"))?;
    ensure!(back == data, "what came back differs");
    Ok(name.trim().to_owned())
}

/// A datagram from a new port, and its answer.
pub(crate) fn datagram(lab: &Lab, v6: bool, text: &str) -> Result<String> {
    let ask = || -> std::io::Result<String> {
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(wait::limit()))?;
        // Connected: a datagram from an address other than the service's would not arrive.
        socket.connect((vip(v6), PORT))?;
        socket.send(text.as_bytes())?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    lab.node(CLIENT)?.enter(ask)?.context("no answer to a datagram")
}
