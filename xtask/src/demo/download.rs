//! A download in progress: a connection that lives through what the demo does meanwhile, or does not.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::load;
use crate::{
    lab::Lab,
    run,
    stack::web::{self, DOWNLOAD_BYTES},
    wait,
};

/// curl, downloading slowly.
#[derive(Debug)]
pub(super) struct Download {
    child: Child,
    /// The backend that serves it.
    pub(super) backend: String,
    started: Instant,
}

impl Download {
    /// Starts it on the client and waits for the head of the answer, which names the backend.
    pub(super) fn start(lab: &Lab, name: &str, v6: bool) -> Result<Self> {
        let program = run::find("curl").context("curl is not installed")?;
        let head: PathBuf = lab.directory().join(format!("{name}.head"));
        fs::remove_file(&head).ok();
        let mut command = load::curl(&program);
        command.args(["--connect-timeout", "60", "--max-time", "300", "-o", "/dev/null", "-D"]).arg(&head);
        command.args(["-w", "%{http_code} %{size_download}"]).arg(web::url(v6, "/download"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        lab.node(crate::lab::CLIENT)?.place(&mut command);
        let started = Instant::now();
        let mut child = command.spawn().context("cannot start curl")?;
        let begun = wait::until("the download begins", wait::limit(), || {
            let text = fs::read_to_string(&head).unwrap_or_default();
            if let Some(backend) = backend_of(&text) {
                return Ok(Ok(backend));
            }
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "the download did not begin: curl has ended");
            Ok(Err(format!("the head {text:?}")))
        });
        match begun {
            Ok(backend) => Ok(Self { child, backend, started }),
            Err(error) => {
                child.kill().ok();
                let output = child.wait_with_output()?;
                Err(error.context(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
            }
        }
    }

    /// Whether it still runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end: how long it took in all, or what went wrong.
    pub(super) fn finish(self) -> Result<Duration, String> {
        let Self { child, backend: _, started } = self;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.trim() == format!("200 {DOWNLOAD_BYTES}") {
            return Ok(started.elapsed());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(if said.is_empty() { format!("curl got {}", text.trim()) } else { said })
    }
}

/// The `X-Backend` of a head that has arrived whole.
fn backend_of(head: &str) -> Option<String> {
    let (head, _) = head.split_once("\r\n\r\n")?;
    let line = head.lines().find_map(|line| line.strip_prefix("X-Backend: "))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_is_read_from_a_whole_head_only() {
        assert_eq!(
            backend_of("HTTP/1.1 200 OK\r\nX-Backend: backend-2\r\nA: b\r\n\r\n").as_deref(),
            Some("backend-2")
        );
        assert_eq!(backend_of("HTTP/1.1 200 OK\r\nX-Backend: back"), None);
    }
}
