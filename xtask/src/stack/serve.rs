//! Our own small HTTP server, for labs on machines without nginx: a thread for each connection, one request on each. It
//! serves the lab and is no example of how to write one.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv6Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use super::web::{DOWNLOAD_BYTES, DOWNLOAD_RATE, PORT};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// What it answers with
    #[arg(long)]
    name: String,
    #[arg(long, default_value_t = PORT)]
    port: u16,
}

/// How long a client may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request line that is read.
const LONGEST: u64 = 4096;

/// Runs `serve`: until it is ended.
pub fn main(arguments: &ServeArgs) -> Result<()> {
    // One socket for both families: Linux maps IPv4 into it unless asked not to.
    let address = (Ipv6Addr::UNSPECIFIED, arguments.port);
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on port {}", arguments.port))?;
    serve(&listener, &arguments.name)
}

fn serve(listener: &TcpListener, name: &str) -> Result<()> {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                let name = name.to_owned();
                // A client that goes away in the middle is its own business.
                std::thread::spawn(move || answer(&stream, &name).ok());
            }
            // Too many open files, say: others will close theirs.
            Err(error) => {
                eprintln!("cannot accept: {error}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(io::Read::take(stream, LONGEST));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    // The rest of the head is read and passed over: closing on unread bytes would reset the connection.
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let head = |status: &str, length: u64| {
        format!(
            "HTTP/1.1 {status}\r\nX-Backend: {name}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    };
    match path.split('?').next().unwrap_or_default() {
        "/healthz" => stream.write_all(format!("{}ok\n", head("200 OK", 3)).as_bytes()),
        "/download" => {
            stream.write_all(head("200 OK", DOWNLOAD_BYTES).as_bytes())?;
            drip(stream)
        }
        "" => stream.write_all(head("400 Bad Request", 0).as_bytes()),
        _ => stream.write_all(format!("{}{name}\n", head("200 OK", name.len() as u64 + 1)).as_bytes()),
    }
}

/// The download, at its rate.
fn drip(mut stream: &TcpStream) -> io::Result<()> {
    const PIECE: u64 = 20_000;
    let zeros = [0; PIECE as usize];
    let started = Instant::now();
    for sent in (0..DOWNLOAD_BYTES).step_by(PIECE as usize) {
        let due = Duration::from_millis(sent * 1000 / DOWNLOAD_RATE);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let length = PIECE.min(DOWNLOAD_BYTES - sent);
        stream.write_all(&zeros[..usize::try_from(length).unwrap_or(zeros.len())])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, "backend-7"));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn it_answers_with_its_name() {
        let answer = ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\nX-Backend: backend-7\r\nContent-Length: 10\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nbackend-7\n"), "{answer}");
    }

    #[test]
    fn it_is_healthy() {
        assert!(ask("GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(ask("\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }
}
