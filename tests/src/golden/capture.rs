//! A golden capture as it is in its folder: the configuration, the packets that came, the packets that left, and the
//! expected result for each.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::pcap::{self, Seen};
use crate::{checkout, model::Program};

/// Everything in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The folder's name.
    pub name: String,
    /// `config.toml`: a configuration of `lbd`.
    pub config: String,
    /// `in.pcap`: packet N is at second N.
    pub came: Vec<Vec<u8>>,
    /// `out.pcap`: the packets that were forwarded or passed, each at the second of the packet that it was made of.
    pub went: Vec<Seen>,
    /// `expect.json`.
    pub expect: Expect,
}

/// The expected results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The behaviour, in a sentence.
    pub about: String,
    pub program: Program,
    pub packets: Vec<Packet>,
    /// How far each counter went up in total.
    pub counters: BTreeMap<String, u64>,
    /// Traffic by service, and by backend as `SERVICE/BACKEND`; services and backends without traffic are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Traffic>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<String, Traffic>,
}

/// A packet, and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// Steps before this packet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// The packet in words, if it was made of words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
    /// Bytes of metadata in front of the packet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub metadata: u16,
    pub verdict: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Where the packet was sent: `SERVICE/BACKEND`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    pub packets: u64,
    /// From the inner IP header on.
    pub bytes: u64,
    /// SYN without ACK.
    pub connections: u64,
}

/// The directory of all captures.
pub fn directory() -> PathBuf {
    checkout::fixtures("golden")
}

/// Whether this may be the name of a folder: lower-case words joined by dashes.
pub fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.len() <= 80 && name.split('-').all(word)
}

impl Capture {
    /// Reads a folder.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(folder: &Path) -> Result<Self> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(is_name(&name), "{}: not lower-case words joined by dashes", folder.display());
        let bytes = |file: &str| {
            let path = folder.join(file);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let frames = |file: &str| pcap::read(&bytes(file)?).with_context(|| format!("{name}/{file}"));
        let text = |file: &str| String::from_utf8(bytes(file)?).with_context(|| format!("{name}/{file}"));
        let expect: Expect =
            serde_json::from_str(&text("expect.json")?).with_context(|| format!("{name}/expect.json"))?;
        let came: Vec<_> = frames("in.pcap")?.into_iter().map(|seen| seen.frame).collect();
        let (config, went) = (text("config.toml")?, frames("out.pcap")?);
        if came.len() != expect.packets.len() {
            bail!("{name}: {} packets in in.pcap, {} in expect.json", came.len(), expect.packets.len());
        }
        Ok(Self { name, config, came, went, expect })
    }

    /// Writes the capture's folder under a directory, and replaces files that exist.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        let folder = directory.join(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let came: Vec<Seen> =
            (1..).zip(&self.came).map(|(second, frame)| Seen { second, frame: frame.clone() }).collect();
        let expect = serde_json::to_string_pretty(&self.expect)? + "\n";
        for (file, bytes) in [
            ("config.toml", self.config.as_bytes()),
            ("in.pcap", &pcap::write(&came)),
            ("out.pcap", &pcap::write(&self.went)),
            ("expect.json", expect.as_bytes()),
        ] {
            let path = folder.join(file);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(folder)
    }
}

/// Every capture of a directory, by name.
pub fn all(directory: &Path) -> Result<Vec<Capture>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    folders.iter().map(|folder| Capture::read(folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_read_as_it_is_written() -> Result<()> {
        let packet = Packet {
            before: vec!["window-over".into()],
            packet: None,
            metadata: 4,
            verdict: "forwarded_tx".into(),
            events: Vec::new(),
            backend: Some("web/b1".into()),
        };
        let capture = Capture {
            name: "a-name".into(),
            config: "[node]\n".into(),
            came: vec![vec![0; 20]],
            went: vec![Seen { second: 1, frame: vec![1; 40] }],
            expect: Expect {
                about: "One.".into(),
                program: Program::LbXdp,
                packets: vec![packet],
                counters: BTreeMap::from([("forwarded_tx".into(), 1)]),
                services: BTreeMap::new(),
                backends: BTreeMap::from([(
                    "web/b1".into(),
                    Traffic { packets: 1, bytes: 20, connections: 0 },
                )]),
            },
        };
        let directory = tempfile::tempdir()?;
        capture.write(directory.path())?;
        assert_eq!(all(directory.path())?, [capture]);
        Ok(())
    }

    #[test]
    fn names_are_words_joined_by_dashes() {
        assert!(is_name("tcp-syn-to-ipv6"));
        for name in ["", "A", "a b", "-a", "a--b", "a/b", "..", "a_b"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("one"))?;
        let error = all(directory.path()).unwrap_err().to_string();
        assert!(error.contains("one/expect.json"), "{error}");
        Ok(())
    }
}
