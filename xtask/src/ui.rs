//! What people see: marks, colours (on a terminal only), aligned tables. No decision is made here.

use std::{
    io::{IsTerminal, stdout},
    sync::OnceLock,
    time::Duration,
};

/// Whether standard output takes colours: a terminal, and no request for plain text (<https://no-color.org>).
pub fn colour() -> bool {
    static COLOUR: OnceLock<bool> = OnceLock::new();
    *COLOUR.get_or_init(|| {
        stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    })
}

fn paint(code: &str, text: &str) -> String {
    if colour() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub fn green(text: &str) -> String {
    paint("32", text)
}

pub fn red(text: &str) -> String {
    paint("31", text)
}

pub fn yellow(text: &str) -> String {
    paint("33", text)
}

pub fn bold(text: &str) -> String {
    paint("1", text)
}

pub fn dim(text: &str) -> String {
    paint("2", text)
}

/// Announces something that takes a while, before it begins.
pub fn step(text: &str) {
    println!("{}", step_line(text));
}

/// The line of [`step`].
pub fn step_line(text: &str) -> String {
    format!("{} {text}", bold("==>"))
}

/// A duration as people say it: `3 ms`, `1.2 s`, `2 min 5 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{} ms", time.as_millis())
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// `1 file`, `2 files`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Rows with columns aligned on the left, two spaces apart; the last column is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - visible(cell) + 2));
            }
        }
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    }
    text
}

/// Characters that take room: all but colour sequences.
fn visible(text: &str) -> usize {
    let mut length = 0;
    let mut escape = false;
    for character in text.chars() {
        match character {
            '\x1b' => escape = true,
            'm' if escape => escape = false,
            _ if !escape => length += 1,
            _ => {}
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let rows = [vec!["\x1b[32mok\x1b[0m".into(), "x".into()], vec!["missing".into(), "y".into()]];
        assert_eq!(table(&rows), "\x1b[32mok\x1b[0m       x\nmissing  y\n");
    }

    #[test]
    fn rows_end_without_spaces() {
        assert_eq!(table(&[vec!["a".into(), String::new()]]), "a\n");
    }

    #[test]
    fn durations_read_like_speech() {
        assert_eq!(duration(Duration::from_millis(7)), "7 ms");
        assert_eq!(duration(Duration::from_millis(1240)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
    }
}
