//! The configuration reference, generated from [`super::keys`].

use std::fmt::Write;

use super::keys::{NOTHING, REQUIRED, sections};

const HEAD: &str = "# Configuration

<!-- Generated from lb-userspace/src/config/keys.rs by `cargo xtask docs`; a test fails when it is out of date. -->

`lbd` reads one TOML file, by default `/etc/lb/lb.toml`. `lbd --check` and `lbctl config check` tell everything that is
wrong with it, each line as `file:line:column: object: message`; a file with errors changes nothing. An annotated
example is [lb.toml](lb.toml).

Durations are strings of whole numbers with units: `\"500ms\"`, `\"2m\"`, `\"1h30m\"`. What is changed at run time with `lbctl`
is kept next to the file and laid over it: `lbctl config diff` shows it, `lbctl config save` writes it into the file,
`lbctl config revert` drops it.
";

/// The whole reference in Markdown.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for section in sections() {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n## `{}`\n\n{}\n\n| key | takes | default | |\n|---|---|---|---|\n",
            section.header, section.about
        );
        for key in section.keys {
            let default = match key.default {
                REQUIRED => "**required**".to_owned(),
                NOTHING => "none".to_owned(),
                words if words.contains(' ') => words.to_owned(),
                value => format!("`{value}`"),
            };
            let _ = writeln!(
                text,
                "| `{}` | {} | {default} | {} |",
                key.name,
                key.takes,
                key.description.replace('|', "\\|")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;

    #[test]
    fn generated_page_is_current() {
        documents::assert_current("configuration.md", &markdown());
    }
}
