//! What the agent costs its host, as the kernel counts it (proc(5)).

use std::fs;

use crate::api::view::Process;

/// Ticks of a second in `/proc/self/stat`. The kernel's own rate is another matter: what user space sees is 100 on every
/// architecture that Rust knows but Alpha (include/uapi/asm-generic/param.h, `USER_HZ`).
const TICKS: f64 = 100.0;

/// What is known now; what cannot be read is 0.
pub(super) fn now() -> Process {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    parse(
        &read("/proc/self/stat"),
        &read("/proc/self/status"),
        &read("/proc/self/limits"),
        &read("/proc/stat"),
        open_files,
    )
}

fn parse(stat: &str, status: &str, limits: &str, system: &str, open_files: u64) -> Process {
    // The name of the program is in parentheses and may have blanks; the third field follows it.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field =
        |number: usize| -> f64 { fields.get(number - 3).and_then(|field| field.parse().ok()).unwrap_or(0.0) };
    let line = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let boot = line(system, "btime") as f64;
    Process {
        cpu_seconds: (field(14) + field(15)) / TICKS,
        start_time: if boot > 0.0 { boot + field(22) / TICKS } else { 0.0 },
        resident_bytes: line(status, "VmRSS:") * 1024,
        virtual_bytes: line(status, "VmSize:") * 1024,
        threads: line(status, "Threads:"),
        open_files,
        most_files: line(limits, "Max open files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_program_is_called() {
        let stat = "7 (l) b d) S 1 7 7 0 -1 4 9 0 0 0 150 50 0 0 20 0 3 0 1000 99 9 18446744073709551615 1";
        let process = parse(
            stat,
            "Name:\tlbd\nVmSize:\t  2048 kB\nVmRSS:\t   1024 kB\nThreads:\t3\n",
            "Limit  Soft  Hard\nMax open files            1024                 4096                 files     \n",
            "cpu 1 2\nbtime 1700000000\n",
            5,
        );
        let expected = Process {
            cpu_seconds: 2.0,
            start_time: 1_700_000_010.0,
            resident_bytes: 1 << 20,
            virtual_bytes: 2 << 20,
            threads: 3,
            open_files: 5,
            most_files: 1024,
        };
        assert_eq!(process, expected);
        assert_eq!(parse("", "", "", "", 0), Process::default(), "nothing can be read");
    }

    #[test]
    fn the_kernel_answers_for_this_process() {
        let process = now();
        assert!(process.resident_bytes > 0 && process.virtual_bytes > process.resident_bytes, "{process:?}");
        assert!(process.threads > 0 && process.open_files > 2 && process.most_files > 2, "{process:?}");
        let since_1970 =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((since_1970 - process.start_time).abs() < 3_600.0, "{process:?}");
    }
}
