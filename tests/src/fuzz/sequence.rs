//! A scene and its steps, packet by packet, and its form as a regression fixture: TOML, one file each under
//! `tests/fixtures/regress/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    checkout,
    model::{
        Program,
        scene::{Change, Scene},
    },
};

/// A scene with its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    pub scene: Scene,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Step {
    Packet(Packet),
    Change { change: Change },
}

/// A frame on its way through a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    #[serde(default)]
    pub program: Program,
    /// Bytes of metadata in front of the frame, which take this much headroom away. A multiple of 4.
    #[serde(default)]
    pub metadata: u16,
    #[serde(with = "hex")]
    pub frame: Vec<u8>,
}

/// Bytes as hexadecimal digits.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0);
        let digits = digits.ok_or_else(|| D::Error::custom("an even number of hexadecimal digits"))?;
        Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
    }
}

/// The directory of the regression fixtures.
pub fn directory() -> PathBuf {
    checkout::fixtures("regress")
}

impl Sequence {
    /// Checks that the scene is consistent, at first and after each change.
    pub fn check(&self) -> Result<()> {
        let mut scene = self.scene.clone();
        scene.check()?;
        for (number, step) in self.steps.iter().enumerate() {
            if let Step::Change { change } = step {
                scene.change(change);
                scene.check().with_context(|| format!("step {number}"))?;
            }
        }
        Ok(())
    }

    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let sequence: Self = toml::from_str(&text).with_context(|| format!("{}", file.display()))?;
        sequence.check().with_context(|| format!("{}", file.display()))?;
        Ok(sequence)
    }

    /// Writes the sequence to a file of this name, which must not exist.
    pub fn save(&self, directory: &Path, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let file = directory.join(format!("{name}.toml"));
        if file.exists() {
            bail!("{} is there already", file.display());
        }
        fs::write(&file, toml::to_string(self)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// Every regression fixture, by name.
pub fn fixtures() -> Result<Vec<(String, Sequence)>> {
    let mut all = Vec::new();
    let entries = match fs::read_dir(directory()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        Err(error) => return Err(error).context("cannot list the regression fixtures"),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.push((name, Sequence::read(&path)?));
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}
