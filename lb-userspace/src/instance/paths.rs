//! Where the files of one instance are on the host.

use std::path::{Path, PathBuf};

/// The instance if none is named.
pub const DEFAULT_INSTANCE: &str = "main";

/// The prefix of the names of the pin directories of `lb_decap`; no instance has such a name.
pub const DECAP_PREFIX: &str = "decap-";

/// Paths of an instance, all made from its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `/run/lb/<instance>.sock`
    pub socket: PathBuf,
    /// `/run/lb/<instance>.lock`: held, with our pid inside, as long as the agent runs.
    pub lock: PathBuf,
    /// `/sys/fs/bpf/lb/<instance>` by default: maps and links.
    pub pins: PathBuf,
}

impl Paths {
    /// The paths of `instance`, which has passed [`check_instance`]; `pins` is the directory in which instances have
    /// their pins.
    pub fn new(instance: &str, pins: &Path) -> Self {
        Self {
            socket: format!("/run/lb/{instance}.sock").into(),
            lock: Self::lock_of(instance),
            pins: pins.join(instance),
        }
    }

    /// The lock file of `instance`.
    pub fn lock_of(instance: &str) -> PathBuf {
        format!("/run/lb/{instance}.lock").into()
    }
}

/// Checks an instance's name: it becomes part of paths.
///
/// # Errors
/// What is wrong with the name, for people.
pub fn check_instance(name: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > 32 || !name.bytes().all(fits) {
        return Err("an instance is named by 1 to 32 letters, digits, `-` or `_`".to_owned());
    }
    if name.starts_with(DECAP_PREFIX) {
        return Err(format!("names beginning with `{DECAP_PREFIX}` are kept for `lbd decap`"));
    }
    Ok(name.to_owned())
}

/// The instance whose `lb_decap` has its pins in a directory of this name; `None` = it is not a directory of `lb_decap`.
pub fn instance_of_decap(directory: &str) -> Option<&str> {
    let interface = directory.strip_prefix(DECAP_PREFIX)?;
    Some(interface.split_once('@').map_or(DEFAULT_INSTANCE, |(_, instance)| instance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for bad in ["", "..", "a/b", "a b", "ä", "decap-eth0", &"x".repeat(33)] {
            assert!(check_instance(bad).is_err(), "{bad}");
        }
        assert_eq!(check_instance("edge-1"), Ok("edge-1".to_owned()));
    }
}
