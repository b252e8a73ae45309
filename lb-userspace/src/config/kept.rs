//! The configuration that was in force last, kept in the state directory: an agent starts with it when its file is refused. A
//! typo in the file and then a reboot must not end all forwarding.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    atomic_file,
    configuration::Configuration,
    document::{self, LONGEST},
    overlay,
    spec::DEFAULT_STATE,
};

/// The beginning of the first line; the quoted name of the file that was in force follows.
const HEAD: &str = "# in force last, from ";

/// The file in which the last configuration of an instance is kept.
fn path(state_directory: &Path, instance: &str) -> PathBuf {
    state_directory.join(format!("{instance}.last.toml"))
}

fn head(file: &Path) -> String {
    format!("{HEAD}{:?}\n", file.display().to_string())
}

/// Keeps a text that is in force, unless it is kept already. The text holds the seed: no other user may read it.
///
/// # Errors
/// Any error of the file system.
pub fn store(state_directory: &Path, instance: &str, file: &Path, text: &str) -> io::Result<()> {
    let (path, wanted) = (path(state_directory, instance), head(file) + text);
    if fs::read(&path).is_ok_and(|kept| kept == wanted.as_bytes()) {
        return Ok(());
    }
    fs::create_dir_all(state_directory)?;
    atomic_file::write(&path, wanted.as_bytes(), 0o600)
}

/// Whether any text of `file` was in force before, no matter what the file says now.
pub fn was_in_force(state_directory: &Path, instance: &str, file: &Path) -> bool {
    matches!(text_of(&path(state_directory, instance), file), Ok(Some(_)))
}

/// The configuration that was in force last from `file`, with the present run-time changes; `None` = no text of `file` is kept,
/// or the kept text is refused, too.
pub fn load(file: &Path, instance: &str) -> Option<(PathBuf, Configuration)> {
    let text = fs::read(file).unwrap_or_default();
    let named = std::str::from_utf8(&text).ok().and_then(state_directory_of);
    let directories = named.into_iter().chain([PathBuf::from(DEFAULT_STATE)]);
    let paths = directories.map(|directory| path(&directory, instance));
    paths.into_iter().find_map(|kept| {
        let text = text_of(&kept, file).ok()??;
        let document = document::parse(text.as_bytes(), &kept.display().to_string()).ok()?;
        let overlay = overlay::load(&overlay::path(&document.spec.node.state_directory, instance)).ok()?;
        Some((kept, Configuration::new(document, &overlay)))
    })
}

/// The text that is kept at `path`, if it came from `file`.
fn text_of(path: &Path, file: &Path) -> io::Result<Option<String>> {
    let bytes = match document::read_trusted(path) {
        Ok(bytes) if bytes.len() <= LONGEST => bytes,
        Ok(_) => return Ok(None),
        Err(_) => return Err(ErrorKind::NotFound.into()),
    };
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(text.strip_prefix(&head(file)).map(str::to_owned))
}

/// The state directory that a text names. It reads past errors: the text may be the one that is refused.
fn state_directory_of(text: &str) -> Option<PathBuf> {
    let (table, _) = DeTable::parse_recoverable(text);
    let node = table.get_ref().get("node")?;
    let DeValue::Table(node) = node.get_ref() else { return None };
    let DeValue::String(directory) = node.get("state_directory")?.get_ref() else { return None };
    Some(PathBuf::from(directory.as_ref())).filter(|directory| directory.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::SMALL;

    #[test]
    fn the_last_configuration_is_found_for_a_broken_file() {
        let directory = tempfile::tempdir().unwrap();
        let (state, file) = (directory.path().join("state"), directory.path().join("lb.toml"));
        let text =
            SMALL.replace("seed =", &format!("state_directory = {:?}\nseed =", state.display().to_string()));
        store(&state, "main", &file, &text).unwrap();
        for broken in
            [text.replace("tcp/192", "tpc/192"), format!("{text}[[service\n"), format!("{text}[x\nseed = 1")]
        {
            fs::write(&file, broken).unwrap();
            let (kept, configuration) = load(&file, "main").expect("it is kept");
            assert_eq!(kept, state.join("main.last.toml"));
            assert_eq!(configuration.document().text, text);
        }
        assert!(load(&file, "other").is_none(), "of another instance");
        assert!(was_in_force(&state, "main", &file) && !was_in_force(&state, "other", &file));
        assert!(!was_in_force(&state, "main", &directory.path().join("b.toml")), "of another file");
        fs::copy(&file, directory.path().join("b.toml")).unwrap();
        assert!(load(&directory.path().join("b.toml"), "main").is_none(), "of another file");
        // A later version may refuse the kept text: then there is no configuration to fall back on.
        store(&state, "main", &file, "[node]\n").unwrap();
        assert!(load(&file, "main").is_none());
    }

    #[test]
    fn the_kept_file_is_private_and_written_on_change() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = Path::new("/etc/lb/lb.toml");
        let keep = |text: &str| {
            store(directory.path(), "main", file, text).unwrap();
            fs::metadata(directory.path().join("main.last.toml")).unwrap()
        };
        let first = keep(SMALL);
        assert_eq!(first.mode() & 0o777, 0o600);
        assert_eq!(keep(SMALL).ino(), first.ino());
        assert_ne!(keep("other").ino(), first.ino());
    }
}
