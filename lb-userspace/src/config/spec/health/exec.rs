//! What an exec probe runs, and as which user. The run itself is in `health/probe/exec.rs`.

#[cfg(test)]
use proptest::prelude::*;

use crate::config::{
    settings::{
        Form,
        values::{Own, array, quoted},
    },
    value,
    value_tree::{Node, quote},
    words::plural,
};

/// Words of a command, and bytes of each.
const MOST_WORDS: usize = 64;
const LONGEST_WORD: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecProbe {
    /// A path and arguments; never empty.
    pub command: Vec<String>,
    /// The user that runs it; not root.
    pub user: String,
}

/// The values of the key that has the command.
pub(super) fn command() -> Own<Vec<String>> {
    Own {
        takes: "absolute path, or an array of a path and arguments".to_owned(),
        form: Form::List("WORDS"),
        parse,
        show: |words| (!words.is_empty()).then(|| array(words.iter().map(quoted))),
        #[cfg(test)]
        any: || {
            let words = prop::collection::vec("[^\\p{Cc}]{1,20}", 0..3);
            ("/[a-z/]{1,20}", words).prop_map(|(path, words)| [vec![path], words].concat()).boxed()
        },
    }
}

fn parse(node: &Node) -> Result<Vec<String>, String> {
    let words = node.one_or_many();
    if words.is_empty() || words.len() > MOST_WORDS {
        let words = plural(words.len() as u64, "word", "words");
        return Err(format!("has {words}: 1 to {MOST_WORDS} are allowed"));
    }
    let words: Vec<String> =
        words.into_iter().map(|word| value::text(word, LONGEST_WORD)).collect::<Result<_, _>>()?;
    match words.first() {
        Some(path) if !path.starts_with('/') => {
            Err(format!("{} must be an absolute path: no shell looks for it", quote(path)))
        }
        _ => Ok(words),
    }
}

pub(super) fn user(node: &Node) -> Result<String, String> {
    value::text(node, 64)
}
