//! HTTP/1.1 by hand over the control socket, so that a test can send what no client would send.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::agent::Agent;

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// Fails unless the answer is an error of this status with a code, a message and an object.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{self:?}");
        assert!(self.body["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert!(self.body["object"].is_string(), "{self:?}");
    }
}

impl Agent<'_> {
    /// Sends a whole request with a body.
    pub(crate) fn http(&self, verb: &str, path: &str, body: &str) -> Result<Answer> {
        let length = body.len();
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        self.raw(&[head.as_bytes(), body.as_bytes()].concat())
    }

    /// Sends these bytes, and nothing after them, and reads the answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<Answer> {
        let mut stream = UnixStream::connect(self.world.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // The agent may answer and close before it has read everything.
        let _sent = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let (head, body) =
            text.split_once("\r\n\r\n").with_context(|| format!("no answer ({read:?}): {text}"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok(Answer { status, body: serde_json::from_str(body).with_context(|| format!("no JSON: {text}"))? })
    }
}
