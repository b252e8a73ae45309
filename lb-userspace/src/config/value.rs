//! Single values: what a node of the tree must be to become a number, an address, a duration and so on. An error continues
//! the key's name: `weight` + ` 2000 is out of range: 0 to 1000`.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::{
    spec::{Hash, Hold, Listen, MinHealthy, Protocol, Source},
    suggest,
    value_tree::{Data, Node, quote},
    words::{self, Word},
};

type Parsed<T> = Result<T, String>;

pub(super) fn string(node: &Node) -> Parsed<&str> {
    node.as_str().ok_or_else(|| format!("must be a string, not {}", node.describe()))
}

pub(super) fn boolean(node: &Node) -> Parsed<bool> {
    match node.data {
        Data::Bool(value) => Ok(value),
        _ => Err(format!("must be true or false, not {}", node.describe())),
    }
}

/// A whole number within a range.
pub(super) fn number<T>(node: &Node, range: RangeInclusive<T>) -> Parsed<T>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    let Data::Int(value) = node.data else {
        return Err(format!("must be a whole number, not {}", node.describe()));
    };
    match T::try_from(value) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("{value} is out of range: {} to {}", range.start(), range.end())),
    }
}

/// One of a few words.
pub(super) fn word<T: Word>(node: &Node) -> Parsed<T> {
    let words = || T::WORDS.iter().map(|(word, _)| *word);
    let list = || words().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let Some(text) = node.as_str() else {
        return Err(format!("must be one of {}, not {}", list(), node.describe()));
    };
    T::of_word(text)
        .ok_or_else(|| format!("{} is none of {}{}", quote(text), list(), suggest::hint(text, words())))
}

/// `hold`: a duration, or `forever`.
pub(super) fn hold(node: &Node) -> Parsed<Hold> {
    if node.as_str() == Some("forever") {
        return Ok(Hold::Forever);
    }
    let longest = Duration::from_secs(24 * 3600);
    duration(node, Duration::ZERO..=longest)
        .map(Hold::For)
        .map_err(|error| format!("{error}, or \"forever\""))
}

/// A duration with its unit, within a range.
pub(super) fn duration(node: &Node, range: RangeInclusive<Duration>) -> Parsed<Duration> {
    const FORM: &str = "whole numbers with units ms, s, m or h, for example \"500ms\" or \"1h30m\"";
    let text = match &node.data {
        Data::Str(text) => text,
        Data::Int(value) => return Err(format!("{value} has no unit: write {FORM}")),
        _ => return Err(format!("must be a duration, not {}: {FORM}", node.describe())),
    };
    let value = words::parse_duration(text)
        .ok_or_else(|| format!("{} is not a valid duration: {FORM}", quote(text)))?;
    if range.contains(&value) {
        return Ok(value);
    }
    let [from, to] = [range.start(), range.end()].map(|&end| words::duration(end));
    Err(format!("{} is out of range: {from} to {to}", quote(text)))
}

/// A count of backends, or a share of them: `3`, `"30%"`.
pub(super) fn min_healthy(node: &Node) -> Parsed<MinHealthy> {
    const FORM: &str = "write a number of backends or a share of them, for example 2 or \"30%\"";
    let Data::Str(text) = &node.data else {
        return match node.data {
            Data::Int(_) => Ok(MinHealthy::Count(number(node, 1..=lb_common::ring::MAX_BACKENDS)?)),
            _ => Err(format!("must be a number or a share, not {}: {FORM}", node.describe())),
        };
    };
    let digits = text.strip_suffix('%').ok_or_else(|| format!("{} has no %: {FORM}", quote(text)))?;
    match whole(digits) {
        Some(percent @ 1..=100) => Ok(MinHealthy::Percent(percent)),
        _ => Err(format!("{} is out of range: \"1%\" to \"100%\"", quote(text))),
    }
}

/// The part of a packet that selects its slot; `longest` is the number of bits of a client's address.
pub(super) fn hash(node: &Node, longest: u8) -> Parsed<Hash> {
    const FORM: &str = "write \"five-tuple\", \"source\", or \"source/24\" for networks of clients";
    let Some(text) = node.as_str() else {
        return Err(format!("must be a string, not {}: {FORM}", node.describe()));
    };
    let (word, bits) = text.split_once('/').map_or((text, None), |(word, bits)| (word, Some(bits)));
    match (word, bits) {
        ("five-tuple", None) => Ok(Hash::FiveTuple),
        ("source", None) => Ok(Hash::Source(longest)),
        ("source", Some(bits)) => match whole(bits) {
            Some(number) if (1..=longest).contains(&number) => Ok(Hash::Source(number)),
            _ => Err(format!("{} is out of range: \"source/1\" to \"source/{longest}\"", quote(text))),
        },
        _ => Err(format!(
            "{} is not a valid hash: {FORM}{}",
            quote(text),
            suggest::hint(word, HASHES.into_iter())
        )),
    }
}

const HASHES: [&str; 2] = ["five-tuple", "source"];

/// A name of 1 to 63 characters, each of them one of `A-Z a-z 0-9 . _ -` or of `more`.
pub(super) fn name(node: &Node, more: &str) -> Parsed<String> {
    const LONGEST: usize = 63;
    let text = string(node)?;
    if text.is_empty() || text.len() > LONGEST {
        return Err(format!("{} is {} bytes long: 1 to {LONGEST} are allowed", quote(text), text.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
    if let Some(bad) = text.chars().find(|&c| !allowed(c)) {
        let list: String = more.chars().map(|c| format!(" {c}")).collect();
        return Err(format!("{} has {bad:?} in it: allowed are A-Z a-z 0-9 . _ -{list}", quote(text)));
    }
    if text.starts_with(['.', '-']) {
        return Err(format!("{} must not begin with . or -", quote(text)));
    }
    Ok(text.to_owned())
}

/// An address that packets can be sent to.
pub(super) fn address(node: &Node) -> Parsed<IpAddr> {
    let text = string(node)?;
    let address = text.parse().map_err(|_| format!("{} is not a valid IPv4 or IPv6 address", quote(text)))?;
    usable(address)?;
    Ok(address)
}

/// Refuses addresses that no service or backend can have.
fn usable(address: IpAddr) -> Parsed<()> {
    let what = match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is in 0.0.0.0/8, which means \"this host\"",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        IpAddr::V6(v6) if v6.is_unspecified() => "is the unspecified address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            "is an IPv4 address in IPv6 form: write it as IPv4"
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "is link-local: packets cannot be routed to it",
        _ if address.is_loopback() => "is a loopback address: packets would not leave the host",
        _ if address.is_multicast() => "is a multicast address",
        _ => return Ok(()),
    };
    Err(format!("{address} {what}"))
}

/// `tcp/203.0.113.10:443`, `udp/[2001:db8::10]:53`.
pub(super) fn listen(node: &Node) -> Parsed<Listen> {
    const FORM: &str =
        "for example \"tcp/203.0.113.10:443\" or \"udp/[2001:db8::10]:53\", port 0 for every port";
    let text = string(node)?;
    let quoted = quote(text);
    let (protocol, rest) = text
        .split_once('/')
        .ok_or_else(|| format!("{quoted} has no protocol: write it as protocol/address:port, {FORM}"))?;
    let protocol = Protocol::of_word(protocol)
        .ok_or_else(|| format!("{quoted}: protocol {} is neither tcp nor udp", quote(protocol)))?;
    let (address, port) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => rest.rsplit_once(':').filter(|(address, _)| !address.contains(':')),
    }
    .ok_or_else(|| format!("{quoted} is not protocol/address:port, {FORM}"))?;
    let address: IpAddr = if rest.starts_with('[') {
        address.parse().map(IpAddr::V6).map_err(|_| "IPv6")
    } else {
        address.parse().map(IpAddr::V4).map_err(|_| "IPv4")
    }
    .map_err(|family| format!("{quoted}: {} is not a valid {family} address, {FORM}", quote(address)))?;
    usable(address).map_err(|why| format!("{quoted}: {why}"))?;
    let port = port_number(port).map_err(|why| format!("{quoted}: {why}"))?;
    Ok(Listen { protocol, address, port })
}

fn port_number(text: &str) -> Parsed<u16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("port {} is not a number", quote(text)));
    }
    match text.trim_start_matches('0') {
        number if text.len() > 1 && number.len() < text.len() => {
            let number = if number.is_empty() { "0" } else { number };
            Err(format!("port {text} has a leading zero: write {number}"))
        }
        _ => text.parse().map_err(|_| format!("port {text} is out of range: 0 to 65535")),
    }
}

/// A whole number in digits only: no sign, no blank, and no leading zero, because other programs read that as octal.
pub(super) fn whole<T: FromStr>(text: &str) -> Option<T> {
    let plain = text == "0" || !text.starts_with('0');
    (plain && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

pub(super) fn socket_address(node: &Node) -> Parsed<SocketAddr> {
    let text = string(node)?;
    let port = text.rsplit_once(':').map(|(_, port)| port);
    text.parse().ok().filter(|_| port.and_then(whole::<u16>).is_some()).ok_or_else(|| {
        format!("{} is not address:port, for example \"127.0.0.1:9477\" or \"[::1]:9477\"", quote(text))
    })
}

pub(super) fn source_v4(node: &Node) -> Parsed<Source<Ipv4Addr>> {
    let (address, spread_bits) = prefix(node, "IPv4", "source6", 32, 24)?;
    match address {
        IpAddr::V4(address) => Ok(Source { address, spread_bits }),
        IpAddr::V6(_) => Err(format!("{address} is IPv6: that is for source6")),
    }
}

pub(super) fn source_v6(node: &Node) -> Parsed<Source<Ipv6Addr>> {
    let (address, spread_bits) = prefix(node, "IPv6", "source", 128, 32)?;
    match address {
        IpAddr::V6(address) => Ok(Source { address, spread_bits }),
        IpAddr::V4(_) => Err(format!("{address} is IPv4: that is for source")),
    }
}

/// An address, or a prefix with at most `most` low bits to spread over.
fn prefix(node: &Node, family: &str, other: &str, bits: u8, most: u8) -> Parsed<(IpAddr, u8)> {
    let text = string(node)?;
    let quoted = quote(text);
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| format!("{quoted} is not a valid {family} address or prefix"))?;
    if address.is_ipv4() != (bits == 32) {
        return Err(format!("{quoted} is not an {family} address or prefix: that is for {other}"));
    }
    usable(address).map_err(|why| format!("{quoted}: {why}"))?;
    let Some(length) = length else { return Ok((address, 0)) };
    let length: u8 = match whole(length) {
        Some(length) if length <= bits => length,
        _ => return Err(format!("{quoted}: prefix length {} is out of range: 0 to {bits}", quote(length))),
    };
    let spread = bits - length;
    if spread > most {
        return Err(format!("{quoted} is too wide: at most /{}", bits - most));
    }
    if spread > 0 {
        let network = match address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & (u32::MAX << spread)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << spread)).into()),
        };
        if network != address {
            return Err(format!("{quoted} has bits set behind the prefix: write {network}/{length}"));
        }
    }
    Ok((address, spread))
}

/// An absolute path: the agent's working directory must not matter.
pub(super) fn absolute_path(node: &Node) -> Parsed<PathBuf> {
    let text = string(node)?;
    if !text.starts_with('/') {
        return Err(format!("{} is not an absolute path: begin with /", quote(text)));
    }
    without_control(text)?;
    Ok(PathBuf::from(text))
}

/// An interface name that the kernel would take (`dev_valid_name`): 1 to 15 bytes, no `/`, `:` or white space. The kernel also
/// takes control characters; they are refused here, because logs and tables show the name.
pub(super) fn interface(node: &Node) -> Parsed<String> {
    let text = string(node)?;
    let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
    if !fits || text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "{} is not a valid interface name: 1 to 15 bytes without / : white space or control characters, see `ip link`",
            quote(text)
        ));
    }
    Ok(text.to_owned())
}

/// Text of 1 to `longest` bytes without control characters.
pub(super) fn text(node: &Node, longest: usize) -> Parsed<String> {
    let text = string(node)?;
    if text.is_empty() || text.len() > longest {
        return Err(format!("{} is {} bytes long: 1 to {longest} are allowed", quote(text), text.len()));
    }
    without_control(text)?;
    Ok(text.to_owned())
}

/// The same for a secret text: messages must not repeat it.
pub(super) fn secret(node: &Node, longest: usize) -> Parsed<String> {
    let Some(text) = node.as_str() else {
        return Err("must be a string".to_owned());
    };
    if text.is_empty() || text.len() > longest {
        return Err(format!("is {} bytes long: 1 to {longest} are allowed", text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(bad) => Err(format!("has the control character {bad:?} in it")),
        None => Ok(text.to_owned()),
    }
}

fn without_control(text: &str) -> Parsed<()> {
    match text.chars().find(|c| c.is_control()) {
        Some(bad) => Err(format!("{} has the control character {bad:?} in it", quote(text))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
