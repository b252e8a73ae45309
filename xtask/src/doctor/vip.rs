//! Addresses of services: whether this host would send on what no service takes there.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Item, Verdict};
use crate::run;

const AREA: &str = "services";

/// As much of a configuration as is looked at.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    node: Node,
    #[serde(default, rename = "service")]
    services: Vec<Service>,
}

#[derive(Debug, Default, Deserialize)]
struct Node {
    unserved: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Service {
    listen: String,
}

/// Everything about the services of a configuration. One that is not there has none.
pub(super) fn look(config: &Path) -> Vec<Item> {
    if !config.exists() {
        return Vec::new();
    }
    let file = fs::read_to_string(config)
        .context("it cannot be read")
        .and_then(|text| toml::from_str::<File>(&text).context("it is not a configuration"));
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            let advice = format!("lbd --config {} --check", config.display());
            return vec![Item::new(
                AREA,
                &config.display().to_string(),
                Verdict::Absent,
                format!("{error:#}"),
                advice,
            )];
        }
    };
    let addresses = addresses(&file);
    if file.node.unserved.as_deref() == Some("drop") {
        let detail = "packets that no service takes are dropped (node.unserved)";
        return addresses.iter().map(|ip| Item::ok(AREA, &ip.to_string(), detail)).collect();
    }
    addresses.iter().map(|ip| judge(*ip, forwards(*ip), leads_on(*ip))).collect()
}

fn addresses(file: &File) -> BTreeSet<IpAddr> {
    let of = |service: &Service| {
        let (_, address) = service.listen.split_once('/')?;
        address.parse::<SocketAddr>().ok().map(|address| address.ip())
    };
    file.services.iter().filter_map(of).collect()
}

fn forwards(ip: IpAddr) -> bool {
    let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = format!("/proc/sys/net/{family}/conf/all/forwarding");
    fs::read_to_string(setting).is_ok_and(|text| text.trim() != "0")
}

/// Whether a route leads packets for an address on. Where there is none, or one that ends them, `ip` fails or names it.
fn leads_on(ip: IpAddr) -> bool {
    let route = run::capture(Command::new("ip").args(["-json", "route", "get", &ip.to_string()]));
    route.is_ok_and(|json| route_leads_on(&json).unwrap_or(false))
}

fn route_leads_on(json: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Route {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let routes: Vec<Route> = serde_json::from_str(json)?;
    Ok(routes.first().is_some_and(|route| route.kind.as_deref().is_none_or(|kind| kind == "unicast")))
}

/// What the facts mean. Pure.
fn judge(ip: IpAddr, forwards: bool, leads_on: bool) -> Item {
    let name = ip.to_string();
    if !forwards {
        return Item::ok(AREA, &name, "this host forwards nothing: what no service takes ends here");
    }
    if !leads_on {
        return Item::ok(AREA, &name, "what no service takes ends here");
    }
    let (option, length) = if ip.is_ipv4() { ("", 32) } else { (" -6", 128) };
    let detail = "this host forwards: what no service takes goes round between it and the router until its TTL is used up";
    let advice = format!("ip{option} route add blackhole {ip}/{length}, or `unserved = \"drop\"` in [node]");
    Item::new(AREA, &name, Verdict::Slower, detail, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_configuration_are_found_once_each() {
        let text = "node = { interface = \"eth0\", seed = \"s\", unserved = \"drop\" }\n\
            [[service]]\nname = \"a\"\nlisten = \"tcp/203.0.113.10:443\"\n\
            [[service]]\nname = \"b\"\nlisten = \"udp/203.0.113.10:53\"\n\
            [[service]]\nname = \"c\"\nlisten = \"tcp/[2001:db8::10]:443\"\n";
        let file: File = toml::from_str(text).unwrap();
        let found: Vec<String> = addresses(&file).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["203.0.113.10", "2001:db8::10"]);
        assert_eq!(file.node.unserved.as_deref(), Some("drop"));
    }

    #[test]
    fn a_route_that_ends_packets_does_not_lead_on() {
        for (json, leads_on) in [
            ("[{\"dst\":\"203.0.113.10\",\"gateway\":\"10.0.0.1\",\"dev\":\"eth0\"}]", true),
            ("[{\"type\":\"local\",\"dst\":\"203.0.113.10\",\"dev\":\"lo\"}]", false),
            ("[{\"type\":\"blackhole\",\"dst\":\"2001:db8::10\",\"dev\":\"lo\"}]", false),
            ("[]", false),
        ] {
            assert_eq!(route_leads_on(json).unwrap(), leads_on, "{json}");
        }
    }

    #[test]
    fn only_a_host_that_forwards_and_has_no_end_for_them_is_told_so() {
        let ip: IpAddr = "2001:db8::10".parse().unwrap();
        assert_eq!(judge(ip, false, true).verdict, Verdict::Ok);
        assert_eq!(judge(ip, true, false).verdict, Verdict::Ok);
        let item = judge(ip, true, true);
        assert_eq!(item.verdict, Verdict::Slower);
        assert!(item.advice.starts_with("ip -6 route add blackhole 2001:db8::10/128"), "{}", item.advice);
    }
}
