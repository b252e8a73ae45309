//! `lbctl generate …`: completions and man pages, out of the definition in `cli`.

use std::{fs, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{cli::Cli, failure::Failure, output::Context};

pub fn completions(context: &Context, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lbctl", &mut script);
    context.print(&String::from_utf8_lossy(&script))
}

/// The pages of all commands into a directory, which is made; without one the first page on standard output.
pub fn man(context: &Context, directory: Option<&Path>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot make the man pages: {error}"));
    let Some(directory) = directory else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).map_err(failed)?;
        return context.print(&String::from_utf8_lossy(&page));
    };
    let place = directory.display();
    let failed =
        |error: std::io::Error| Failure::Failed(format!("cannot write man pages to {place}: {error}"));
    fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory).map_err(failed)?;
    context.print(&format!("man pages are in {place}\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ctl::{cli::Output, client::Client, style::Style};

    #[test]
    fn every_command_gets_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let context = Context {
            client: Client::new(None, "main"),
            style: Style::plain(),
            output: Output::Table,
            terminal: false,
        };
        man(&context, Some(&directory.path().join("man1"))).unwrap();
        let pages: BTreeSet<String> = fs::read_dir(directory.path().join("man1"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for page in ["lbctl.1", "lbctl-status.1", "lbctl-backend-drain.1", "lbctl-generate-completions.1"] {
            assert!(pages.contains(page), "{page} in {pages:?}");
        }
    }

    #[test]
    fn every_shell_gets_completions_for_every_noun() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lbctl", &mut script);
            let script = String::from_utf8(script).unwrap();
            for noun in ["status", "undrain", "completions"] {
                assert!(script.contains(noun), "{shell}: {noun}");
            }
        }
    }
}
