//! The form of a line of the log: for a terminal or a file, for the journal of systemd, or as JSON. Each module decides
//! what it logs; the levels of events are in [`crate::api::kind`].

use std::{
    env, fmt,
    io::{self, Write},
    os::unix::ffi::OsStrExt as _,
};

use env_logger::fmt::style::Style;
use log::{Level, LevelFilter, Record, kv::Key};
use nix::sys::stat::fstat;
use serde_json::{Map, Value};

use crate::{
    printable::printable,
    tools::{cli::Format, say::complain},
};

/// What is the same for every line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    format: Format,
    /// Standard error goes to the journal, which records the time itself and takes a priority (sd-daemon(3)).
    journal: bool,
}

/// Sets up the logger of the process; `LB_LOG` in the environment overrides both levels.
pub fn init(level: LevelFilter, program: LevelFilter, format: Format) -> Logger {
    let layout = Layout { format, journal: is_journal(env::var_os("JOURNAL_STREAM").as_deref()) };
    // The program's own records appear at the level that the operator asked for.
    env_logger::Builder::new()
        .filter_level(level)
        .filter_module("lb_ebpf", program)
        .parse_env("LB_LOG")
        .format(move |out, record| {
            let time = out.timestamp_millis().to_string();
            let line = layout.line(record, &time, out.default_level_style(record.level()));
            out.write_all(line.as_bytes())
        })
        .init();
    Logger(layout)
}

/// The logger of the process.
#[derive(Debug)]
pub struct Logger(Layout);

impl Logger {
    /// Reports why the process ends. Bare text, as from any command, where neither the journal nor `--log-format` asks
    /// for another form.
    pub fn ends(&self, lines: &str) {
        for line in lines.lines() {
            if (self.0.journal || self.0.format == Format::Json)
                && log::log_enabled!(target: "lb", Level::Error)
            {
                log::error!(target: "lb", "{line}");
            } else {
                complain(&format!("{line}\n"));
            }
        }
    }
}

/// Whether standard error is the stream that systemd has named.
fn is_journal(named: Option<&std::ffi::OsStr>) -> bool {
    let Some(named) = named else { return false };
    fstat(io::stderr())
        .is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino).as_bytes() == named.as_bytes())
}

impl Layout {
    fn line(self, record: &Record<'_>, time: &str, style: Style) -> String {
        let text = match self.format {
            Format::Json => json(record, time),
            Format::Text => text(record),
        };
        match (self.journal, self.format) {
            // For the journal, each line is an entry of its own.
            (true, _) => text.lines().map(|line| format!("<{}>{line}\n", priority(record.level()))).collect(),
            (false, Format::Json) => text + "\n",
            (false, Format::Text) => {
                let level = record.level().as_str();
                format!("{time} {style}{level:5}{style:#} {text}\n")
            }
        }
    }
}

/// The priority of syslog (sd-daemon(3)).
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// `kind: object: message`, without the empty parts. Text from outside must not look like a line of ours, or move the
/// cursor: control characters are written as escapes, and lines after the first begin with blanks.
fn text(record: &Record<'_>) -> String {
    let mut parts = Vec::new();
    for key in ["kind", "object"] {
        parts.extend(field(record, key));
    }
    // The module that logs: of interest to developers.
    if record.level() > Level::Info && parts.is_empty() {
        parts.push(record.target().to_owned());
    }
    let message = record.args().to_string();
    if !message.is_empty() {
        parts.push(message);
    }
    let text = parts.join(": ");
    let lines: Vec<String> = text.trim_end().split('\n').map(printable).collect();
    lines.join("\n  ")
}

/// A field in addition to the message, if it is there and not empty.
fn field(record: &Record<'_>, key: &str) -> Option<String> {
    record.key_values().get(Key::from_str(key)).map(|value| value.to_string()).filter(|text| !text.is_empty())
}

fn json(record: &Record<'_>, time: &str) -> String {
    let mut object = Map::new();
    let mut put = |key: &str, value: &dyn fmt::Display| {
        object.insert(key.to_owned(), Value::String(value.to_string()));
    };
    put("time", &time);
    put("level", &record.level().as_str().to_lowercase());
    put("target", &record.target());
    for key in ["kind", "object", "user"] {
        if let Some(text) = field(record, key) {
            put(key, &text);
        }
    }
    put("message", record.args());
    if let Some(uid) = record.key_values().get(Key::from_str("uid")).and_then(|uid| uid.to_u64()) {
        object.insert("uid".to_owned(), uid.into());
    }
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-02-28T12:00:00.000Z";

    fn line(format: Format, journal: bool, level: Level, fields: &[(&str, &str)], message: &str) -> String {
        let fields: Vec<_> = fields.to_vec();
        Layout { format, journal }.line(
            &Record::builder()
                .level(level)
                .target("lb")
                .key_values(&fields)
                .args(format_args!("{message}"))
                .build(),
            TIME,
            Style::new(),
        )
    }

    const EVENT: &[(&str, &str)] = &[("kind", "backend_down"), ("object", "web/web-1")];

    #[test]
    fn a_file_gets_time_and_level_journald_a_priority() {
        let said = line(Format::Text, false, Level::Warn, EVENT, "connection refused");
        assert_eq!(said, format!("{TIME} WARN  backend_down: web/web-1: connection refused\n"));
        for (level, priority) in [(Level::Error, 3), (Level::Warn, 4), (Level::Info, 6), (Level::Debug, 7)] {
            let said = line(Format::Text, true, level, EVENT, "x");
            assert_eq!(said, format!("<{priority}>backend_down: web/web-1: x\n"));
        }
    }

    #[test]
    fn nothing_empty_is_written() {
        let fields = [("kind", "apply_failed"), ("object", "")];
        assert_eq!(
            line(Format::Text, true, Level::Info, &fields, "no memory"),
            "<6>apply_failed: no memory\n"
        );
        let fields = [("kind", "started"), ("object", "main")];
        assert_eq!(line(Format::Text, true, Level::Info, &fields, ""), "<6>started: main\n");
    }

    #[test]
    fn every_line_of_a_message_has_the_priority() {
        let said = line(Format::Text, true, Level::Error, &[], "refused\n<3>backend_up: \u{1b}[2Jx\r\n");
        assert_eq!(said, "<3>refused\n<3>  <3>backend_up: \\u{1b}[2Jx\n");
        let said = line(Format::Text, false, Level::Error, &[], "refused\n2026-01-01 INFO backend_up");
        assert_eq!(said, format!("{TIME} ERROR refused\n  2026-01-01 INFO backend_up\n"));
    }

    #[test]
    fn json_is_one_object_a_line_whatever_is_in_the_message() {
        let said = line(Format::Json, false, Level::Warn, EVENT, "a\n\"b\"\u{1b}");
        assert_eq!(said.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&said).unwrap();
        let expected = serde_json::json!({
            "time": TIME, "level": "warn", "target": "lb", "kind": "backend_down", "object": "web/web-1",
            "message": "a\n\"b\"\u{1b}",
        });
        assert_eq!(value, expected);
        let said = line(Format::Json, true, Level::Warn, &[], "x");
        assert!(said.starts_with("<4>{\"") && !said.contains("kind"), "{said}");
    }

    #[test]
    fn only_the_stream_that_was_named_is_the_journal() {
        let stat = fstat(io::stderr()).unwrap();
        let own = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(own.as_ref())));
        assert!(
            !is_journal(Some("8:1".as_ref())) && !is_journal(Some("nonsense".as_ref())) && !is_journal(None)
        );
    }
}
