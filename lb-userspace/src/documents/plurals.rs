//! Counts with their nouns: what the programs say of one thing is said in the singular.

use std::collections::BTreeSet;

use super::literals::{self, Literal};

/// What is counted. A noun of more than one word is known by its last one.
const NOUNS: &[&str] = &[
    "addresses",
    "answers",
    "attempts",
    "backends",
    "bits",
    "bytes",
    "certificates",
    "clients",
    "connections",
    "counters",
    "days",
    "descriptors",
    "entries",
    "errors",
    "events",
    "files",
    "flows",
    "frames",
    "hours",
    "interfaces",
    "keys",
    "lines",
    "links",
    "maps",
    "minutes",
    "neighbours",
    "nodes",
    "numbers",
    "objects",
    "others",
    "packets",
    "pins",
    "ports",
    "probes",
    "processes",
    "programs",
    "prefixes",
    "records",
    "requests",
    "rings",
    "routes",
    "seconds",
    "services",
    "slots",
    "steps",
    "symbols",
    "targets",
    "threads",
    "times",
    "warnings",
    "words",
    "writes",
];

/// Literals with a count that is never 1, and why.
const NEVER_ONE: &[(&str, &str)] = &[
    ("{length} slots", "the shortest ring has more"),
    ("{need} slots at a stretch", "the shortest ring has more"),
    ("a ring of {} slots", "the shortest ring has more"),
    ("but {slots} slots are in use", "the shortest ring has more"),
    ("the name has {bytes} bytes", "longer than the longest"),
    ("bytes long: 1 to", "longer than the longest, or empty"),
    ("the path has {length} bytes", "longer than the longest"),
    ("the body is larger than {limit} bytes", "a limit of thousands"),
    ("an RSA key of {bits} bits", "no key is so short"),
    ("{wanted} addresses are too many", "more than there may be"),
    ("this host has {} addresses", "more than there may be"),
    ("{} egress interfaces are in use", "more than there may be"),
    ("at most {MOST_OBJECTS} objects", "a constant"),
    ("{backends} backends, but max_backends is", "more than at least one"),
    ("{backends} backends, but one service can have", "more than the most"),
    ("a ring of {wanted} slots waits", "the shortest ring has more"),
    ("backends up", "one is said by its name"),
    ("{} backends are up and own no slot", "one is said by its name"),
    ("needs {wants} backends", "no count"),
];

/// What may stand between a count and its noun.
const BETWEEN: &[&str] = &["egress", "free", "live", "more", "new", "other", "usable"];

/// The count and the noun behind it, such as `{n} more backends`.
fn counted(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('}') {
        let Some(open) = text[..at].rfind('{') else { continue };
        let rest = &text[at + 1..];
        // `{{` and `}}` are braces of the text.
        if text[..open].ends_with('{') || !rest.starts_with(' ') {
            continue;
        }
        let words: Vec<&str> = rest.split(' ').skip(1).take(2).collect();
        let last = |word: &str| word.trim_end_matches(|c: char| !c.is_alphabetic()).to_owned();
        for (place, word) in words.iter().enumerate() {
            if NOUNS.contains(&&*last(word)) {
                found.push(format!(
                    "{}{}",
                    &text[open..=at],
                    words[..=place].iter().fold(String::new(), |all, word| all + " " + word)
                ));
            }
            if !BETWEEN.contains(word) {
                break;
            }
        }
    }
    found
}

#[test]
fn a_count_is_said_with_a_noun_that_fits_it() {
    let (mut wrong, mut unused) =
        (Vec::new(), NEVER_ONE.iter().map(|(text, _)| *text).collect::<BTreeSet<_>>());
    for literal in literals::all() {
        let Literal { text, .. } = &literal;
        let excepted = NEVER_ONE.iter().find(|(known, _)| text.contains(known));
        if let Some((known, _)) = excepted {
            unused.remove(known);
            continue;
        }
        wrong.extend(counted(text).into_iter().map(|count| format!("{}: {count}", literal.place())));
        // Units of time are no endings.
        if (text == "s" || text == "es") && literal.file != "config/words.rs" {
            wrong.push(format!("{}: an ending of its own", literal.place()));
        }
    }
    assert!(wrong.is_empty(), "say it by `config::words::plural`:\n{}", wrong.join("\n"));
    assert!(unused.is_empty(), "nothing says {unused:?}");
}

#[test]
fn a_count_is_known_by_the_noun_behind_it() {
    assert_eq!(counted("{n} services, {} more backends"), ["{n} services,", "{} more backends"]);
    assert_eq!(counted("{name} keeps slots, {} of slots, {} is, {n} live flows"), ["{n} live flows"]);
    assert_eq!(counted("{{n}} services are {n}"), [""; 0]);
}
