//! Starting, the loop itself, and stopping.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use log::Level;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use super::{
    Agent, Host, TICK, clock,
    config_store::ConfigStore,
    egress::Port,
    flow_sweep::Walk,
    management::{Management, Scrapes},
    manager::{self, Manager},
    next_hops,
    pins::NOT_LASTING,
    reply::AfterRequest,
    waiting,
};
use crate::{
    api::{
        kind::Kind,
        request::{Envelope, Request},
        since::milliseconds_since_1970,
        view::ApiError,
    },
    bpf::{bpffs::Place, capabilities, pin::PinDirectory},
    config::{spec::Spec, words::plural},
    control::server,
    health::scheduler::{Scheduler, Update},
    instance::{lock::Lock, paths::Paths},
    kernel,
    net::{self, NetEvent, Seeds},
    tables::Tables,
    upgrade::open,
};

/// Requests that may wait for the loop; further ones wait at the socket.
const REQUESTS: usize = 64;

/// How long the first start waits for next hops before it goes on without unresolved ones.
const FIRST_HOPS: Duration = Duration::from_secs(3);

/// The options of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    pub instance: String,
    /// `None` = the instance's own.
    pub socket: Option<PathBuf>,
    /// Level of the program's own log; `None` = the verifier removes it.
    pub bpf_log: Option<Level>,
    /// Our program replaces another program of ours on an interface.
    pub force: bool,
    /// A start that cannot attach to every interface fails.
    pub require_attach: bool,
}

/// The configuration was refused; nothing was changed. Every line is one reason.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Refused(pub Vec<String>);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        let mut lines = vec![error.message];
        lines.extend(error.details);
        Self(lines)
    }
}

/// Everything that brings input to the loop.
struct Inputs {
    requests: mpsc::Receiver<Envelope>,
    verdicts: mpsc::Receiver<Update>,
    net: mpsc::Receiver<NetEvent>,
    handle: net::Handle,
    /// The interfaces that `net` watches in addition to the addresses.
    interfaces: Vec<String>,
    walk: Walk,
}

impl Inputs {
    /// Watches the interfaces and addresses of a new configuration.
    fn follow(&mut self, spec: &Spec, addresses: Vec<IpAddr>, seeds: impl FnOnce() -> Seeds) {
        let interfaces = &spec.node.interfaces;
        if self.interfaces != *interfaces {
            self.interfaces.clone_from(interfaces);
            (self.handle, self.net) = net::Watcher::spawn(self.interfaces.clone(), seeds());
        }
        self.handle.track(addresses);
        self.handle.track_services(spec.services.iter().map(|service| service.listen.address).collect());
    }
}

/// Runs the agent until a signal or a detach ends it.
///
/// # Errors
/// Why the agent could not start ([`Refused`] for the configuration); what runs in the kernel stays as it was.
pub async fn run(options: Options) -> Result<()> {
    let store = ConfigStore::open(&options.config, &options.instance).map_err(Refused)?;
    let spec = store.spec();
    capabilities::check()?;
    let (probes, spare) = share_out(raise_open_files());
    // The agent tries everything that can fail before it touches the data path: a start that fails leaves no program
    // without an agent, and takes no program from an agent before it.
    let place = Place::find()?;
    let paths = Paths::new(&options.instance, &place.pins());
    let lock = Lock::take(&paths.lock, &options.instance)?;
    let socket_path = options.socket.clone().unwrap_or(paths.socket);
    // After a boot, forwarding is more important than to be reachable for every client: what the host lacks for that
    // stops the start only with a file that was never in force.
    let lenient = store.was_in_force();
    // A client that connects from here on waits for its answer until the agent works.
    let group = spec.node.socket_group.as_deref();
    let (mut management, sockets) = Management::open(lock, &socket_path, group, lenient)?;
    let scrapes = match spec.node.metrics {
        Some(address) => Some(Scrapes::open(address, lenient).await?),
        None => None,
    };
    if let Some(scrapes) = &scrapes {
        management.watch_scrapes(scrapes.watch());
    }
    place.mount()?;
    let pins = PinDirectory::new(&paths.pins);
    pins.create()?;
    let pins_lock = pins.lock()?;
    let data_path = open::Options { pins: paths.pins.clone(), limits: spec.limits, bpf_log: options.bpf_log };
    let (mut kernel, opened) = open::open(&data_path)?;
    let uncounted = kernel.count_losses().err().map(|error| error.to_string());
    if let Some(why) = &uncounted {
        log::warn!("what is lost behind the program is not counted: {why}");
    }
    if options.force {
        kernel.take_over(spec.node.interfaces.iter().cloned());
    }
    for warning in &opened.warnings {
        log::warn!("{warning}");
    }
    if !place.lasting {
        log::warn!("{NOT_LASTING}");
    }
    let (scheduler, verdicts) = Scheduler::with_spare(spec.node.health_concurrency.min(probes), spare)
        .context("starting the health checks")?;
    let mut agent = Agent::new(options.instance.clone(), store, kernel, opened.adopted, scheduler)?;
    let (handle, net) = net::Watcher::spawn(spec.node.interfaces.clone(), agent.seeds());
    agent.not_lasting = !place.lasting;
    agent.management = management;
    let (sender, requests) = mpsc::channel(REQUESTS);
    agent.uncounted = uncounted;
    let interfaces = spec.node.interfaces.clone();
    let mut inputs = Inputs { requests, verdicts, net, handle, interfaces, walk: Walk::None };

    let mut begun = agent.first_apply(&mut inputs).await;
    if begun.is_ok() && options.require_attach {
        begun = agent.must_be_attached();
    }
    if let Err(error) = begun {
        drop(agent);
        // What was forwarded before goes on; what this start has pinned does not stay behind.
        if !opened.adopted
            && let Err(why) = kernel::detach(&paths.pins)
        {
            log::warn!("what this start has pinned cannot be removed: {why}");
        }
        return Err(error);
    }

    // From here on, both packets and requests are served.
    let (stop, stopped) = watch::channel(false);
    let mut servers = vec![tokio::spawn(server::serve(sockets, sender.clone(), stopped.clone()))];
    if let Some(scrapes) = scrapes {
        servers.push(tokio::spawn(scrapes.serve(sender.clone(), stopped)));
    }
    drop(sender);
    log::info!("instance {} serves; control socket {}", options.instance, socket_path.display());

    let mut manager = Manager::of_environment(agent.scheduler.pulse(), clock::milliseconds());
    let then = agent.serve(&mut inputs, &mut manager).await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    agent.note_end(then);
    let _ = stop.send(true);
    let ended = async {
        for server in servers {
            // Requests under way get their answer; no client can delay the end of the agent for longer.
            let _ = timeout(Duration::from_secs(2), server).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = agent.answer_followers(&mut inputs.requests) => {}
    }
    let lock = agent.management.lock();
    if then == AfterRequest::Detach {
        drop(agent);
        kernel::detach(&paths.pins)?;
        log::info!("detached: no XDP program or pinned map remains");
    } else if !place.lasting {
        log::warn!(
            "stopped; the data path forwards only as long as another process is in this mount namespace"
        );
    } else {
        log::info!("stopped; the data path goes on forwarding (`lbd --detach` takes it off)");
    }
    drop((pins_lock, lock));
    Ok(())
}

/// Probes, clients and maps take a descriptor each: the limit is as high as the system allows, not as high as a shell
/// sets it. Returns that limit.
fn raise_open_files() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((OWN_FILES, OWN_FILES));
    // A limit above the one that the manager set needs a capability that containers do not have; then the agent uses the
    // limit that it has.
    for limit in [hard.max(MANY_FILES), hard] {
        match setrlimit(Resource::RLIMIT_NOFILE, limit, limit.max(hard)) {
            Ok(()) => return limit,
            Err(error) if limit == hard => log::warn!("the limit of open files stays {soft}: {error}"),
            Err(_) => {}
        }
    }
    soft
}

/// Descriptors with which the agent can check every backend that fits into the default limits at once.
const MANY_FILES: u64 = 131_072;
/// Descriptors that are not for probes: maps, pins, clients, files.
const OWN_FILES: u64 = 1_024;

/// How many probes may be in flight at once, and how many further attempts, if the process may open `files` files.
fn share_out(files: u64) -> (usize, usize) {
    let free = files.saturating_sub(OWN_FILES).max(files / 2);
    let spare = (free / 4).min(4_096);
    (usize::try_from(free - spare).unwrap_or(usize::MAX).max(1), usize::try_from(spare).unwrap_or(0))
}

/// The time until `at`, in milliseconds of the monotonic clock.
fn in_time(at: u64) -> Duration {
    Duration::from_millis(at.saturating_sub(clock::milliseconds()))
}

impl<T: Tables + Host> Agent<T> {
    /// Learns the next hops, fills the tables, then attaches.
    async fn first_apply(&mut self, inputs: &mut Inputs) -> Result<()> {
        let spec = self.store.spec();
        inputs.follow(&spec, self.addresses(), || self.seeds());
        let deadline = Instant::now() + FIRST_HOPS;
        let all_known =
            |agent: &Self| agent.addresses().iter().all(|a| matches!(agent.hops.get(a), Some(Ok(_))));
        while !all_known(self) {
            match tokio::time::timeout_at(deadline, inputs.net.recv()).await {
                Ok(Some(event)) => {
                    self.take_net_quietly(event);
                }
                Ok(None) => anyhow::bail!("the netlink watcher ended"),
                Err(_) => break,
            }
        }
        // Where an agent before us has attached the program, hops over which the program cannot send are out of the
        // rings from the first write on.
        self.look_from(self.running_ports(&spec.node.interfaces));
        let wanted = self.store.desired();
        let proposal = self.plan_for(&wanted).map_err(Refused::from)?;
        for warning in waiting::warnings(proposal.waiting.clone()) {
            log::warn!("{warning}");
        }
        let changed = self.apply_plan(proposal)?;
        log::info!(
            "{}, {} written{}",
            plural(spec.services.len() as u64, "service", "services"),
            plural(changed.writes, "entry", "entries"),
            if self.adopted { ", running data path adopted" } else { "" }
        );
        self.applied_at = milliseconds_since_1970() / 1000;
        self.journal.note(Kind::Started, self.instance.clone(), format!("pid {}", std::process::id()));
        if let Some(why) = self.store.fallback().map(str::to_owned) {
            self.journal.note(Kind::ConfigFallback, self.store.file(), why.clone());
            self.last_error = Some(why);
        }
        self.store.keep();
        if let Some(message) = self.store.rolled_back_at_start() {
            self.journal.note(Kind::ConfigRolledBack, self.store.file(), message);
        }
        self.set_targets();
        self.interfaces.set(
            &spec.node.interfaces,
            spec.node.mode,
            self.reconciler.tables_mut(),
            &mut self.journal,
        );
        self.look_around();
        self.look_at_management();
        if self.look_at_egress() {
            self.reconcile();
        }
        Ok(())
    }

    /// An error with everything that is missing, if not every interface is attached.
    fn must_be_attached(&self) -> Result<()> {
        anyhow::ensure!(
            self.interfaces.are_attached(),
            "not attached (--require-attach): {}",
            self.interfaces.troubles().join("; ")
        );
        Ok(())
    }

    /// Where and how the program runs before we have attached ours.
    fn running_ports(&self, interfaces: &[String]) -> Vec<Port> {
        let port = |name: &String| {
            let mode = self.reconciler.tables().running_mode(name)?;
            Some(Port { name: name.clone(), native: mode == "native" })
        };
        interfaces.iter().filter_map(port).collect()
    }

    /// The loop.
    async fn serve(&mut self, inputs: &mut Inputs, manager: &mut Manager) -> Result<AfterRequest> {
        let mut reload = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut updates = Vec::new();
        loop {
            self.report_to(manager);
            // Here, not in a branch below: verdicts that keep coming would delay it.
            if self.journal.due().is_some_and(|due| due <= clock::milliseconds()) {
                self.summarise();
            }
            let manager_due = manager.due().map(in_time);
            let due = self.due().map(in_time);
            let reply_deadline = self.sweeper.reply_deadline().map(in_time);
            let sweep_in = in_time(self.sweeper.next_at());
            let summary = self.journal.due().map(in_time);
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(AfterRequest::Continue),
                _ = interrupt.recv() => return Ok(AfterRequest::Continue),
                _ = reload.recv() => {
                    manager::say(&manager.reloading());
                    if let Err(error) = self.apply(None, None) {
                        self.refuse(Kind::ConfigRefused, &error);
                    }
                    manager::say(&manager.reloaded(clock::milliseconds()));
                    inputs.follow(&self.store.spec(), self.addresses(), || self.seeds());
                }
                // The head of the loop reports what is due.
                () = sleep(manager_due.unwrap_or_default()), if manager_due.is_some() => {}
                taken = inputs.verdicts.recv_many(&mut updates, usize::MAX) => {
                    anyhow::ensure!(taken > 0, "the health checks ended");
                    self.on_health(std::mem::take(&mut updates));
                }
                event = inputs.net.recv() => {
                    self.on_net_event(event.context("the netlink watcher ended")?);
                }
                Some(envelope) = inputs.requests.recv() => {
                    let Some(Envelope { request, by, reply }) = self.wait_for_counts(envelope) else { continue };
                    let begun = clock::milliseconds();
                    if let Request::Plan { text, name } = &request {
                        self.answer_plan(text, name, reply);
                        continue;
                    }
                    self.journal.on_behalf_of(by);
                    let reloads = matches!(request, Request::ConfigApply { .. });
                    if reloads {
                        manager::say(&manager.reloading());
                    }
                    let (answer, then) = self.answer(&request);
                    if reloads {
                        manager::say(&manager.reloaded(clock::milliseconds()));
                    }
                    self.note_outcome(&request, &answer);
                    log::debug!("{request:?} took {} ms", clock::milliseconds() - begun);
                    self.journal.on_behalf_of(None);
                    // The client that asked may be gone.
                    let _ = reply.send(answer);
                    if then == AfterRequest::Detach {
                        return Ok(then);
                    }
                    inputs.follow(&self.store.spec(), self.addresses(), || self.seeds());
                }
                () = sleep(due.unwrap_or_default()), if due.is_some() => {
                    self.do_what_is_due();
                    inputs.follow(&self.store.spec(), self.addresses(), || self.seeds());
                }
                () = sleep(reply_deadline.unwrap_or_default()), if reply_deadline.is_some() => {
                    self.answer_waiting(clock::milliseconds());
                }
                () = sleep(summary.unwrap_or_default()), if summary.is_some() => {}
                _ = ticks.tick() => self.tick(),
                () = sleep(sweep_in), if !self.sweeper.is_under_way() => {
                    self.begin_sweep(&mut inputs.walk);
                }
                // Last: the sweep waits for everything else.
                can = inputs.walk.can_go_on(), if self.sweeper.is_under_way() => {
                    self.go_on_sweeping(can, &mut inputs.walk);
                }
            }
        }
    }

    fn note_end(&mut self, then: AfterRequest) {
        let message = match then {
            AfterRequest::Continue if self.not_lasting => {
                "the data path goes with the last process of this mount namespace"
            }
            AfterRequest::Continue => "the data path goes on forwarding",
            AfterRequest::Detach => "the program is taken off every interface",
        };
        self.journal.note(Kind::Stopping, self.instance.clone(), message);
    }

    /// Clients that follow the events get the last ones; every other request comes too late.
    async fn answer_followers(&mut self, requests: &mut mpsc::Receiver<Envelope>) {
        while let Some(Envelope { mut request, reply, by: _ }) = requests.recv().await {
            if request.filter_mut().is_some() {
                let _ = reply.send(self.answer(&request).0);
            }
        }
    }

    /// Takes in what the kernel says of links and next hops.
    fn on_net_event(&mut self, event: NetEvent) {
        let hops = matches!(event, NetEvent::Hops(_));
        let follow = self.take_net_quietly(event);
        // A link that came, went or was attached again may change what can be sent.
        if self.look_at_egress() || hops || follow || self.apply_pending {
            self.reconcile();
        }
        if !hops {
            self.look_around();
        }
    }

    /// Takes the event in without reconciling. Returns whether the tables have to follow, apart from next hops.
    fn take_net_quietly(&mut self, event: NetEvent) -> bool {
        let follow = self.surroundings.note(&event);
        match event {
            NetEvent::Addresses(_) | NetEvent::Forwarded(_) => {}
            NetEvent::Hops(found) => {
                for (address, what) in next_hops::changes(&self.found.hops, &found.hops) {
                    self.journal.note(Kind::NextHopChanged, format!("next hop of {address}"), what);
                }
                self.found = found;
                self.judge();
            }
            NetEvent::Link { name, index, .. } => {
                let mode = self.store.spec().node.mode;
                let host = self.reconciler.tables_mut();
                self.interfaces.seen(&name, index, mode, host, &mut self.journal);
            }
        }
        follow
    }
}
