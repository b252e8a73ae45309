//! The version of the running kernel, and what it means where the kernel refuses a map or program of ours: an error then says
//! what to do, and is not only the verifier's log. lb-userspace/doc/install.md names the kernels that were tested;
//! `cargo xtask kernels` tests them.

use std::{fmt, fs};

use aya::programs::ProgramError;

/// A kernel's version, as far as it decides what the kernel can do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Release(u32, u32);

/// The oldest kernel that we run on: the first long-term release with XDP links, whose program can be replaced in place
/// (since 5.9).
const OLDEST: Release = Release(5, 10);

/// The first kernel whose generic path takes programs that redirect through a device map (commit 2ea5eabaf04a).
const GENERIC_REDIRECT: Release = Release(5, 15);

/// The first kernel whose tracepoints have a map's type and number, where older ones have the map (commit ee75aef23afe).
const REDIRECT_KIND: Release = Release(5, 13);

/// How many of the last lines of the verifier's log an error shows: the last lines name the reason.
const LAST_WORDS: usize = 6;

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

fn parse(release: &str) -> Option<Release> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some(Release(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The version of the running kernel; `None` when it cannot be read or parsed.
pub(crate) fn running() -> Option<Release> {
    parse(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

/// What the operator can do where the kernel refuses our maps or programs.
fn way_out(running: Option<Release>) -> String {
    match running {
        Some(running) if running < OLDEST => {
            format!(
                "this kernel is {running}, and {OLDEST} is the oldest that lb runs on: it needs a newer one"
            )
        }
        Some(running) => format!(
            "kernels from {OLDEST} on take it, so kernel {running} should: please report it, with what \
             `--log debug` shows of it"
        ),
        None => format!("lb needs a kernel from {OLDEST} on"),
    }
}

/// The error for a refused object, with what to do.
pub(crate) fn refused(error: &str) -> String {
    format!("{error}; {}", way_out(running()))
}

/// The error for a refused program: the reason, what to do, and the end of the verifier's log. The whole verifier log goes to
/// our log, at level debug.
pub(crate) fn refused_program(name: &str, error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            log::debug!("program {name}: the verifier says:\n{log}");
            described(name, &io_error.to_string(), &log, running())
        }
        other => refused(&format!("{name}: {other}")),
    }
}

fn described(name: &str, error: &str, log: &str, running: Option<Release>) -> String {
    let text = format!("the kernel does not take program {name} ({error}); {}", way_out(running));
    let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return text;
    }
    let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n  ");
    format!("{text}. The verifier's last words:\n  {last}")
}

/// The hint for a refused attachment in generic mode; empty when the age of the kernel does not explain the refusal.
pub(crate) fn generic_hint(running: Option<Release>) -> String {
    match running {
        Some(running) if running < GENERIC_REDIRECT => format!(
            "; kernel {running} takes no program that redirects in its generic path, which kernels from \
             {GENERIC_REDIRECT} on do: attach in native mode, or use a newer kernel"
        ),
        _ => String::new(),
    }
}

/// Which argument of the tracepoint `xdp_redirect_err` is the target of the redirect.
pub(crate) fn redirect_target_argument(running: Option<Release>) -> u32 {
    if running.is_some_and(|running| running < REDIRECT_KIND) { 5 } else { 6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_refused_with_the_version_needed() {
        let text = described("lb_xdp", "Invalid argument", "1: x\n\n2: y\n", parse("5.4.0-26-generic"));
        assert_eq!(
            text,
            "the kernel does not take program lb_xdp (Invalid argument); this kernel is 5.4, and 5.10 is the oldest \
             that lb runs on: it needs a newer one. The verifier's last words:\n  1: x\n  2: y"
        );
    }

    #[test]
    fn only_the_end_of_a_long_log_is_shown() {
        let log: String = (0..1000).map(|line| format!("{line}: x\n")).collect();
        let text = described("lb_xdp", "e", &log, parse("6.1.0"));
        assert!(text.contains("kernel 6.1 should: please report it"), "{text}");
        assert!(text.contains("\n  994: x\n") && text.ends_with("\n  999: x") && !text.contains("993: x"));
    }

    #[test]
    fn no_log_is_no_last_words() {
        assert!(!described("lb_xdp", "e", "", None).contains("last words"));
    }

    #[test]
    fn generic_redirect_needs_kernel_5_15() {
        assert!(generic_hint(parse("5.10.0-32-cloud-amd64")).contains("kernels from 5.15 on"));
        assert_eq!(generic_hint(parse("5.15.0")), "");
        assert_eq!(generic_hint(None), "");
    }

    #[test]
    fn the_running_kernel_says_what_it_is() {
        assert!(running().is_some_and(|release| release >= Release(4, 0)));
    }
}
