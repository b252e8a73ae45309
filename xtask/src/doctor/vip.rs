//! Addresses of services: whether this host speaks from one, and whether it would send on what no service takes there.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    let mut addresses = addresses(&file);
    let own: Vec<Item> = addresses.extract_if(.., |ip| speaks_from(*ip)).map(speaks).collect();
    let mut items = of_virtual(&file, &addresses);
    items.extend(own);
    items
}

/// Everything about addresses that this host does not speak from.
fn of_virtual(file: &File, addresses: &BTreeSet<IpAddr>) -> Vec<Item> {
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

/// Whether a packet of this host's own would begin at an address of a service: asked of the routes to the neighbours on the link
/// and to the world. An address that is here for another reason (VRRP, a router's announcement of `lo`) begins nothing.
fn speaks_from(ip: IpAddr) -> bool {
    let Ok(json) = run::capture(Command::new("ip").args(["-json", "address", "show", "to", &ip.to_string()]))
    else {
        return false;
    };
    let lengths = prefix_lengths(&json, ip).unwrap_or_default();
    if lengths.is_empty() {
        return false;
    }
    let world: [IpAddr; 2] = match ip {
        IpAddr::V4(_) => [[192, 0, 2, 254].into(), [203, 0, 113, 254].into()],
        IpAddr::V6(_) => {
            let world = |first, second| Ipv6Addr::new(first, second, 0xffff, 0, 0, 0, 0, 0xfffe).into();
            [world(0x2001, 0xdb8), world(0x2600, 0xffff)]
        }
    };
    let near = lengths.into_iter().flat_map(|length| neighbours(ip, length));
    near.chain(world).filter(|to| *to != ip).any(|to| {
        let route = run::capture(Command::new("ip").args(["-json", "route", "get", &to.to_string()]));
        route.is_ok_and(|json| begins_at(&json, ip).unwrap_or(false))
    })
}

/// Lengths of the prefixes with which the host has an address.
fn prefix_lengths(json: &str, ip: IpAddr) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Link {
        #[serde(default)]
        addr_info: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        local: Option<IpAddr>,
        prefixlen: u8,
    }
    let links: Vec<Link> = serde_json::from_str(json)?;
    let all = links.into_iter().flat_map(|link| link.addr_info);
    Ok(all.filter(|address| address.local == Some(ip)).map(|address| address.prefixlen).collect())
}

/// Two addresses of the prefix; none where it has no room.
fn neighbours(ip: IpAddr, length: u8) -> Vec<IpAddr> {
    match ip {
        IpAddr::V4(ip) if length <= 30 => {
            let network = ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            [1, 2].map(|n| Ipv4Addr::from_bits(network | n).into()).into()
        }
        IpAddr::V6(ip) if length <= 126 => {
            let network = ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            [1, 2].map(|n| Ipv6Addr::from_bits(network | n).into()).into()
        }
        _ => Vec::new(),
    }
}

/// Whether the answer to `ip route get` has an address as the source.
fn begins_at(json: &str, ip: IpAddr) -> Result<bool> {
    #[derive(Deserialize)]
    struct Route {
        prefsrc: Option<IpAddr>,
    }
    let routes: Vec<Route> = serde_json::from_str(json)?;
    Ok(routes.first().is_some_and(|route| route.prefsrc == Some(ip)))
}

fn speaks(ip: IpAddr) -> Item {
    let detail = "this host speaks from this address: the service takes what is meant for the host, SSH and the answers to its \
                  health checks among it";
    let advice = "give the service an address that no host has".to_owned();
    Item::new(AREA, &ip.to_string(), Verdict::Absent, detail, advice)
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
    fn an_address_is_the_hosts_own_where_a_route_begins_at_it() {
        let ip: IpAddr = [10, 0, 0, 5].into();
        let json = "[{\"ifname\":\"eth0\",\"addr_info\":[{\"family\":\"inet\",\"local\":\"10.0.0.5\",\"prefixlen\":24},\
            {\"family\":\"inet\",\"local\":\"10.0.0.6\",\"prefixlen\":32}]},{}]";
        assert_eq!(prefix_lengths(json, ip).unwrap(), [24]);
        assert_eq!(neighbours(ip, 24), [IpAddr::from([10, 0, 0, 1]), [10, 0, 0, 2].into()]);
        assert_eq!(neighbours(ip, 32), Vec::<IpAddr>::new());
        let route = "[{\"dst\":\"10.0.0.1\",\"dev\":\"eth0\",\"prefsrc\":\"10.0.0.5\"}]";
        assert!(begins_at(route, ip).unwrap() && !begins_at(route, [10, 0, 0, 6].into()).unwrap());
        assert!(!begins_at("[]", ip).unwrap());
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
    fn only_a_forwarding_host_without_an_end_for_them_is_warned() {
        let ip: IpAddr = "2001:db8::10".parse().unwrap();
        assert_eq!(judge(ip, false, true).verdict, Verdict::Ok);
        assert_eq!(judge(ip, true, false).verdict, Verdict::Ok);
        let item = judge(ip, true, true);
        assert_eq!(item.verdict, Verdict::Slower);
        assert!(item.advice.starts_with("ip -6 route add blackhole 2001:db8::10/128"), "{}", item.advice);
    }
}
