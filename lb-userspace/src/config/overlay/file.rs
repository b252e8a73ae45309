//! The overlay's file: one JSON document, written whole.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Entry, Key, Overlay};
use crate::config::{
    atomic_file,
    diagnostic::{Diagnostic, Kind, Place},
    value_tree::{Data, Node, Table},
};

/// Version of the format. A file of another version is refused, not guessed at.
const VERSION: u32 = 1;

/// The largest file that is read, in bytes.
const LONGEST: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    changes: Vec<Change>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    change: Verb,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    values: Map<String, Value>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Add,
    Set,
    Remove,
}

/// Where the overlay of an instance is kept.
pub fn path(state_directory: &Path, instance: &str) -> PathBuf {
    state_directory.join(format!("{instance}.overlay.json"))
}

/// Reads the overlay; without a file the overlay is empty.
///
/// # Errors
///
/// The file cannot be read, or is not what [`store`] wrote.
pub(in crate::config) fn load(path: &Path) -> Result<Overlay, Diagnostic> {
    let wrong = |message: String| Diagnostic {
        place: Place::File(path.display().to_string().into()),
        object: String::new(),
        message: format!("{message}; move the file away to go on without what was changed at run time"),
        kind: Kind::Unreadable,
    };
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)) {
        Ok(length) if length as u64 > LONGEST => Err(wrong("the file is longer than 64 MiB".to_owned())),
        Ok(_) => decode(&bytes).map_err(wrong),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Overlay::default()),
        Err(error) => Err(wrong(format!("cannot read the run-time changes: {error}"))),
    }
}

/// Writes the overlay so that a crash leaves the old one or the new one. An empty overlay has no file.
///
/// # Errors
///
/// Any error of the file system; the old file is still there then.
pub(in crate::config) fn store(overlay: &Overlay, path: &Path) -> std::io::Result<()> {
    if overlay.is_empty() {
        return atomic_file::remove(path);
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut bytes = serde_json::to_vec_pretty(&encode(overlay))?;
    bytes.push(b'\n');
    atomic_file::write(path, &bytes, 0o600)
}

fn encode(overlay: &Overlay) -> Stored {
    let change = |(key, entry): (&Key, &Entry)| {
        let (change, values) = match entry {
            Entry::Add(values) => (Verb::Add, Some(values)),
            Entry::Set(values) => (Verb::Set, Some(values)),
            Entry::Remove => (Verb::Remove, None),
        };
        let values = match values.map(Table::to_json) {
            Some(Value::Object(values)) => values,
            _ => Map::new(),
        };
        Change { service: key.service.clone(), backend: key.backend.clone(), change, values }
    };
    Stored { version: VERSION, changes: overlay.0.iter().map(change).collect() }
}

fn decode(bytes: &[u8]) -> Result<Overlay, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // Read the version first: other versions may have other members.
    let Versioned { version } = serde_json::from_slice(bytes)
        .map_err(|error| format!("this is not a valid file of run-time changes: {error}"))?;
    if version != VERSION {
        return Err(format!("the run-time changes are of version {version}, this program reads {VERSION}"));
    }
    let stored: Stored = serde_json::from_slice(bytes)
        .map_err(|error| format!("this is not a valid file of run-time changes: {error}"))?;
    let mut overlay = Overlay::default();
    for Change { service, backend, change, values } in stored.changes {
        let key = Key { service, backend };
        let node = Node::from_json(&Value::Object(values), Place::Overlay(key.path().into()));
        let table = match node.data {
            Data::Table(table) => table,
            _ => Table::default(),
        };
        let entry = match change {
            Verb::Add => Entry::Add(table),
            Verb::Set => Entry::Set(table),
            Verb::Remove => Entry::Remove,
        };
        let label = key.to_string();
        if overlay.0.insert(key, entry).is_some() {
            return Err(format!("{label} appears twice in the run-time changes"));
        }
    }
    Ok(overlay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"version": 1, "changes": [
        {"service": "web", "change": "set", "values": {"health": false, "on_down": null}},
        {"service": "web", "backend": "web-1", "change": "remove"},
        {"service": "web", "backend": "web-9", "change": "add", "values": {"address": "10.0.0.9"}}]}"#;

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        // `store` makes the directory.
        let path = path(&directory.path().join("state"), "main");
        assert!(path.ends_with("state/main.overlay.json"));
        let overlay = decode(TEXT.as_bytes()).unwrap();
        store(&overlay, &path).unwrap();
        let again = load(&path).unwrap();
        assert_eq!(format!("{overlay:?}"), format!("{again:?}"));
        assert_eq!(again.len(), 3);
    }

    #[test]
    fn an_empty_overlay_has_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        assert!(load(&path).unwrap().is_empty());
        store(&decode(TEXT.as_bytes()).unwrap(), &path).unwrap();
        store(&Overlay::default(), &path).unwrap();
        assert!(!path.exists());
        store(&Overlay::default(), &path).unwrap();
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_with_a_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (text, why) in [
            ("", "not a valid file of run-time changes"),
            ("{", "not a valid file of run-time changes"),
            ("[]", "not a valid file of run-time changes"),
            (r#"{"version": 2, "steps": []}"#, "are of version 2, this program reads 1"),
            (r#"{"version": 1, "changes": [], "more": 1}"#, "unknown field `more`"),
            (r#"{"version": 1, "changes": [{"service": "a", "change": "grow"}]}"#, "unknown variant `grow`"),
            (
                r#"{"version": 1, "changes": [{"service": "a", "change": "remove"},
                    {"service": "a", "change": "remove"}]}"#,
                "service a appears twice in the run-time changes",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = load(&path).unwrap_err().to_string();
            assert!(message.contains(why) && message.contains("move the file away"), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let overlay = decode(TEXT.as_bytes()).unwrap();
        store(&overlay, &path).unwrap();
        let below_a_file = path.join("y").join("z");
        assert!(store(&overlay, &below_a_file).is_err());
        assert_eq!(load(&path).unwrap().len(), 3);
    }
}
