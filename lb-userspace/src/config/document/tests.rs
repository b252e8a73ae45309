//! Files that cannot be read, and the errors that report it.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::config::testing::{SMALL, lines};

fn errors(text: &[u8]) -> String {
    parse(text, "lb.toml").map_or_else(|errors| lines(&errors), |_| String::new())
}

const EXAMPLE: &str = include_str!("../../../doc/lb.toml");

/// A text of the documentation with a real seed in place of the placeholder.
fn with_a_seed(text: &str) -> String {
    text.replace("seed = \"…\"", "seed = \"my own\"")
}

#[test]
fn the_example_is_right() {
    assert_eq!(errors(with_a_seed(EXAMPLE).as_bytes()), "");
}

#[test]
fn the_example_and_the_reference_name_every_table() {
    for section in crate::config::keys::sections() {
        assert!(EXAMPLE.contains(&format!("{}\n", section.header)), "{}", section.header);
    }
}

#[test]
fn an_empty_file_gets_a_valid_minimal_example() {
    for text in ["", "\n\n", "# nothing\n"] {
        let reported = errors(text.as_bytes());
        assert!(reported.starts_with("lb.toml: the file is empty; the least it can say is:"), "{reported}");
    }
    let least = EMPTY.split_once("\n\n").map(|(_, least)| least).unwrap();
    assert_eq!(errors(with_a_seed(least).as_bytes()), "");
}

#[test]
fn a_large_file_is_refused_by_its_size() {
    let text = vec![b'#'; 10_000_000];
    assert!(errors(&text).starts_with("lb.toml: the file is longer than 4 MiB"));
    assert!(!errors(&text[..LONGEST]).contains("MiB"));
}

#[test]
fn an_endless_file_is_not_read_to_its_end() {
    assert_eq!(read(Path::new("/dev/zero")).unwrap().len(), LONGEST + 1);
}

#[test]
fn a_file_that_is_not_there_or_no_file_says_so() {
    let reported = lines(&read(Path::new("/nonexistent/lb.toml")).unwrap_err());
    assert!(
        reported.starts_with("/nonexistent/lb.toml: cannot read the configuration: No such file"),
        "{reported}"
    );
    assert!(lines(&read(Path::new("/")).unwrap_err()).contains("Is a directory"));
}

#[test]
fn a_file_reads_as_it_was_written() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(SMALL.as_bytes()).unwrap();
    assert_eq!(read(file.path()).unwrap(), SMALL.as_bytes());
}

#[test]
fn bytes_that_are_not_utf8_are_reported_by_place() {
    let reported = errors(b"[node]\n# caf\xe9\n");
    assert!(reported.starts_with("lb.toml:2:6: the file is not UTF-8: byte 0xe9 at offset 12"), "{reported}");
}

#[test]
fn all_syntax_errors_are_reported_by_place() {
    let reported =
        errors(b"[node]\nseed = abc\ninterface = \nmode = \"auto\"\nmode = \"auto\"\nmetrics = 5\n");
    assert_eq!(
        reported,
        "lb.toml:2:8: seed is not a valid value: put strings in quotes, \"like this\"\n\
         lb.toml:3:13: the value is missing\n\
         lb.toml:5:1: \"mode\" is given twice: keep one\n\
         lb.toml:6:11: node: metrics must be a string, not the number 5\n"
    );
}

#[test]
fn after_a_broken_header_nothing_is_guessed() {
    let text = SMALL.replace("[[service]]", "[[service]");
    assert_eq!(errors(text.as_bytes()), "lb.toml:5:11: not valid TOML: unclosed array table, expected `]`\n");
}

#[test]
fn an_unrecoverable_syntax_error_is_reported_alone() {
    let reported = errors(b"[node]\nseed \"s\"\n");
    assert_eq!(reported, "lb.toml:2:6: not valid TOML: key with no value, expected `=`\n");
}

#[test]
fn the_parser_survives_deep_and_long_nonsense() {
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        "= 1\n".repeat(20_000),
        "\0".repeat(10_000),
    ] {
        assert!(!errors(text.as_bytes()).is_empty());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, "f");
    }

    #[test]
    fn no_damage_to_a_file_panics_and_each_error_has_a_place(
        at in any::<prop::sample::Index>(), cut in 0usize..30, put in "[\\[\\]{}=\"'.,\n a-z0-9-]{0,12}",
    ) {
        let mut text = SMALL.to_owned();
        let from = at.index(text.len());
        let to = (from + cut).min(text.len());
        text.replace_range(from..to, &put);
        if let Err(errors) = parse(text.as_bytes(), "f") {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(error.to_string().starts_with("f:"), "{}", error);
            }
        }
    }
}
