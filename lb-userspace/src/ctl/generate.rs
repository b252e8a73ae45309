//! `lbctl generate …`: completions and man pages, out of the definitions in `cli` and, for lbd, in `tools::cli`.

use std::{fs, io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{cli::Cli, complete::scripts, exit::Failure, output::Context};
use crate::tools;

/// A command's page and where it belongs: 1 for what users type, 8 for daemons.
struct Page {
    section: &'static str,
    man: Man,
}

impl Page {
    /// `lbctl-status`
    fn name(&self) -> String {
        let file = self.man.get_filename();
        file.rsplit_once('.').map_or(file.clone(), |(name, _)| name.to_owned())
    }
}

/// Those of every command of both programs that is not hidden.
fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    for (mut program, section) in [(Cli::command(), "1"), (tools::cli::Cli::command(), "8")] {
        program = program.disable_help_subcommand(true);
        program.build();
        let source = format!("lb {}", env!("CARGO_PKG_VERSION"));
        collect(&program, section, &source, &mut pages);
    }
    pages
}

fn collect(command: &clap::Command, section: &'static str, source: &str, pages: &mut Vec<Page>) {
    let man = Man::new(command.clone()).section(section).source(source).manual("lb");
    pages.push(Page { section, man });
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, section, source, pages);
    }
}

pub fn completions(context: &Context, shell: Shell) -> Result<(), Failure> {
    if let Some(script) = scripts::of(shell) {
        return context.print(script);
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lbctl", &mut script);
    context.print(&String::from_utf8_lossy(&script))
}

/// One page on standard output.
pub fn page(context: &Context, name: &str) -> Result<(), Failure> {
    let pages = pages();
    let Some(page) = pages.iter().find(|page| page.name() == name) else {
        let names: Vec<String> = pages.iter().map(Page::name).collect();
        return Err(Failure::Usage(format!("there is no page {name}; there are {}", names.join(", "))));
    };
    let failed = |error: io::Error| Failure::Failed(format!("cannot make the man page of {name}: {error}"));
    let mut text = Vec::new();
    page.man.render(&mut text).map_err(failed)?;
    context.print(&String::from_utf8_lossy(&text))
}

/// All pages, below a directory, in `man1` and `man8`, which are made.
pub fn man(context: &Context, directory: &Path) -> Result<(), Failure> {
    let place = directory.display();
    let failed = |error: io::Error| Failure::Failed(format!("cannot write man pages to {place}: {error}"));
    let pages = pages();
    for Page { section, man } in &pages {
        let section = directory.join(format!("man{section}"));
        fs::create_dir_all(&section).and_then(|()| man.generate_to(&section)).map_err(failed)?;
    }
    context.print(&format!("{} man pages are in {place}/man1 and {place}/man8\n", pages.len()))
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeSet,
    };

    use super::*;
    use crate::ctl::{cli::Output, client::Client, style::Style};

    /// What `generate man` writes: `man8/lbd.8` and its text.
    fn written() -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        let context = Context {
            client: Client::new(None, "main"),
            style: Style::plain(),
            output: Output::Table,
            terminal: false,
            drawn: Cell::new(false),
            sheet: RefCell::default(),
        };
        man(&context, &directory.path().join("man")).unwrap();
        let mut written = Vec::new();
        for section in ["man1", "man8"] {
            for file in fs::read_dir(directory.path().join("man").join(section)).unwrap() {
                let file = file.unwrap();
                let name = format!("{section}/{}", file.file_name().into_string().unwrap());
                written.push((name, fs::read_to_string(file.path()).unwrap()));
            }
        }
        written
    }

    /// `\-\-config` is how a page spells `--config`, `\*(Aq` an apostrophe, and `\fB` how it makes something bold.
    fn plain(page: &str) -> String {
        let text = page.replace("\\-", "-").replace("\\*(Aq", "'");
        ["\\fB", "\\fI", "\\fR"].iter().fold(text, |text, mark| text.replace(mark, ""))
    }

    /// The names of the commands that are to have a page, by walking the definition.
    fn names(command: &clap::Command, before: &str, section: u8, names: &mut BTreeSet<String>) {
        let name = format!("{before}{}", command.get_name());
        names.insert(format!("man{section}/{name}.{section}"));
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            self::names(below, &format!("{name}-"), section, names);
        }
    }

    #[test]
    fn every_command_gets_a_page_in_its_section() {
        let written: BTreeSet<String> = written().into_iter().map(|(name, _)| name).collect();
        let mut wanted = BTreeSet::new();
        names(&Cli::command(), "", 1, &mut wanted);
        names(&tools::cli::Cli::command(), "", 8, &mut wanted);
        assert_eq!(written, wanted);
        for page in ["man1/lbctl.1", "man1/lbctl-backend-drain.1", "man8/lbd.8", "man8/lbd-decap-attach.8"] {
            assert!(written.contains(page), "{page} in {written:?}");
        }
    }

    #[test]
    fn the_page_of_lbd_has_every_option_with_its_help() {
        let written = written();
        let (_, page) = written.iter().find(|(name, _)| name == "man8/lbd.8").unwrap();
        let page = plain(page);
        assert!(page.starts_with(".ie"), "{page}");
        assert!(page.contains("\n.TH lbd 8 "), "{page}");
        for option in tools::cli::Cli::command().get_arguments() {
            let long = format!("--{}", option.get_long().unwrap());
            assert!(page.contains(&long), "{long} in {page}");
            let help = option.get_help().unwrap().to_string();
            assert!(page.contains(&help), "`{help}` in {page}");
        }
        for said in ["lbd --check --config lb.toml", "SIGHUP reads the file again", "lbd-decap(8)"] {
            assert!(page.contains(said), "`{said}` in {page}");
        }
        assert!(!page.contains("xdp-pass"), "what is hidden from --help is hidden from man: {page}");
    }

    #[test]
    fn the_page_of_lbctl_refers_to_those_of_its_commands() {
        let written = written();
        let (_, page) = written.iter().find(|(name, _)| name == "man1/lbctl.1").unwrap();
        let page = plain(page);
        for below in ["lbctl-status(1)", "lbctl-backend(1)", "lbctl-generate(1)"] {
            assert!(page.contains(below), "{below} in {page}");
        }
    }

    #[test]
    fn every_shell_gets_completions_for_every_noun() {
        for shell in [Shell::Elvish, Shell::PowerShell] {
            assert_eq!(scripts::of(shell), None);
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lbctl", &mut script);
            let script = String::from_utf8(script).unwrap();
            for noun in ["status", "undrain", "completions"] {
                assert!(script.contains(noun), "{shell}: {noun}");
            }
        }
    }
}
