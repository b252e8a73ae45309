//! Which interfaces can send: each kind, from the same interface and from another one, in native and in generic mode.
//! Each cell forwards 10 MB each way, or the agent names the interface and what helps; no packet is lost uncounted.
//! `cargo xtask test --tier namespace --filter matrix` prints the table. Devices whose modules many kernels lack are
//! tried on other kernels as well, see `tests/kernels/devices.rs`.

mod device;
mod lost;
mod scene;
mod tap;
mod traffic;

use std::{fmt, fs, process::Command, sync::mpsc};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{privilege, test_name};
use serde_json::Value;

use self::device::Device;
use crate::{
    agent::{Agent, Said},
    world::{World, isolated, wait_for},
};

/// The expected outcome of a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Forwards,
    /// The agent refuses it, with this text in the reason.
    Refused(&'static str),
    /// There is no such cell: the driver takes no program.
    FallsBack,
    /// Not tried: it does not differ from the row above.
    AsAbove,
    /// This kernel does not say what the interface can do: all packets are lost, and counted.
    Loses,
}

use Outcome::{AsAbove, FallsBack, Forwards, Loses, Refused};

/// For each device: same interface in native and generic mode, another interface in native and generic mode.
const TABLE: [(Device, [Outcome; 4]); 9] = [
    (
        Device::Veth,
        [
            Refused("only while it has an XDP program"),
            Forwards,
            Refused("only while it has GRO or an XDP program"),
            Forwards,
        ],
    ),
    (Device::VethWithGro, [Refused("only while it has an XDP program"), Forwards, Forwards, Forwards]),
    (Device::VethWithProgram, [Forwards, Forwards, Forwards, Forwards]),
    (Device::Bridge, [FallsBack, Forwards, Refused("attach to br0 instead of in0"), Forwards]),
    (Device::Macvlan, [FallsBack, Forwards, Refused("attach to mv0 instead of in0"), Forwards]),
    (Device::Tap, [Forwards, Forwards, Forwards, Forwards]),
    (Device::Vlan, [FallsBack, Forwards, Refused("attach to vlan7 instead of in0"), Forwards]),
    (Device::Bond, [Forwards, Forwards, Forwards, Forwards]),
    (
        Device::BondWithout,
        [
            Refused("since not all of its ports do: set node.mode"),
            AsAbove,
            Refused("since not all of its ports do: set node.mode"),
            AsAbove,
        ],
    ),
];

/// The expected outcome on a kernel of that version: kernels before 6.3 do not say what a device can do.
fn on_kernel(version: (u32, u32), device: Device, newest: Outcome) -> Outcome {
    match newest {
        Refused(_) if device == Device::BondWithout && version < (6, 3) => Loses,
        _ => newest,
    }
}

/// The first two numbers of the running kernel's version.
fn kernel() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.trim().parse().ok());
    let version = numbers.next().zip(numbers.next());
    version.with_context(|| format!("no version in {release:?}"))
}

const CELLS: [(bool, &str); 4] = [(false, "native"), (false, "generic"), (true, "native"), (true, "generic")];

fn config(device: Device, apart: bool, mode: &str) -> String {
    let interface = if apart { "in0" } else { device.interface() };
    format!(
        "health = false\n[node]\ninterface = \"{interface}\"\nmode = \"{mode}\"\nseed = \"matrix\"\n\
         state_directory = \"/run/t/state\"\n[limits]\nservices = 8\nbackends = 64\nslots = 4096\nflows = 1024\n\
         [[service]]\nname = \"web\"\nlisten = \"tcp/{}:{}\"\nmax_backends = 10\n\
         [[service.backend]]\nname = \"one\"\naddress = \"{}\"\n",
        scene::VIP,
        scene::PORT,
        scene::BACKEND
    )
}

fn backend(agent: &Agent<'_>) -> Result<Value> {
    agent.json(&["backend", "show", "web/one"])
}

/// Packets that the program reports as forwarded, and how many of them were counted as lost behind it.
fn sent(agent: &Agent<'_>) -> Result<(u64, u64)> {
    let stats = agent.json(&["stats", "--all"])?;
    let sum = |list: &Value, of: &dyn Fn(&Value) -> Option<u64>| -> u64 {
        list.as_array().into_iter().flatten().filter_map(of).sum()
    };
    let forwarded = sum(&stats["counters"], &|counter| {
        (counter["kind"] == "forwarded").then(|| counter["value"].as_u64()).flatten()
    });
    Ok((forwarded, sum(&stats["egress_dropped"], &|lost| lost["frames"].as_u64())))
}

/// What happened to the packets that the program has forwarded.
#[derive(Debug, Default)]
struct Account {
    forwarded: u64,
    arrived: u64,
    /// Counted as lost behind the program (`egress_dropped`).
    lost: u64,
    /// An upper bound; see [`scene::dropped_by_devices`].
    dropped_by_devices: u64,
}

impl Account {
    /// `dropped`: the packets that devices had dropped before.
    fn take(world: &World, agent: &Agent<'_>, dropped: u64) -> Result<Self> {
        let (forwarded, lost) = sent(agent)?;
        let (arrived, dropped_by_devices) = (scene::arrived(world)?, scene::dropped_by_devices()? - dropped);
        Ok(Self { forwarded, arrived, lost, dropped_by_devices })
    }

    /// Every packet has arrived or is counted: as lost by us, or as dropped by the device that had taken it.
    fn balances(&self) -> bool {
        let Self { forwarded, arrived, lost, dropped_by_devices } = *self;
        (lost..=lost + dropped_by_devices).contains(&forwarded.saturating_sub(arrived))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { forwarded, arrived, lost, dropped_by_devices } = self;
        write!(
            f,
            "{forwarded} packets forwarded, {arrived} arrived, {lost} counted as lost, at most {dropped_by_devices} dropped by devices"
        )
    }
}

/// Makes one cell and returns its outcome in a few words.
fn cell(world: &World, device: Device, apart: bool, mode: &str, wanted: Outcome) -> Result<String> {
    scene::make(world, device, apart)?;
    let mut config = config(device, apart, mode);
    if wanted == Loses {
        config = config.replace("tcp/", "udp/");
    }
    let agent = world.start(&config)?;
    let status = agent.json(&["status"])?;
    let attached = &status["interfaces"][0];
    match wanted {
        AsAbove => anyhow::bail!("this cell is not tried"),
        FallsBack => {
            ensure!(attached["attached"] == "detached", "{attached}");
            let note = attached["note"].as_str().unwrap_or_default();
            ensure!(note.contains("native mode failed"), "{attached}");
            Ok("not attached: the device takes no program".to_owned())
        }
        Loses => {
            ensure!(attached["attached"] == mode, "{attached}");
            lost::wait_for_state(&agent, "up")?;
            scene::datagrams(lost::DATAGRAMS)?;
            let lost = lost::balance(world, &agent)?;
            let (forwarded, _) = sent(&agent)?;
            ensure!(forwarded > 0 && lost == forwarded, "{forwarded} packets forwarded, {lost} lost");
            Ok(format!(
                "this kernel does not say that it cannot send; {lost} of {forwarded} packets lost and counted"
            ))
        }
        Refused(words) => {
            ensure!(attached["attached"] == mode, "{attached}");
            let reason = wait_for("the backend is unresolved", || {
                let backend = backend(&agent)?;
                Ok((backend["state"] == "unresolved").then(|| backend["reason"].clone()))
            })?;
            let reason = reason.as_str().unwrap_or_default();
            ensure!(reason.contains(words) && reason.contains(device.interface()), "{reason}");
            let shown = agent.lbctl(&["status"])?.done()?;
            ensure!(shown.contains(words), "{shown}");
            Ok(format!("refused: {}", reason.trim_start_matches("no next hop: ")))
        }
        Forwards => {
            ensure!(attached["attached"] == mode, "{attached}");
            wait_for("the backend is up", || Ok((backend(&agent)?["state"] == "up").then_some(())))
                .with_context(|| backend(&agent).map(|backend| backend.to_string()).unwrap_or_default())?;
            let dropped = scene::dropped_by_devices()?;
            let done = scene::transfer();
            let mut account = Account::default();
            let balanced = wait_for("what was sent has arrived or is counted as lost", || {
                account = Account::take(world, &agent, dropped)?;
                Ok(account.balances().then_some(()))
            });
            let seen = account.to_string();
            let stats = || agent.lbctl(&["stats"]).and_then(Said::done).unwrap_or_default();
            done.with_context(|| format!("{seen}\n{}\n{}", agent.log(), stats()))?;
            balanced.with_context(|| seen.clone())?;
            let Account { forwarded, arrived, lost, .. } = account;
            let device = match forwarded - arrived - lost {
                0 => String::new(),
                frames => format!(", {frames} dropped by a device's full queue"),
            };
            Ok(format!("10 MB each way ({forwarded} packets, {lost} lost{device})"))
        }
    }
}

/// Whether the kernel knows the kind of device that a command makes.
fn has_kind(command: &str) -> Result<bool> {
    let said = Said::of(Command::new("sh").env("LC_ALL", "C").args(["-ec", command]))?;
    let unknown = ["Unknown device type", "Operation not supported"];
    if said.code != 0 && unknown.iter().any(|words| said.err.contains(words)) {
        return Ok(false);
    }
    said.done().map(|_| true)
}

/// Tries all cells of a device, each on a host of its own.
fn row(name: &'static str, device: Device) -> Result<()> {
    let Some((_, outcomes)) = TABLE.into_iter().find(|(known, _)| *known == device) else {
        anyhow::bail!("{device:?} is not in the table");
    };
    if let Some((command, module)) = device.optional() {
        let (sender, there) = mpsc::channel();
        isolated(name, move |_| Ok(sender.send(has_kind(command)?)?))?;
        match there.recv() {
            Ok(true) => {}
            Ok(false) => {
                privilege::skip(name, &format!("this kernel lacks the module {module}"));
                return Ok(());
            }
            // The test was skipped, and has printed that.
            Err(_) => return Ok(()),
        }
    }
    let version = kernel()?;
    for ((apart, mode), wanted) in CELLS.into_iter().zip(outcomes) {
        if wanted == AsAbove {
            continue;
        }
        let wanted = on_kernel(version, device, wanted);
        isolated(name, move |world| {
            let place = if apart { "another interface" } else { "same interface" };
            let what = format!("{}, {place}, {mode}", device.name());
            let outcome = cell(world, device, apart, mode, wanted).with_context(|| what.clone())?;
            println!("counted {what}: {outcome}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_veth_alone_sends_in_generic_mode_only() -> Result<()> {
    row(test_name!(), Device::Veth)
}

#[test]
fn a_veth_with_far_gro_sends_what_comes_in_elsewhere() -> Result<()> {
    row(test_name!(), Device::VethWithGro)
}

#[test]
fn a_veth_with_a_far_program_sends_everything() -> Result<()> {
    row(test_name!(), Device::VethWithProgram)
}

#[test]
fn a_bridge_sends_in_generic_mode_only() -> Result<()> {
    row(test_name!(), Device::Bridge)
}

#[test]
fn a_macvlan_sends_in_generic_mode_only() -> Result<()> {
    row(test_name!(), Device::Macvlan)
}

#[test]
fn a_tap_device_sends_everything() -> Result<()> {
    row(test_name!(), Device::Tap)
}

#[test]
fn a_vlan_device_sends_in_generic_mode_only() -> Result<()> {
    row(test_name!(), Device::Vlan)
}

#[test]
fn a_bond_sends_everything_where_its_ports_do() -> Result<()> {
    row(test_name!(), Device::Bond)
}

#[test]
fn a_bond_of_silent_ports_sends_nothing_natively() -> Result<()> {
    row(test_name!(), Device::BondWithout)
}

#[test]
fn the_table_has_every_device() {
    assert_eq!(TABLE.map(|(device, _)| device), Device::ALL);
}
