//! A step between two packets, in words: `health web/b1 down`.

use std::{net::IpAddr, str::FromStr};

use anyhow::{Context as _, Result, bail, ensure};
use lb_userspace::{config::Change, health::Verdict};
use serde_json::{Map, Value};

/// The text about steps in `--help`.
pub const HELP: &str = "\
Steps in words:
  hop ADDRESS same|other|unknown [mtu=N]   a backend's next hop: out of the interface packets come in on (with an
                                           MTU of 1500: how all begin), out of another one, not known
  health SERVICE/BACKEND up|down|checking  what the health check says (up)
  set SERVICE[/BACKEND] KEY=VALUE...       as `lbctl service set`, `lbctl backend set`
  add SERVICE/BACKEND ADDRESS              as `lbctl backend add`
  remove SERVICE[/BACKEND]                 as `lbctl service remove`, `lbctl backend remove`
  window-over                              the time in which flows are learnt has passed for every slot
  settled                                  and no flow is left that is not at its slot's owner
  evicted                                  other flows push every flow out of the full flow table
  interface-gone                           the other interface vanishes
  unconfigured | other-version             the agent has not been there; another version of it has
  decap ADDRESS                            lb_decap takes headers off there; at first at every backend's address
  host ADDRESS                             the host itself has that address
  ingress-mtu N                            the MTU of the interface that packets come in on, which is not known at first";

/// The kinds of steps.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Hop { address: IpAddr, hop: Hop },
    Health { service: String, backend: String, verdict: Verdict },
    Change(Change),
    WindowOver,
    Settled,
    Evicted,
    InterfaceGone,
    Unconfigured,
    OtherVersion,
    Decap(IpAddr),
    Host(IpAddr),
    IngressMtu(u32),
}

/// The next hop of packets for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub via: Via,
    pub mtu: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Same,
    Other,
    Unknown,
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["hop", address, via, rest @ ..] => {
                let via = match *via {
                    "same" => Via::Same,
                    "other" => Via::Other,
                    "unknown" => Via::Unknown,
                    other => bail!("`{text}`: `{other}` is not one of same, other, unknown"),
                };
                let mtu = match rest {
                    [] => 1500,
                    [mtu] => mtu
                        .strip_prefix("mtu=")
                        .and_then(|mtu| mtu.parse().ok())
                        .with_context(|| format!("`{text}`: `{mtu}` is not mtu=N"))?,
                    _ => bail!("`{text}`: too many words"),
                };
                Self::Hop { address: ip(address, text)?, hop: Hop { via, mtu } }
            }
            ["health", object, verdict] => {
                let (service, backend) = both(object, text)?;
                let verdicts = [Verdict::Up, Verdict::Down, Verdict::Checking];
                let found = verdicts.into_iter().find(|known| known.name() == *verdict);
                let verdict = found
                    .with_context(|| format!("`{text}`: `{verdict}` is not one of up, down, checking"))?;
                Self::Health { service, backend, verdict }
            }
            ["set", object, pairs @ ..] => {
                ensure!(!pairs.is_empty(), "`{text}`: nothing is set");
                let body = Value::Object(pairs.iter().map(|pair| key(pair, text)).collect::<Result<_>>()?);
                Self::Change(match object.split_once('/') {
                    None => Change::ServiceSet { service: (*object).to_owned(), body },
                    Some((service, backend)) => {
                        Change::BackendSet { service: service.to_owned(), backend: backend.to_owned(), body }
                    }
                })
            }
            ["add", object, address] => {
                let (service, backend) = both(object, text)?;
                let mut body = Map::new();
                body.insert("name".to_owned(), backend.into());
                body.insert("address".to_owned(), (*address).into());
                Self::Change(Change::BackendAdd { service, body: body.into() })
            }
            ["remove", object] => Self::Change(match object.split_once('/') {
                None => Change::ServiceRemove { service: (*object).to_owned() },
                Some((service, backend)) => {
                    Change::BackendRemove { service: service.to_owned(), backend: backend.to_owned() }
                }
            }),
            ["window-over"] => Self::WindowOver,
            ["settled"] => Self::Settled,
            ["evicted"] => Self::Evicted,
            ["interface-gone"] => Self::InterfaceGone,
            ["unconfigured"] => Self::Unconfigured,
            ["other-version"] => Self::OtherVersion,
            ["host", address] => Self::Host(ip(address, text)?),
            ["ingress-mtu", mtu] => {
                Self::IngressMtu(mtu.parse().with_context(|| format!("`{text}`: `{mtu}` is not a number"))?)
            }
            ["decap", address] => Self::Decap(ip(address, text)?),
            _ => bail!("`{text}` is not a step; `cargo xtask golden add --help` lists them"),
        })
    }
}

fn ip(word: &str, text: &str) -> Result<IpAddr> {
    word.parse().with_context(|| format!("`{text}`: `{word}` is not an address"))
}

fn both(word: &str, text: &str) -> Result<(String, String)> {
    let both = word.split_once('/').with_context(|| format!("`{text}`: `{word}` is not SERVICE/BACKEND"))?;
    Ok((both.0.to_owned(), both.1.to_owned()))
}

/// A key with its value: JSON if the value is valid JSON, else a string.
fn key(pair: &str, text: &str) -> Result<(String, Value)> {
    let (key, value) =
        pair.split_once('=').with_context(|| format!("`{text}`: `{pair}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() {
        for text in [
            "hop 10.1.0.1 other mtu=1400",
            "health web/b1 down",
            "set web track=always max_backends=3",
            "set web/b1 state=draining",
            "add web/b9 10.1.0.9",
            "remove web/b1",
            "window-over",
            "evicted",
            "decap 2001:db8::1",
            "host 192.0.2.1",
            "ingress-mtu 1500",
        ] {
            text.parse::<Step>().unwrap();
        }
        let set = "set web/b1 weight=3".parse::<Step>().unwrap();
        let Step::Change(Change::BackendSet { body, .. }) = set else { panic!("{set:?}") };
        assert_eq!(body, serde_json::json!({ "weight": 3 }));
    }

    #[test]
    fn steps_that_are_wrong_name_the_word() {
        for (text, says) in [
            ("hop 10.1.0.1 away", "`away` is not one of same"),
            ("hop 10.1.0 same", "`10.1.0` is not an address"),
            ("hop 10.1.0.1 same mtu=x", "is not mtu=N"),
            ("health web up", "is not SERVICE/BACKEND"),
            ("health web/b1 fine", "`fine` is not one of up"),
            ("set web", "nothing is set"),
            ("set web track", "is not KEY=VALUE"),
            ("explode", "is not a step"),
        ] {
            let error = text.parse::<Step>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
