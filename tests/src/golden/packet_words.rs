//! Packets in words, so that a capture can be added without a packet file: `tcp 198.51.100.1:40000 > 203.0.113.10:443 syn`.
//! This module reads the words; `bytes` makes the frame.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The text about words in `--help`.
pub const HELP: &str = "\
Packets in words: PROTOCOL FROM > TO [WORD...], where PROTOCOL is
  tcp, udp      FROM and TO are ADDRESS:PORT or [ADDRESS]:PORT
  icmp, ip      FROM and TO are addresses
  arp           who has TO, asked by FROM
and WORD is one of
  syn ack fin rst psh          TCP flags (none named: ack)
  seq=N                        TCP's sequence number (1000, and 999 of a SYN)
  tcp-options=N tcp-offset=N   words of options; a header length that may lie
  udp-length=N                 a length that may lie
  type=N code=N mtu=N          ICMP; the MTU of an error
  quote=N                      an ICMP error quotes so many bytes (all)
  protocol=N                   ip, or a protocol number that lies
  payload=N                    bytes (0)
  tos=N ttl=N id=N             (0, 57, 0)
  df mf offset=N               IPv4 fragments, N in units of 8 bytes
  options=N ihl=N              IPv4: words of options; a header length that may lie
  version=N length=N           fields of the IP header that may lie
  chain=hop:N,dst:N,routing:LEFT,ah:N,fragment:OFFSET[+]
                               IPv6 extension headers; N is their length field (0)
  bad-ip-checksum bad-checksum the header's, the segment's
  vlan=N ethertype=N           a tag; another type
  padding=N cut=N              bytes behind the packet; the frame ends after N bytes
  metadata=N                   so many bytes less in front of the frame
`tunnel FROM > TO [WORD...] | PACKET` puts a packet into another one, and `icmp … | PACKET` quotes one. Numbers are decimal or 0x hexadecimal.";

/// The words of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) kind: Kind,
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) chain: Vec<Link>,
    flags: Vec<&'static str>,
    numbers: BTreeMap<&'static str, u32>,
    /// The packet inside of this header.
    pub(super) inside: Option<Box<Words>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
    Icmp,
    Ip,
    Arp,
    Tunnel,
}

/// An address, and a port if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// `hop`, `dst`, `routing`, `ah` or `fragment`.
    pub(super) name: &'static str,
    pub(super) number: u16,
    /// More fragments.
    pub(super) more: bool,
}

const FLAGS: &[&str] = &["syn", "ack", "fin", "rst", "psh", "df", "mf", "bad-ip-checksum", "bad-checksum"];

/// Words with a number, and the largest number allowed.
const NUMBERS: &[(&str, u32)] = &[
    ("tcp-options", 10),
    ("tcp-offset", 15),
    ("seq", u32::MAX),
    ("udp-length", 65_535),
    ("type", 255),
    ("code", 255),
    ("mtu", 65_535),
    ("quote", 3000),
    ("protocol", 255),
    ("payload", 3000),
    ("tos", 255),
    ("ttl", 255),
    ("id", 65_535),
    ("offset", 8191),
    ("options", 10),
    ("ihl", 15),
    ("version", 15),
    ("length", 65_535),
    ("vlan", 4095),
    ("ethertype", 65_535),
    ("padding", 100),
    ("cut", 4000),
    ("metadata", 208),
];

const LINKS: &[&str] = &["hop", "dst", "routing", "ah", "fragment"];

impl Words {
    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

impl FromStr for Words {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (head, inside) = match text.split_once('|') {
            Some((head, inside)) => (head, Some(inside.parse::<Self>()?)),
            None => (text, None),
        };
        let words: Vec<&str> = head.split_whitespace().collect();
        let [kind, from, ">", to, rest @ ..] = words.as_slice() else {
            bail!("`{}` is not a packet: PROTOCOL FROM > TO [WORD...]", text.trim())
        };
        let kind = match *kind {
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "icmp" => Kind::Icmp,
            "ip" => Kind::Ip,
            "arp" => Kind::Arp,
            "tunnel" => Kind::Tunnel,
            other => bail!("`{other}` is not one of tcp, udp, icmp, ip, arp, tunnel"),
        };
        ensure!(
            kind == Kind::Icmp || (kind == Kind::Tunnel) == inside.is_some(),
            "`tunnel … | …` has a packet inside, and only it and `icmp`: `{}`",
            text.trim()
        );
        let ports = matches!(kind, Kind::Tcp | Kind::Udp);
        let (from, to) = (place(from, ports)?, place(to, ports)?);
        ensure!(from.ip.is_ipv4() == to.ip.is_ipv4(), "{} and {}: a packet has one family", from.ip, to.ip);
        let mut this = Self {
            kind,
            from,
            to,
            chain: Vec::new(),
            flags: Vec::new(),
            numbers: BTreeMap::new(),
            inside: inside.map(Box::new),
        };
        rest.iter().try_for_each(|word| this.word(word))?;
        Ok(this)
    }
}

impl Words {
    fn word(&mut self, word: &str) -> Result<()> {
        if let Some(flag) = FLAGS.iter().find(|flag| **flag == word) {
            self.flags.push(flag);
            return Ok(());
        }
        let Some((name, value)) = word.split_once('=') else { bail!("the word `{word}` is not known") };
        if name == "chain" {
            ensure!(!self.to.ip.is_ipv4(), "chain: IPv4 has no extension headers");
            self.chain = value.split(',').map(link).collect::<Result<_>>()?;
            return Ok(());
        }
        let known = NUMBERS.iter().find(|(known, _)| *known == name);
        let Some((name, most)) = known else { bail!("the word `{name}` is not known") };
        let number = number(value).filter(|number| number <= most);
        let number = number.with_context(|| format!("{name}: `{value}` is not a number from 0 to {most}"))?;
        self.numbers.insert(name, number);
        Ok(())
    }
}

/// Reads a decimal number, or a hexadecimal one after `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn place(text: &str, port: bool) -> Result<Place> {
    if port {
        let place: SocketAddr =
            text.parse().with_context(|| format!("`{text}` is not ADDRESS:PORT or [ADDRESS]:PORT"))?;
        return Ok(Place { ip: place.ip(), port: place.port() });
    }
    let ip = text.parse().with_context(|| format!("`{text}` is not an address"))?;
    Ok(Place { ip, port: 0 })
}

fn link(text: &str) -> Result<Link> {
    let (name, value) = text.split_once(':').unwrap_or((text, "0"));
    let (value, more) = value.strip_suffix('+').map_or((value, false), |value| (value, true));
    let name = LINKS.iter().find(|known| **known == name);
    let name = name.with_context(|| format!("chain: `{text}` is not one of {}", LINKS.join(", ")))?;
    let most = if *name == "fragment" { 8191 } else { 255 };
    let number = number(value).filter(|number| *number <= most);
    let number = number.with_context(|| format!("chain: `{value}` is not a number from 0 to {most}"))?;
    Ok(Link { name, number: number as u16, more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_not_known_are_named() {
        for (text, says) in [
            ("", "is not a packet"),
            ("tcp 1.2.3.4:1 5.6.7.8:2", "is not a packet"),
            ("sctp 1.2.3.4 > 5.6.7.8", "`sctp` is not one of"),
            ("tcp 1.2.3.4 > 5.6.7.8:2", "is not ADDRESS:PORT"),
            ("udp 1.2.3.4:1 > [2001:db8::1]:2", "one family"),
            ("tcp 1.2.3.4:1 > 5.6.7.8:2 sny", "the word `sny` is not known"),
            ("tcp 1.2.3.4:1 > 5.6.7.8:2 tos=256", "not a number from 0 to 255"),
            ("tcp 1.2.3.4:1 > 5.6.7.8:2 chain=dst", "no extension headers"),
            ("ip 2001:db8::1 > 2001:db8::2 chain=dst,x", "`x` is not one of hop"),
            ("tunnel 1.2.3.4 > 5.6.7.8", "has a packet inside"),
            ("ip 1.2.3.4 > 5.6.7.8 | ip 1.2.3.4 > 5.6.7.8", "has a packet inside"),
        ] {
            let error = text.parse::<Words>().unwrap_err();
            assert!(format!("{error:#}").contains(says), "{text}: {error:#}");
        }
    }

    #[test]
    fn the_help_names_every_word() {
        let named =
            |word: &str| HELP.split(|c: char| !c.is_alphanumeric() && c != '-').any(|said| said == word);
        for word in FLAGS.iter().chain(NUMBERS.iter().map(|(name, _)| name)).chain(LINKS) {
            assert!(named(word), "{word}");
        }
    }
}
