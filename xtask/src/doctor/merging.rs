//! What merges packets before a program in the kernel's generic path sees them: offloads of an interface and of the devices
//! below it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Item, Verdict};
use crate::run;

/// One device that packets come through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Device {
    name: String,
    /// Receives by itself; bridges and the like receive through the devices below them, whatever they say of themselves.
    receives: bool,
    /// What `ethtool -k` says.
    features: String,
}

/// Whether an interface without native mode gets merged packets.
pub(super) fn look(interface: &str) -> Option<Item> {
    judge(interface, &below(interface))
}

/// The interface and all below it.
fn below(interface: &str) -> Vec<Device> {
    let mut names = vec![interface.to_owned()];
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        let entries = fs::read_dir(directory(&name)).into_iter().flatten().flatten();
        let lower = entries.filter_map(|entry| {
            entry.file_name().to_str().and_then(|name| name.strip_prefix("lower_")).map(str::to_owned)
        });
        let mut lower: Vec<String> = lower.filter(|name| !names.contains(name)).collect();
        lower.sort();
        names.extend(lower);
        at += 1;
    }
    names.into_iter().map(device).collect()
}

fn device(name: String) -> Device {
    let driver = run::capture(Command::new("ethtool").args(["-i", &name])).unwrap_or_default();
    let receives =
        directory(&name).join("device").exists() || driver.lines().any(|line| line == "driver: veth");
    let features = run::capture(Command::new("ethtool").args(["-k", &name])).unwrap_or_default();
    Device { name, receives, features }
}

fn directory(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// What the facts mean. Pure.
fn judge(interface: &str, devices: &[Device]) -> Option<Item> {
    let commands: Vec<String> = devices.iter().filter_map(command).collect();
    if commands.is_empty() {
        return None;
    }
    let detail = "in generic mode packets are merged before XDP sees them; those above the MTU are dropped as `merged`";
    Some(Item::new(interface, "merging", Verdict::Slower, detail, commands.join("; ")))
}

/// The command that ends it on one device.
fn command(device: &Device) -> Option<String> {
    let Device { name, receives, features } = device;
    let is_on = |feature: &str| features.lines().any(|line| line.trim() == format!("{feature}: on"));
    let merging = [
        ("gro", *receives && is_on("generic-receive-offload")),
        ("lro", is_on("large-receive-offload")),
        ("rx-gro-hw", is_on("rx-gro-hw")),
    ];
    let off: Vec<String> =
        merging.iter().filter(|(_, on)| *on).map(|(short, _)| format!("{short} off")).collect();
    (!off.is_empty()).then(|| format!("ethtool -K {name} {}", off.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, receives: bool, features: &str) -> Device {
        Device { name: name.into(), receives, features: features.into() }
    }

    #[test]
    fn ports_that_merge_are_named_with_the_command_and_the_bridge_is_not() {
        let gro = "Features for x:\ngeneric-receive-offload: on\nlarge-receive-offload: off [fixed]";
        let devices =
            [device("br0", false, gro), device("eth1", true, gro), device("eth2", true, "rx-gro-hw: on")];
        let item = judge("br0", &devices).unwrap();
        assert_eq!(item.advice, "ethtool -K eth1 gro off; ethtool -K eth2 rx-gro-hw off");
        assert_eq!(judge("br0", &devices[..1]), None);
    }
}
