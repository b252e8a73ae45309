//! Starting other programs: said before, awaited, and failing with the command line in the message.

use std::{
    ffi::OsStr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let word = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '=' | ':' | ',' | '@' | '+')
        };
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let mut text = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            text.push(format!("{}={}", name.to_string_lossy(), word(value)));
        }
    }
    text.push(word(command.get_program()));
    text.extend(command.get_args().map(word));
    text.join(" ")
}

/// How a program ended, in words.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

/// Runs it with our own output; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("`{}` ended with {}", shown(command), ending(status));
    }
    Ok(())
}

/// Runs it and returns what it printed, without the last line end; its error output goes into the error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}: {}", shown(command), ending(output.status), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Whether it ends with exit code 0; nothing is shown.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// As [`run`], but ended after `limit`.
pub fn run_within(limit: Duration, command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{program}`"))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().ok();
            child.wait().ok();
            bail!("`{}` was ended after {}", shown(command), crate::ui::duration(limit));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        bail!("`{}` ended with {}", shown(command), ending(status));
    }
    Ok(())
}

/// This program's file. When a build has put a new one in its place since it was started, that one.
pub fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    // The kernel says so behind the name (proc(5), /proc/pid/exe).
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.filter(|path| path.exists()).unwrap_or(path))
}

/// Where a program is, looked for as a shell does, and in the system directories an ordinary user's `PATH` lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command.env("A", "1 2").args(["build", "-p", "it's"]);
        assert_eq!(shown(&command), r"A='1 2' cargo build -p 'it'\''s'");
    }

    #[test]
    fn a_failing_command_names_itself_and_its_end() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'exit 3'` ended with exit code 3");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let error =
            run_within(Duration::from_millis(50), Command::new("sleep").arg("9")).unwrap_err().to_string();
        assert_eq!(error, "`sleep 9` was ended after 50 ms");
    }

    #[test]
    fn a_program_is_found_by_its_name() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
