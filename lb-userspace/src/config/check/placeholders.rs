//! The checker refuses the seeds that are printed in our documents: every attacker can read them.

use clap::{Command, CommandFactory as _};

use crate::config::{parse, testing::lines};

/// Every text in quotes behind `seed =`.
fn seeds(text: &str) -> Vec<String> {
    let behind = |text: &str| {
        let text = text.trim_start_matches([' ', '\\']);
        let text = text.strip_prefix('"')?;
        Some(text.split(['"', '\\']).next().unwrap_or_default().to_owned())
    };
    text.split("seed =").skip(1).filter_map(behind).collect()
}

fn help(command: &mut Command, all: &mut String) {
    all.push_str(&command.render_long_help().to_string());
    for below in command.get_subcommands_mut() {
        help(below, all);
    }
}

#[test]
fn no_seed_of_a_document_or_a_message_is_accepted() {
    let mut texts: Vec<String> = crate::documents::all().into_iter().map(|(_, text)| text).collect();
    let mut helps = String::new();
    help(&mut crate::tools::cli::Cli::command(), &mut helps);
    help(&mut crate::ctl::cli::Cli::command(), &mut helps);
    texts.push(helps);
    for wrong in ["", "[node]\ninterface = \"eth0\"\n"] {
        texts.push(lines(&parse(wrong.as_bytes(), "lb.toml").unwrap_err()));
    }
    let found: Vec<String> = texts.iter().flat_map(|text| seeds(text)).collect();
    assert!(found.len() >= 6, "README, install.md, its output, lb.toml and two messages have one: {found:?}");
    for seed in found.iter().map(String::as_str).chain(super::node::PLACEHOLDERS) {
        let file = format!("[node]\ninterface = \"eth0\"\nseed = \"{seed}\"\n");
        let reported = lines(&parse(file.as_bytes(), "lb.toml").expect_err(seed));
        assert_eq!(
            reported,
            format!(
                "lb.toml:3:8: node: seed {seed:?} is the example of the documentation, which everyone knows: put the output of \
                 `openssl rand -hex 16` there, the same on every node of a site\n"
            )
        );
    }
}
