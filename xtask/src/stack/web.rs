//! The web servers on the backends: nginx where it is installed, otherwise our own small one (`serve`). Each answers
//! with its backend's name at `/`, with `ok` at `/healthz`, and slowly with some megabytes at `/download`.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Command},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    lab::{self, Lab, backend_name},
    run, wait,
};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Nginx,
    /// Our own small one
    Own,
}

impl Kind {
    /// nginx where there is one.
    pub fn installed() -> Self {
        if run::find("nginx").is_some() { Self::Nginx } else { Self::Own }
    }

    /// As it is written on the command line.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Own => "own",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Own => "our own small server",
        }
    }
}

/// Where they listen.
pub const PORT: u16 = 80;
/// What `/download` sends, in bytes.
pub const DOWNLOAD_BYTES: u64 = 6_000_000;
/// How fast, in bytes a second: a download takes 6 s, so that something can happen meanwhile on a busy machine, too.
pub const DOWNLOAD_RATE: u64 = 1_000_000;

/// How often a node is looked through for processes of its server.
const ROUNDS: usize = 5;

/// The servers of all backends.
#[derive(Debug)]
pub struct Web {
    pub kind: Kind,
    children: Vec<Option<Child>>,
}

impl Web {
    pub fn new(kind: Kind, backends: u8) -> Self {
        Self { kind, children: (0..backends).map(|_| None).collect() }
    }

    /// Starts that of one backend.
    pub fn start(&mut self, lab: &mut Lab, index: u8) -> Result<()> {
        let name = backend_name(index);
        let command = match self.kind {
            Kind::Nginx => nginx(lab, &name)?,
            Kind::Own => {
                let mut command = Command::new(run::this_program()?);
                command.args(["serve", "--name", &name]);
                command
            }
        };
        let child = lab.start(&name, "web", command)?;
        let slot = self.children.get_mut(usize::from(index)).context("no such backend")?;
        *slot = Some(child);
        Ok(())
    }

    /// Waits until every server accepts.
    pub fn wait(&self, lab: &Lab) -> Result<()> {
        for index in 0..lab.config().backends {
            let name = backend_name(index);
            let (address, _, _) = lab.config().backend_address(index);
            let address = SocketAddr::from((address, PORT));
            let what = format!("node {name}: {} accepts connections", self.kind.name());
            let accepts = lab.node(&name)?.enter(|| {
                wait::until(&what, wait::limit(), || {
                    wait::attempt(TcpStream::connect_timeout(&address, wait::limit()).map_err(Into::into))
                })
            })?;
            accepts.with_context(|| {
                let log = fs::read_to_string(lab.log(&name, "web")).unwrap_or_default();
                format!("the server's log: {}", log.trim())
            })?;
        }
        Ok(())
    }

    /// Kills that of one backend, as a crash would: everything of it at once, no goodbyes. When this returns, nothing of
    /// it listens any more.
    pub fn kill(&mut self, lab: &Lab, index: u8) -> Result<()> {
        let name = backend_name(index);
        let mut killed = 0;
        // Again, as long as there are some: one may have started another before its own turn came.
        for _ in 0..ROUNDS {
            // nginx is several processes; the one that would start the others again is the oldest.
            let mut processes = lab.processes(&name)?;
            processes.sort_by_key(|process| process.started);
            if processes.is_empty() {
                break;
            }
            killed += processes.len();
            for process in &processes {
                process.signal(libc::SIGKILL)?;
            }
            for process in &processes {
                process.wait(wait::limit())?;
            }
        }
        if killed == 0 {
            bail!("node {name}: no server is running");
        }
        if let Some(mut child) = self.children.get_mut(usize::from(index)).and_then(Option::take) {
            child.wait()?;
        }
        Ok(())
    }
}

/// nginx with a configuration of its own, in a directory of its own.
fn nginx(lab: &Lab, name: &str) -> Result<Command> {
    let program = run::find("nginx").context("nginx is not installed; `--server own` does without")?;
    let directory = lab.subdirectory(name)?;
    lab.subdirectory(&format!("{name}/files"))?;
    let download = fs::File::create(directory.join("files/download"))?;
    download.set_len(DOWNLOAD_BYTES)?;
    let file = directory.join("nginx.conf");
    fs::write(&file, nginx_configuration(&directory.display().to_string(), name))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).arg("-p").arg(&directory);
    Ok(command)
}

fn nginx_configuration(directory: &str, name: &str) -> String {
    let kilobytes = DOWNLOAD_RATE / 1000;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {directory}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\n\
         worker_processes 1;\n\
         pid {directory}/nginx.pid;\n\
         error_log {directory}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n    \
             access_log off;\n    \
             default_type text/plain;\n\
             {temporary}    \
             add_header X-Backend {name} always;\n    \
             server {{\n        \
                 listen {PORT};\n        \
                 listen [::]:{PORT} ipv6only=on;\n        \
                 location = /healthz {{ return 200 \"ok\\n\"; }}\n        \
                 location = /download {{ root {directory}/files; limit_rate {kilobytes}k; }}\n        \
                 location / {{ return 200 \"{name}\\n\"; }}\n    \
             }}\n\
         }}\n"
    )
}

/// The URL of a virtual address.
pub fn url(v6: bool, path: &str) -> String {
    if v6 { format!("http://[{}]{path}", lab::VIP_V6) } else { format!("http://{}{path}", lab::VIP_V4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_its_backend_and_its_directory() {
        let text = nginx_configuration("/run/lab/backend-1", "backend-1");
        assert!(text.contains("add_header X-Backend backend-1 always;"));
        assert!(text.contains("location / { return 200 \"backend-1\\n\"; }"));
        assert!(text.contains("location = /download { root /run/lab/backend-1/files; limit_rate 1000k; }"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn urls_of_both_families() {
        assert_eq!(url(false, "/"), "http://203.0.113.10/");
        assert_eq!(url(true, "/x"), "http://[2001:db8::10]/x");
    }
}
