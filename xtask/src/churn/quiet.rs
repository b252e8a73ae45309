//! Connections next to the load that say nothing until they are asked: what lies in no table, or is pushed out of one, shows in
//! them first.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Instant,
};

use anyhow::{Context, Result};

use super::{
    book::Book,
    load,
    message::{self, ANSWER, Identity, REQUEST},
};
use crate::wait;

/// Numbers of these connections; those of the load are smaller.
pub(super) const FIRST: u64 = 1 << 40;

/// A connection that is established, and which backend has it.
#[derive(Debug)]
pub(super) struct Quiet {
    pub(super) stream: TcpStream,
    pub(super) service: usize,
    pub(super) identity: Identity,
    pub(super) number: u64,
    asked: u64,
    pub(super) since: Instant,
}

impl Quiet {
    /// Opens so many connections to each of the first two services, with numbers from `first` on, and asks over each once,
    /// in the namespace of the calling thread.
    pub(super) fn open(first: u64, each: u64) -> Result<Vec<Self>> {
        let services = (0..each).flat_map(|_| [0, 1]);
        (first..).zip(services).map(|(number, service)| Self::one(number, service)).collect()
    }

    fn one(number: u64, service: usize) -> Result<Self> {
        let address = load::address(service);
        let opened = TcpStream::connect_timeout(&address, wait::limit());
        let stream = opened.with_context(|| format!("a quiet connection to {address}"))?;
        stream.set_read_timeout(Some(wait::limit()))?;
        let identity = answer(&stream, &message::request(number, 1))?;
        Ok(Self { stream, service, identity, number, asked: 1, since: Instant::now() })
    }

    /// Asks once more: which backend answered.
    pub(super) fn ask(&mut self) -> Result<Identity> {
        self.asked += 1;
        self.since = Instant::now();
        answer(&self.stream, &message::request(self.number, self.asked))
    }

    /// Puts into the account what came of it; whether it is where it was.
    fn note(&self, book: &mut Book, answered: &Result<Identity>) -> bool {
        let Self { service, identity, since, .. } = self;
        // Those of the load are counted, and so are these while they break.
        book.count(*service, *identity, 1);
        match answered {
            Ok(now) => {
                if now != identity {
                    book.switched(*since, *service, *identity, *now);
                }
                book.count(*service, *now, -1);
                now == identity
            }
            Err(error) => {
                book.ended(*since, *service, *identity, &format!("a quiet one: {error:#}"));
                false
            }
        }
    }
}

/// Puts into the account what came of each; how many are where they were.
pub(super) fn note_all(asked: &[Quiet], answers: &[Result<Identity>], book: &mut Book) -> usize {
    asked.iter().zip(answers).filter(|(one, answer)| one.note(book, answer)).count()
}

fn answer(mut stream: &TcpStream, request: &[u8; REQUEST]) -> Result<Identity> {
    stream.write_all(request)?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer)?;
    identity(&answer, request)
}

/// Which backend gave this answer to that request.
pub(super) fn identity(answer: &[u8], request: &[u8]) -> Result<Identity> {
    let read = message::read(answer).filter(|(_, echoed)| *echoed == request);
    read.map(|(identity, _)| identity).context("the answer is not the one to its request")
}
