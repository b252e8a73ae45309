//! A host of a test's own: network and mount namespaces of the test's thread, in which `/run` and the bpf file system
//! are new. The namespaces end with the thread, so nothing stays on the machine, also when the test is killed.

use std::{
    env,
    fs::{self, Permissions},
    io::Write as _,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_tests::privilege;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
};
use xtask::wait::{self, Look};

use xtask::lab::xdp::PassProgram;

use crate::agent::{Agent, Said};

/// The name of the instance: pins, socket and overlay carry it.
pub(crate) const INSTANCE: &str = "t-control";

/// Two services, three backends behind a gateway whose neighbour entry exists, and no health checks.
pub(crate) const CONFIG: &str = r#"health = false

[node]
interface = "lb0"
seed = "control tests"
state_directory = "/run/t/state"

[limits]
services = 8
backends = 64
slots = 4096
flows = 1024

[[service]]
name = "web"
listen = "tcp/203.0.113.10:80"
max_backends = 10
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
[[service.backend]]
name = "web-2"
address = "10.0.0.12"

[[service]]
name = "dns"
listen = "udp/[2001:db8::10]:53"
max_backends = 2
[[service.backend]]
name = "dns-1"
address = "fd00:8::11"
"#;

/// The interface, its other end, and a gateway there with permanent neighbour entries: the kernel need not ask for its address.
const NETWORK: &str = "\
link set lo up
link add lb0 type veth peer name lb0p
link set lb0 up
link set lb0p up
address add 10.9.0.1/24 dev lb0
address add fd00:9::1/64 dev lb0 nodad
neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 nud permanent dev lb0
neighbour add fd00:9::2 lladdr 02:00:00:00:00:02 nud permanent dev lb0
route add default via 10.9.0.2
-6 route add default via fd00:9::2
";

/// The host of the test that runs on the calling thread.
pub(crate) struct World {
    _private: (),
}

/// Runs a test on a host of its own. Prints that the test is skipped where the process may not make such a host.
pub(crate) fn isolated(name: &str, test: impl FnOnce(&World) -> Result<()> + Send + 'static) -> Result<()> {
    if !privilege::may_load_programs() || !privilege::may_make_namespaces() {
        privilege::skip(name, "needs root (namespaces, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)");
        return Ok(());
    }
    let thread = thread::Builder::new().name(name.to_owned());
    let handle = thread.spawn(move || World::make().and_then(|world| test(&world)))?;
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl World {
    fn make() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("namespaces of its own")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("a new /run")?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)
            .context("a new bpf file system")?;
        let world = Self { _private: () };
        fs::create_dir_all(world.path("state"))?;
        world.ip(NETWORK)?;
        // A veth takes frames that XDP sends out of its other end only while it runs a program itself.
        PassProgram::here("lb0p")?;
        Ok(world)
    }

    /// A file or directory of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new("/run/t").join(name)
    }

    /// Writes a file of the test's own.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, contents)?;
        Ok(path)
    }

    /// A copy of a file that every user can reach, wherever the checkout is and whatever root's umask is.
    pub(crate) fn for_everybody(&self, name: &str, file: &Path, mode: u32) -> Result<PathBuf> {
        let directory = self.path("everybody");
        fs::create_dir_all(&directory)?;
        for open in [Path::new("/run"), Path::new("/run/t"), &directory] {
            fs::set_permissions(open, Permissions::from_mode(0o755))?;
        }
        let copy = directory.join(name);
        fs::copy(file, &copy).with_context(|| format!("copying {}", file.display()))?;
        fs::set_permissions(&copy, Permissions::from_mode(mode))?;
        Ok(copy)
    }

    /// The directory of the instance's pins.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/lb").join(INSTANCE)
    }

    /// The path of the instance's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        format!("/run/lb/{INSTANCE}.sock").into()
    }

    /// Runs each line of `commands` with `ip`.
    pub(crate) fn ip(&self, commands: &str) -> Result<()> {
        let (v6, rest): (Vec<_>, Vec<_>) = commands.lines().partition(|line| line.starts_with("-6 "));
        for (family, lines) in [("-4", rest), ("-6", v6)] {
            let mut command = Command::new("ip");
            // Without a family `ip` takes the family from the address, except for routes.
            if family == "-6" {
                command.arg(family);
            }
            let mut child =
                command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("running ip")?;
            let mut input = child.stdin.take().ok_or_else(|| anyhow!("no pipe to ip"))?;
            for line in lines {
                writeln!(input, "{}", line.trim_start_matches("-6 "))?;
            }
            drop(input);
            ensure!(child.wait()?.success(), "ip refused one of:\n{commands}");
        }
        Ok(())
    }

    /// Runs `lbd` with these arguments to its end.
    pub(crate) fn lbd(&self, arguments: &[&str]) -> Result<Said> {
        Said::of(self.command("lbd")?.args(arguments))
    }

    /// A command as on a host whose first process has these mounts. Our mounts are a namespace of their own, in which
    /// `lbd decap` leaves nothing that would go away with the namespace.
    pub(crate) fn booting(&self, program: &[&str], arguments: &[&str]) -> Result<Command> {
        let mut command = self.command("unshare")?;
        // The shell is that first process; the program runs below it.
        let script = "\"$@\"; exit $?";
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", script, "sh"]);
        command.args(program).args(arguments);
        Ok(command)
    }

    /// The same, run to its end.
    pub(crate) fn booted(&self, program: &[&str], arguments: &[&str]) -> Result<Said> {
        Said::of(&mut self.booting(program, arguments)?)
    }

    /// Runs `lbctl` for the instance to its end.
    pub(crate) fn lbctl(&self, arguments: &[&str]) -> Result<Said> {
        Said::of(self.command("lbctl")?.args(["--instance", INSTANCE]).args(arguments))
    }

    /// Starts the agent with the file `lb.toml` as it is, and expects the start to fail.
    pub(crate) fn refused_start(&self) -> Result<Said> {
        let config = self.path("lb.toml");
        let said = Said::of(self.command("timeout")?.arg("120").arg(binary("lbd")?).args([
            "--instance",
            INSTANCE,
            "--config",
            &config.display().to_string(),
        ]))?;
        ensure!(said.code != 124, "the agent started, although it should not:\n{}", said.err);
        Ok(said)
    }

    /// Starts the agent with this configuration and waits until it serves.
    pub(crate) fn start(&self, config: &str) -> Result<Agent<'_>> {
        self.write("lb.toml", config)?;
        self.restart()
    }

    /// The same with further arguments.
    pub(crate) fn start_with(&self, config: &str, arguments: &[&str]) -> Result<Agent<'_>> {
        self.write("lb.toml", config)?;
        Agent::start(self, arguments)
    }

    /// Starts the agent with `lb.toml` as it is and waits until it serves.
    pub(crate) fn restart(&self) -> Result<Agent<'_>> {
        Agent::start(self, &[])
    }

    /// A command that dies with the test; `lbd` and `lbctl` are the binaries of this build.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let path = match program {
            "lbd" | "lbctl" | "lbd-fault" => binary(program)?,
            other => other.into(),
        };
        let mut command = Command::new(path);
        command.stdin(Stdio::null());
        for variable in ["LB_CONFIG", "LB_INSTANCE", "LB_SOCKET", "LB_LOG", "LB_FAULT", "NOTIFY_SOCKET"] {
            command.env_remove(variable);
        }
        // SAFETY: prctl is a bare system call, which is fine between fork and exec.
        unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        Ok(command)
    }
}

/// A binary of this build; cargo puts it next to the directory of the test.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let test = env::current_exe()?;
    let directory = test.ancestors().nth(2).context("the test is in no target directory")?;
    let path = directory.join(name);
    ensure!(path.exists(), "{} is missing: run `cargo build -p lb-userspace` first", path.display());
    Ok(path)
}

/// Looks again and again until the look succeeds.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    wait::until(what, wait::limit(), look)
        .with_context(|| format!("the agent's last words:\n{}\nwhat failed", last_words()))
}

/// Asks again and again until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until(what, || Ok(ask()?.ok_or_else(|| "no answer".to_owned())))
}

/// The end of the log of the agent on this thread's host.
fn last_words() -> String {
    let log = fs::read_to_string("/run/t/lbd.log").unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The `n`th address of many backends.
pub(crate) fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + n)
}

/// `[[service.backend]]` tables for many backends.
pub(crate) fn backends(n: u32) -> String {
    (0..n).map(|n| format!("[[service.backend]]\naddress = \"{}\"\n", address(n))).collect()
}
