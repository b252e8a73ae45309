//! Real TCP: a client sends 10 MB, the server sends them back when it has all of them, and both compare them with what
//! they should be.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::bytes::unlike;
use xtask::wait;

pub(super) const BYTES: usize = 10_000_000;

/// Sends back to each client what the client sent.
pub(super) fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        thread::spawn(move || -> Result<()> {
            stream.set_read_timeout(Some(wait::limit()))?;
            stream.set_write_timeout(Some(wait::limit()))?;
            let mut got = Vec::with_capacity(BYTES);
            stream.read_to_end(&mut got)?;
            ensure!(got == unlike(BYTES), "something else arrived");
            stream.write_all(&got)?;
            Ok(stream.shutdown(Shutdown::Write)?)
        });
    }
}

/// Sends everything and receives it back. Returns the number of bytes.
pub(super) fn exchange(mut stream: TcpStream) -> Result<usize> {
    stream.set_read_timeout(Some(wait::limit()))?;
    stream.set_write_timeout(Some(wait::limit()))?;
    let sent = unlike(BYTES);
    stream.write_all(&sent).context("sending 10 MB")?;
    stream.shutdown(Shutdown::Write)?;
    let mut got = Vec::with_capacity(BYTES);
    stream.read_to_end(&mut got).with_context(|| format!("fetching 10 MB: {} came", got.len()))?;
    ensure!(got == sent, "{} bytes came back, or others", got.len());
    Ok(got.len())
}
