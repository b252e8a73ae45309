//! Names of services and backends, asked of the running agent. The one who presses the key waits: there is little time, and
//! no agent, or one that does not answer, is no error.

use std::{
    collections::BTreeMap,
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::Candidate;
use crate::{api::view, instance::paths::check_instance};

/// For the whole answer.
const TIME: Duration = Duration::from_millis(500);
/// The longest answer, in bytes: that of a million backends is shorter.
const MOST: u64 = 64 << 20;

/// Services with the names of their backends.
pub(super) type Names = BTreeMap<String, Vec<String>>;

/// Asks the agent that options or the environment name.
pub(super) fn ask(socket: Option<PathBuf>, instance: Option<String>) -> Names {
    let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let instance = instance.or_else(|| given("LB_INSTANCE")).unwrap_or_else(|| "main".to_owned());
    let socket = socket.or_else(|| given("LB_SOCKET").map(PathBuf::from));
    let Some(socket) =
        socket.or_else(|| Some(format!("/run/lb/{}.sock", check_instance(&instance).ok()?).into()))
    else {
        return Names::new();
    };
    get(&socket).unwrap_or_default()
}

fn get(socket: &PathBuf) -> Option<Names> {
    let deadline = Instant::now() + TIME;
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_write_timeout(Some(TIME)).ok()?;
    stream.write_all(b"GET /v1/names HTTP/1.1\r\nhost: lb\r\nconnection: close\r\n\r\n").ok()?;
    let (mut answer, mut part) = (Vec::new(), [0; 64 * 1024]);
    loop {
        // A read that is allowed no time is refused.
        stream.set_read_timeout(Some(deadline.checked_duration_since(Instant::now())?)).ok()?;
        match stream.read(&mut part).ok()? {
            0 => break,
            got => answer.extend_from_slice(part.get(..got)?),
        }
        if answer.len() as u64 > MOST {
            return None;
        }
    }
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    answer.starts_with(b"HTTP/1.1 200 ").then_some(())?;
    serde_json::from_slice::<view::Names>(answer.get(body..)?).ok().map(|names| names.services)
}

pub(super) fn services(names: &Names) -> Vec<Candidate> {
    names.keys().map(|name| Candidate::new(name, "service")).collect()
}

/// Services first, and the backends of one that is typed.
pub(super) fn backends(names: &Names, current: &str) -> Vec<Candidate> {
    match current.split_once('/') {
        None => names.keys().map(|name| Candidate::new(format!("{name}/"), "service")).collect(),
        Some((service, _)) => {
            let backends = names.get(service).into_iter().flatten();
            backends.map(|name| Candidate::new(format!("{service}/{name}"), "backend")).collect()
        }
    }
}

pub(super) fn of_service(names: &Names, service: &str) -> Vec<Candidate> {
    names.get(service).into_iter().flatten().map(|name| Candidate::new(name, "backend")).collect()
}
