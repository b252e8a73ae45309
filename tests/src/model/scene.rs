//! What a packet meets, in words: services, backends, the slots of rings, and what changes between two packets.
//! `world::fill` writes the maps from a scene, and the model answers from the same scene, so that neither sees the other's form
//! of it. Written as TOML, it is the configuration of golden captures and regression fixtures.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Everything that is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// A description for people.
    #[serde(default)]
    pub about: String,
    /// Whether the maps are ready, and of which version they are.
    #[serde(default)]
    pub node: Node,
    /// Key of the flow hash: two 64-bit numbers in hexadecimal.
    #[serde(default = "default_seed")]
    pub seed: [String; 2],
    /// What happens to packets for the address of a service that no service takes.
    #[serde(default, skip_serializing_if = "Unserved::is_pass")]
    pub unserved: Unserved,
    /// What becomes of echo requests to addresses of services.
    #[serde(default, skip_serializing_if = "Ping::is_answer")]
    pub ping: Ping,
    /// Addresses of services that have a backend that works: those answer echo requests under [`Ping::Healthy`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub healthy: Vec<IpAddr>,
    /// What becomes of packets that are too big for their backend.
    #[serde(default, skip_serializing_if = "TooBig::is_answer")]
    pub too_big: TooBig,
    /// Addresses of the host itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<IpAddr>,
    /// MTU of the interface that packets come in on; left out = the program does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_mtu: Option<u32>,
    /// Every bit of the address filter is set, as with very many addresses; the result must be the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub crowded: bool,
    /// The addresses at which `lb_decap` takes outer headers off.
    #[serde(default)]
    pub decap: Vec<IpAddr>,
    /// Outer headers of GUE come off there, too, and not only those of IP in IP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decap_gue: bool,
    /// Numbers follow the order, from 1.
    #[serde(default, rename = "backend")]
    pub backends: Vec<Backend>,
    /// Numbers follow the order, from 0.
    #[serde(default, rename = "service")]
    pub services: Vec<Service>,
}

fn default_seed() -> [String; 2] {
    ["123456789abcdef0".to_owned(), "0fedcba987654321".to_owned()]
}

/// `node.unserved`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unserved {
    #[default]
    Pass,
    Drop,
}

impl Unserved {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
    fn is_pass(&self) -> bool {
        *self == Self::Pass
    }
}

/// `node.ping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ping {
    #[default]
    Answer,
    Healthy,
    Host,
    Drop,
}

impl Ping {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
    fn is_answer(&self) -> bool {
        *self == Self::Answer
    }
}

/// `node.too_big`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooBig {
    #[default]
    Answer,
    Drop,
}

impl TooBig {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
    fn is_answer(&self) -> bool {
        *self == Self::Answer
    }
}

/// What the agent has stated about the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Node {
    #[default]
    Ready,
    /// The agent has stated nothing yet.
    Unconfigured,
    /// The maps are of another ABI version.
    OtherVersion,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub address: IpAddr,
    /// The outer source address; its low `source_bits` bits are 0.
    pub source: IpAddr,
    #[serde(default)]
    pub source_bits: u8,
    /// The family of the packets that it is sent: the packets of a service have one family.
    pub carries: Family,
    #[serde(default, skip_serializing_if = "Encapsulation::is_ipip")]
    pub encapsulation: Encapsulation,
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Its weight, where a service balances by live flows; 0 counts as 1.
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    pub weight: u16,
    #[serde(default)]
    pub via: Via,
    #[serde(default)]
    pub state: State,
}

fn default_mtu() -> u16 {
    1500
}

fn default_weight() -> u16 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn is_default_weight(weight: &u16) -> bool {
    *weight == default_weight()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// How packets travel to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    #[default]
    Ipip,
    L2,
    Gue,
}

impl Encapsulation {
    /// All of them, with the words of the configuration.
    pub const ALL: [(&str, Self); 3] = [("ipip", Self::Ipip), ("l2", Self::L2), ("gue", Self::Gue)];

    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(word, _)| word)
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
    fn is_ipip(&self) -> bool {
        *self == Self::Ipip
    }
}

/// The interface towards a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// The interface that packets come in on.
    #[default]
    Same,
    /// Another interface, which is in the device map.
    Other,
    /// An interface that is not in the device map.
    Unmapped,
    /// The next hop is not known.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    #[default]
    Up,
    Draining,
    Down,
    /// Its health check fails, and health is ignored: established flows continue and it takes new flows.
    Failing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Port 0: every port.
    pub listen: SocketAddr,
    pub protocol: Protocol,
    /// `track = "always"`: every flow is recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
    /// How a new flow finds its backend; every kind except the hash needs `always`.
    #[serde(default, skip_serializing_if = "Balance::is_hash")]
    pub balance: Balance,
    /// For `least-connections`: the number of slots of the owner that has most. Slots of each owner are together in the ring,
    /// and those of this owner come first; 0 = the number is not stated.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub longest: u32,
    /// The number of leading bits of the client's address that choose the slot; 0 = the whole flow chooses it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub source_bits: u8,
    /// The same for the old ring.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub old_source_bits: u8,
    /// The ring; empty = the service has none.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// The old ring, from before the length changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old_slots: Vec<Slot>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn is_none_of_them(slots: &u32) -> bool {
    *slots == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
fn is_zero(bits: &u8) -> bool {
    *bits == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// `balance` of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    #[default]
    Hash,
    RoundRobin,
    Random,
    LeastConnections,
}

impl Balance {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
    fn is_hash(&self) -> bool {
        *self == Self::Hash
    }
}

/// A slot: `2` stable at backend 2, `2!` remembering, `2<1` learning, unknown flows belong to 1 (which may be 2 itself where
/// a service begins to balance), `2<ring` learning, the old ring says which backend owns an unknown flow; 0 = no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Slot {
    Stable(u32),
    Remembering(u32),
    Learning(u32, u32),
    LearningFromRing(u32),
}

impl Slot {
    /// The backend that owns the slot now; 0 = none.
    pub fn owner(self) -> u32 {
        let (Self::Stable(one)
        | Self::Remembering(one)
        | Self::Learning(one, _)
        | Self::LearningFromRing(one)) = self;
        one
    }

    /// Every backend that the slot names; 0 = none.
    pub fn owners(self) -> Vec<u32> {
        match self {
            Self::Stable(one) | Self::Remembering(one) | Self::LearningFromRing(one) => vec![one],
            Self::Learning(one, other) => vec![one, other],
        }
    }
}

impl FromStr for Slot {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| {
            let number: u32 = text.parse().with_context(|| format!("`{text}` is not a backend's number"))?;
            if number > 1000 {
                bail!("backend {number} is above 1000");
            }
            Ok(number)
        };
        Ok(match text.split_once('<') {
            Some((current, "ring")) => Self::LearningFromRing(number(current)?),
            Some((current, previous)) => match (number(current)?, number(previous)?) {
                (_, 0) => bail!("slot `{text}`: 0 cannot be a previous owner"),
                (current, previous) => Self::Learning(current, previous),
            },
            None => match text.strip_suffix('!') {
                Some(current) => Self::Remembering(number(current)?),
                None => Self::Stable(number(text)?),
            },
        })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stable(current) => write!(f, "{current}"),
            Self::Remembering(current) => write!(f, "{current}!"),
            Self::Learning(current, previous) => write!(f, "{current}<{previous}"),
            Self::LearningFromRing(current) => write!(f, "{current}<ring"),
        }
    }
}

impl TryFrom<String> for Slot {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}

/// What happens between two packets, apart from time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// A backend is found up or down, or begins to drain.
    Backend { number: u32, state: State },
    /// A slot changes.
    Slot { service: u32, slot: u32, to: Slot },
    /// A service that records every flow changes its balancing.
    Balance { service: u32, to: Balance },
    /// All flows are silent for so long that they become idle.
    Silence,
}

impl Scene {
    pub fn seed(&self) -> Result<[u64; 2]> {
        let number = |text: &String| u64::from_str_radix(text, 16).with_context(|| format!("seed `{text}`"));
        Ok([number(&self.seed[0])?, number(&self.seed[1])?])
    }

    /// Applies a change; a change of something that does not exist does nothing.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Backend { number, state } => {
                if let Some(backend) = self.backends.get_mut((*number as usize).wrapping_sub(1)) {
                    backend.state = *state;
                }
            }
            Change::Slot { service, slot, to } => {
                let service = self.services.get_mut(*service as usize);
                if let Some(word) = service.and_then(|service| service.slots.get_mut(*slot as usize)) {
                    *word = *to;
                }
            }
            Change::Balance { service, to } => {
                if let Some(service) = self.services.get_mut(*service as usize) {
                    service.balance = *to;
                }
            }
            Change::Silence => {}
        }
    }

    /// Checks that numbers and families agree with each other.
    ///
    /// # Errors
    /// Names the parts that do not agree.
    pub fn check(&self) -> Result<()> {
        self.seed()?;
        for backend in &self.backends {
            if backend.address.is_ipv4() != backend.source.is_ipv4() {
                bail!("backend {}: an outer header has one family", backend.address);
            }
            if backend.source_bits > 32 {
                bail!("backend {}: source_bits is at most 32", backend.address);
            }
        }
        for service in &self.services {
            if service.balance != Balance::Hash && !service.always {
                bail!("service {}: only one that writes every flow down balances", service.listen);
            }
            let family = if service.listen.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            let longest = if family == Family::Ipv4 { 32 } else { 128 };
            if service.source_bits.max(service.old_source_bits) > longest {
                bail!("service {}: a client's address has {longest} bits", service.listen);
            }
            for slot in service.slots.iter().chain(&service.old_slots) {
                for number in slot.owners().into_iter().filter(|number| *number != 0) {
                    let backend = self.backends.get(number as usize - 1);
                    if backend.is_none_or(|backend| backend.carries != family) {
                        bail!("service {}: slot `{slot}` names no backend for its family", service.listen);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_as_it_is_written() -> Result<()> {
        for text in ["0", "2", "2!", "0!", "2<1", "2<2", "0<1", "2<ring"] {
            assert_eq!(text.parse::<Slot>()?.to_string(), text);
        }
        for text in ["", "x", "2<0", "2!!", "1001", "-1"] {
            assert!(text.parse::<Slot>().is_err(), "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_scene_is_read_as_it_is_written() -> Result<()> {
        let text = "about = \"one\"\ndecap = [\"192.0.2.1\"]\n\n[[backend]]\naddress = \"10.1.0.1\"\n\
            source = \"10.0.0.1\"\ncarries = \"ipv4\"\nvia = \"other\"\n\n[[service]]\nlisten = \"203.0.113.10:443\"\n\
            protocol = \"tcp\"\nslots = [\"1\", \"0<1\"]\n";
        let scene: Scene = toml::from_str(text)?;
        scene.check()?;
        assert_eq!(toml::from_str::<Scene>(&toml::to_string(&scene)?)?, scene);
        assert!(toml::from_str::<Scene>("wrong = 1").is_err());
        Ok(())
    }
}
