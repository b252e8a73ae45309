//! A lab of network namespaces: client, router, balancer and backends, cabled and addressed as in [`topology`].
//!
//! [`Lab::up`] takes the lock, sweeps what an earlier lab left behind (also one that was killed) and makes the nodes;
//! dropping it takes everything away, [`Lab::keep`] leaves it standing. Needs root. What runs on the nodes is the
//! caller's business: the lab records it and ends it.

pub mod cli;
mod kernel;
mod node;
mod process;
mod record;
mod sweep;
mod topology;
pub mod xdp;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

pub use self::{
    node::Node,
    process::Process,
    record::{Lock, Record, bpffs, directory},
    sweep::{Swept, namespaces},
    topology::{BALANCER, CLIENT, CLIENT_V4, CLIENT_V6, Config, ROUTER, VIP_V4, VIP_V6, backend_name},
};
use crate::run;

/// Held while something is made or started: the thread that takes the lab away on a signal waits for that, and lets nothing
/// follow.
static STARTING: Mutex<()> = Mutex::new(());
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether a signal is taking the lab away.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// A lab that is up, with its lock held.
#[derive(Debug)]
pub struct Lab {
    config: Config,
    nodes: Vec<Node>,
    record: Record,
    kept: bool,
    lock: Lock,
}

impl Lab {
    /// Makes it. What an earlier lab of the same prefix left is taken away first; see [`Lab::swept`] to say so before.
    pub fn up(config: &Config) -> Result<Self> {
        check(config)?;
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Lock::take(&directory(&config.prefix))?;
        sweep::sweep(config)?;
        let made_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let record = Record { config: config.clone(), made_at, kept: false, processes: Vec::new() };
        record.write(&directory(&config.prefix))?;
        match kernel::make(config) {
            Ok(nodes) => Ok(Self { config: config.clone(), nodes, record, kept: false, lock }),
            Err(error) => {
                if sweep::sweep(config).is_ok() {
                    lock.remove_directory();
                }
                Err(error.context("cannot make the lab; `cargo xtask doctor` says what this host lacks"))
            }
        }
    }

    /// Takes up one that was left standing.
    pub fn open(prefix: &str) -> Result<Self> {
        let directory = directory(prefix);
        let lock = Lock::take(&directory)?;
        let Some(record) = Record::read(&directory)? else {
            bail!("there is no lab; `cargo xtask lab up` makes one")
        };
        let config = record.config.clone();
        let nodes = nodes(&config)?;
        Ok(Self { config, nodes, record, kept: true, lock })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The lab's directory under `/run`, for configuration and logs; it goes with the lab.
    pub fn directory(&self) -> PathBuf {
        directory(&self.config.prefix)
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            format!("the lab has no node {name}; it has {}", names.join(", "))
        })
    }

    /// Starts a program that stays on a node: in a process group of its own (so that Ctrl-C at the terminal ends it
    /// with the lab, not before), its output in a log file, recorded so that a sweep ends it.
    pub fn start(&mut self, node: &str, name: &str, mut command: Command) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        let node = self.node(node)?;
        let path = self.log(&node.name, name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        node.place(&mut command);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command
            .spawn()
            .with_context(|| format!("node {}: cannot start `{}`", node.name, run::shown(&command)))?;
        if let Some(process) = Process::of(child.id().cast_signed(), &node.name, name) {
            self.record.processes.push(process);
            self.record.write(&self.directory())?;
        }
        Ok(child)
    }

    /// A directory in the lab's own for something of this name. Not made together with its parents: when they are gone,
    /// so is the lab.
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory().join(name);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot make {}", path.display()))
            }
            _ => Ok(path),
        }
    }

    /// Where the output of a program on a node goes.
    pub fn log(&self, node: &str, name: &str) -> PathBuf {
        self.directory().join(format!("{node}-{name}.log"))
    }

    /// Every process that runs on a node now, whichever process started it.
    pub fn processes(&self, node: &str) -> Result<Vec<Process>> {
        let node = self.node(node)?;
        Ok(process::in_namespaces(&[(node.inode()?, node.name.clone())]))
    }

    /// Lets it stand when this value goes; the next `up` or `lab down` takes it away.
    pub fn keep(mut self) -> Result<()> {
        self.kept = true;
        self.record.kept = true;
        self.record.write(&self.directory())
    }

    /// Takes it away and says what that was.
    pub fn down(mut self) -> Result<Swept> {
        self.kept = true; // not a second time when dropped
        let swept = sweep::sweep(&self.config)?;
        self.lock.remove_directory();
        Ok(swept)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        match sweep::sweep(&self.config) {
            Ok(_) => self.lock.remove_directory(),
            Err(error) => {
                eprintln!("the lab is not wholly gone: {error:#}; `cargo xtask lab down` tries again");
            }
        }
    }
}

/// Takes away whatever there is of a lab, standing or left behind; refused while another process works on it.
pub fn sweep(config: &Config) -> Result<Swept> {
    let directory = directory(&config.prefix);
    let nothing = !directory.exists() && namespaces(&config.prefix)?.is_empty();
    if nothing {
        return Ok(Swept::default());
    }
    let lock = Lock::take(&directory)?;
    let swept = sweep::sweep(config)?;
    lock.remove_directory();
    Ok(swept)
}

/// The same for a process that has the lock, as its last act: from then on it starts nothing in the lab any more.
pub fn sweep_held(config: &Config) -> Result<Swept> {
    ENDING.store(true, Ordering::Relaxed);
    std::mem::forget(STARTING.lock().unwrap_or_else(PoisonError::into_inner));
    let swept = sweep::sweep(config)?;
    // Another thread may just be writing a file into it.
    for _ in 0..5 {
        if std::fs::remove_dir_all(directory(&config.prefix)).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(swept)
}

/// The nodes of a lab that is up.
pub fn nodes(config: &Config) -> Result<Vec<Node>> {
    let open =
        |name: &String| Node::open(name, &config.namespace(name), &record::bpffs(&config.prefix, name));
    config.nodes().iter().map(open).collect()
}

fn check(config: &Config) -> Result<()> {
    if !(1..=9).contains(&config.backends) {
        bail!("a lab has 1 to 9 backends, not {}", config.backends);
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if config.prefix.is_empty() || !config.prefix.chars().all(plain) {
        bail!("a lab's prefix is made of lower-case letters, digits and dashes, not {:?}", config.prefix);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: it makes network namespaces");
    }
    for program in ["ip", "ethtool"] {
        if run::find(program).is_none() {
            bail!("a lab needs `{program}`; `cargo xtask setup` installs it");
        }
    }
    Ok(())
}
