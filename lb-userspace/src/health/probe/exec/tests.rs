//! Commands that end well, and commands that hang, flood, fork, are missing or may not be run.

use nix::unistd::{geteuid, getpid};

use super::*;
use crate::wait::{self, LIMIT};

/// A user that may run commands here.
fn user() -> String {
    let found = match geteuid() {
        root if root.is_root() => User::from_name("daemon"),
        own => User::from_uid(own),
    };
    found.ok().flatten().map_or_else(|| "daemon".to_owned(), |user| user.name)
}

fn shell(script: &str) -> ExecProbe {
    ExecProbe { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), user: user() }
}

async fn run(probe: &ExecProbe, time: Duration) -> (Result<(), Failure>, Words) {
    let progress = Progress::default();
    let address = "192.0.2.7:8080".parse().unwrap();
    match ask(address, probe, Budget::new(time), &progress).await {
        Outcome::Answer(answer) => (answer, progress.words()),
        Outcome::Silence(_, words) => panic!("{words}"),
    }
}

async fn said(script: &str) -> Result<(), Failure> {
    run(&shell(script), LIMIT).await.0
}

fn backend(words: &str) -> Result<(), Failure> {
    Err(Failure::Backend(format!("exec: {words}")))
}

fn local(words: &str) -> Result<(), Failure> {
    Err(Failure::LocalError(format!("exec: {words}")))
}

#[tokio::test]
async fn the_exit_code_is_the_answer() {
    assert_eq!(said("exit 0").await, Ok(()));
    assert_eq!(said("exit 2").await, backend("exit code 2"));
    let words = "exit code 1: \"disk\\u{1b} full\"";
    assert_eq!(said("printf 'disk\\033 full\\nmore\\n'; exit 1").await, backend(words));
    assert_eq!(said("kill -9 $$").await, local("ended by signal 9"), "not the backend's fault");
}

#[tokio::test]
async fn a_first_line_may_ask_for_a_part_of_the_weight() {
    let percent = async |script: &str| run(&shell(script), LIMIT).await.1.percent;
    assert_eq!(percent("echo 75%").await, Some(75));
    assert_eq!(percent("printf ' 0%%'").await, Some(0));
    for other in ["echo; echo 75%", "echo 75", "echo drain", "echo 75% fine", "echo 75%; exit 1"] {
        assert_eq!(percent(other).await, None, "{other}");
    }
}

#[tokio::test]
async fn a_command_knows_its_backend_and_nothing_else() {
    let only = "test \"$(env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort | tr '\\n' ' ')\" = \
        'LB_ADDRESS=192.0.2.7 LB_PORT=8080 LB_TIMEOUT_MS=";
    let time = LIMIT.as_millis();
    assert_eq!(said(&format!("PATH=/usr/bin:/bin; {only}{time} '")).await, Ok(()));
    // Its files: input, output, errors, and what `ls` has opened to look.
    assert_eq!(said("test \"$(ls /proc/self/fd | wc -l)\" -le 4").await, Ok(()));
    assert_eq!(said("test -z \"$(cat)\" && test \"$PWD\" = /").await, Ok(()));
    assert_eq!(said("grep -q 'NoNewPrivs:.1' /proc/self/status").await, Ok(()));
    assert_eq!(said("grep -q 'CapEff:.0000000000000000' /proc/self/status").await, Ok(()));
    assert_eq!(said("test \"$(id -un)\" != root").await, Ok(()));
}

#[tokio::test]
async fn no_shell_reads_the_command() {
    let command = ["/bin/echo", "75%;", "$(exit", "1)", "|", "false"].map(str::to_owned).to_vec();
    assert_eq!(run(&ExecProbe { command, user: user() }, LIMIT).await, (Ok(()), Words::default()));
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pids");
    std::fs::write(&file, "").unwrap();
    let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
    std::fs::set_permissions(directory.path(), everyone(0o755)).unwrap();
    std::fs::set_permissions(&file, everyone(0o666)).unwrap();
    let script = format!(
        "(trap '' TERM HUP; echo $$ >> {0}; sleep 1000) & sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait",
        file.display()
    );
    let time = Duration::from_millis(3000);
    assert_eq!(run(&shell(&script), time).await.0, backend("no end within 3000 ms"));
    let pids = std::fs::read_to_string(&file).unwrap();
    assert!(pids.lines().count() >= 2, "{pids}");
    wait::until("they are gone", LIMIT, async || {
        let left = pids.lines().find(|pid| is_alive(pid));
        left.map_or(Ok(()), |pid| Err(pid.to_owned()))
    })
    .await;
}

/// Whether a process is there, and not only waits to be waited for.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed_at_its_end() {
    let script = "sleep 1000 > /dev/null & echo $!; exit 3";
    let Err(Failure::Backend(words)) = said(script).await else { panic!("passed") };
    let pid = words.rsplit('"').nth(1).unwrap().to_owned();
    wait::until("it is gone", LIMIT, async || if is_alive(&pid) { Err(pid.clone()) } else { Ok(()) }).await;
    // Nor is the end of a run held up by one that still has its output.
    assert_eq!(said("sleep 1000 & exit 0").await, Ok(()));
}

#[tokio::test]
async fn a_flood_of_output_ends_the_command() {
    assert_eq!(said("while :; do echo 75%; done").await, local("it has written more than 64 KiB"));
    assert_eq!(said("echo no; head -c 60000 /dev/zero; exit 1").await, backend("exit code 1: \"no\""));
    assert_eq!(said("head -c 9999999 /dev/zero >&2; exit 0").await, Ok(()), "errors are not looked at");
}

#[tokio::test]
async fn a_probe_that_is_taken_away_takes_its_command_with_it() {
    let marker = format!("{}.{}", getpid(), fastrand::u64(..));
    let script = format!(": {marker}; sleep 1000; :");
    let probe = tokio::spawn(async move { run(&shell(&script), Duration::from_secs(3600)).await });
    let runs = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok()).any(|line| {
            line.starts_with(b"/bin/sh") && line.windows(marker.len()).any(|part| part == marker.as_bytes())
        })
    };
    wait::until("it runs", LIMIT, async || if runs() { Ok(()) } else { Err("not yet".to_owned()) }).await;
    probe.abort();
    wait::until("it is gone", LIMIT, async || if runs() { Err("still".to_owned()) } else { Ok(()) }).await;
}

#[tokio::test]
async fn what_cannot_be_started_does_not_count_against_the_backend() {
    let directory = tempfile::tempdir().unwrap();
    let everyone = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
    std::fs::set_permissions(directory.path(), everyone(0o755)).unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, everyone(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (path, words) in [
        ("/no/such/program".to_owned(), "or the interpreter that it names, is not there"),
        (file("script", "#!/no/such/shell\n", 0o755), "or the interpreter that it names, is not there"),
        (file("plain", "exit 0\n", 0o644), "may not be executed by "),
        ("/".to_owned(), "may not be executed by "),
    ] {
        let said = run(&ExecProbe { command: vec![path.clone()], user: user() }, LIMIT).await.0;
        let Err(Failure::LocalError(why)) = said else { panic!("{path}: {said:?}") };
        assert!(why.starts_with("exec: ") && why.contains(words), "{why}");
    }
    for (user, words) in [
        ("root", "exec: user root is root: name one that may do little"),
        ("no-such-user", "exec: no-such-user is not a user of this host"),
    ] {
        let probe = ExecProbe { command: vec!["/bin/true".into()], user: user.into() };
        assert_eq!(run(&probe, LIMIT).await.0, Err(Failure::LocalError(words.to_owned())));
    }
}

#[tokio::test]
async fn more_than_there_is_room_for_are_not_asked() {
    let all = PLACES.acquire_many(AT_ONCE as u32).await.unwrap();
    let said = run(&shell("exit 0"), Duration::from_millis(100)).await.0;
    assert_eq!(said, local("32 commands run already"));
    drop(all);
    assert_eq!(run(&shell("exit 0"), LIMIT).await.0, Ok(()));
}
