//! What this host lets others tell it of ways: ICMP redirects and routers' advertisements. `lbd` takes ways and MTUs from the
//! forwarding tables alone; health checks and everything else of the host follow what the kernel believes.

use std::fs;

use super::{Item, Verdict};

const AREA: &str = "ways";

/// A setting of each interface.
struct Setting {
    family: &'static str,
    name: &'static str,
    /// What those who can send to the host may do.
    may: &'static str,
}

const SETTINGS: [Setting; 3] = [
    Setting {
        family: "ipv4",
        name: "accept_redirects",
        may: "who reaches the host may move ways of its own packets",
    },
    Setting {
        family: "ipv6",
        name: "accept_redirects",
        may: "who is on the link may move ways of the host's own packets",
    },
    Setting {
        family: "ipv6",
        name: "accept_ra",
        may: "who is on the link may give the host routes, addresses and MTUs",
    },
];

pub(super) fn look(interfaces: &[String]) -> Vec<Item> {
    SETTINGS.iter().map(|setting| judge(setting, &where_on(setting, interfaces))).collect()
}

/// The interfaces whose setting is on, of all or of those named; `all` counts as one. The loopback hears no other host.
fn where_on(setting: &Setting, interfaces: &[String]) -> Vec<String> {
    let root = format!("/proc/sys/net/{}/conf", setting.family);
    let all = fs::read_dir(&root).into_iter().flatten().flatten();
    let names = all.filter_map(|entry| entry.file_name().into_string().ok());
    let concerned = |name: &String| {
        let named = interfaces.is_empty() || name == "all" || interfaces.contains(name);
        named && !matches!(name.as_str(), "lo" | "default")
    };
    let on = |name: &String| {
        let value = fs::read_to_string(format!("{root}/{name}/{}", setting.name)).unwrap_or_default();
        !matches!(value.trim(), "" | "0")
    };
    let mut found: Vec<String> = names.filter(|name| concerned(name) && on(name)).collect();
    found.sort();
    found
}

/// What the facts mean. Pure.
fn judge(setting: &Setting, on: &[String]) -> Item {
    let Setting { family, name, may } = setting;
    let item = format!("{family} {name}");
    if on.is_empty() {
        return Item::ok(AREA, &item, "off");
    }
    let keys: Vec<String> =
        on.iter().map(|interface| format!("net/{family}/conf/{interface}/{name}=0")).collect();
    let detail = format!("on for {}: {may}", on.join(", "));
    Item::new(AREA, &item, Verdict::Absent, detail, format!("sysctl -w {}", keys.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_on_is_named_with_the_command_that_turns_it_off() {
        let on = ["all".to_owned(), "eth0.7".to_owned()];
        let item = judge(&SETTINGS[0], &on);
        assert!(item.detail.starts_with("on for all, eth0.7: "), "{}", item.detail);
        // With slashes, as names of interfaces may have dots (sysctl(8)).
        let advice = "sysctl -w net/ipv4/conf/all/accept_redirects=0 net/ipv4/conf/eth0.7/accept_redirects=0";
        assert_eq!((item.verdict, item.advice.as_str()), (Verdict::Absent, advice));
        assert_eq!(judge(&SETTINGS[1], &[]).verdict, Verdict::Ok);
    }
}
