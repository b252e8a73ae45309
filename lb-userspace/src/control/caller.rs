//! Names of users, looked up without making a request wait: a directory service may be slow, or never answer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::unistd::{Uid, User};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::api::view::Caller;

/// How long a name is waited for; without it the number has to do.
const LOOKUP: Duration = Duration::from_millis(500);
/// Look-ups under way at once: those of a directory service that hangs must not pile up.
const AT_ONCE: usize = 4;
/// Names that are remembered.
const KNOWN: usize = 256;

/// The names that were looked up.
#[derive(Debug)]
pub(super) struct Users {
    known: Mutex<HashMap<u32, Option<String>>>,
    free: std::sync::Arc<Semaphore>,
}

impl Default for Users {
    fn default() -> Self {
        Self { known: Mutex::default(), free: Semaphore::new(AT_ONCE).into() }
    }
}

impl Users {
    /// Who that is.
    pub(super) async fn caller(&self, uid: u32, pid: Option<i32>) -> Caller {
        Caller { uid, user: self.name(uid).await, pid }
    }

    async fn name(&self, uid: u32) -> Option<String> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&uid) {
            return known.clone();
        }
        let place = std::sync::Arc::clone(&self.free).try_acquire_owned().ok()?;
        let (sender, answer) = oneshot::channel();
        // A thread of its own, which ends when it can: the runtime would wait for one of its pool when the agent stops.
        let look_up = move || {
            let name = User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|user| user.name));
            drop(place);
            // Without a receiver the name came too late.
            let _ = sender.send(name);
        };
        thread::Builder::new().name("user-name".to_owned()).spawn(look_up).ok()?;
        let name = timeout(LOOKUP, answer).await.ok()?.ok()?.ok()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < KNOWN {
            known.insert(uid, name.clone());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_has_a_name_and_a_stranger_a_number() {
        let users = Users::default();
        let root = users.caller(0, Some(7)).await;
        assert_eq!(root.to_string(), "root, uid 0, pid 7");
        assert_eq!(users.caller(0, None).await.to_string(), "root, uid 0", "remembered");
        assert_eq!(users.caller(4_000_000_000, None).await.to_string(), "uid 4000000000");
    }
}
