//! The list of all captures, `tests/fixtures/golden/README.md`, generated from the captures.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::capture::{self, Capture};
use crate::model::Program;

/// The file in the captures' directory.
pub const FILE: &str = "README.md";

/// The text of the file.
pub fn render(captures: &[Capture]) -> String {
    let mut text = format!(
        "# Golden captures\n\n<!-- Generated from the folders next to it by `cargo xtask docs`. -->\n\n\
         One behaviour a folder: `config.toml` is a configuration of `lbd`, `in.pcap` what comes, `out.pcap` what is \
         sent on or left to the host (the packet made of packet N is at second N), `expect.json` the verdict on each \
         packet, what happens between them, and what is counted. They are played through the loaded programs and \
         compared byte for byte by every `cargo xtask test --tier datapath`; `cargo xtask golden add --help` says how \
         to add one.\n\n{} behaviours.\n",
        captures.len()
    );
    for (program, title) in
        [(Program::LbXdp, "The balancer (`lb_xdp`)"), (Program::LbDecap, "On backends (`lb_decap`)")]
    {
        text.push_str(&format!(
            "\n## {title}\n\n| capture | behaviour | packets | verdicts and events |\n|---|---|---|---|\n"
        ));
        for Capture { name, expect, .. } in
            captures.iter().filter(|capture| capture.expect.program == program)
        {
            let counters: Vec<String> = expect.counters.keys().map(|name| format!("`{name}`")).collect();
            text.push_str(&format!(
                "| [{name}]({name}/expect.json) | {} | {} | {} |\n",
                expect.about,
                expect.packets.len(),
                counters.join(", ")
            ));
        }
    }
    text
}

/// Writes the file.
pub fn write(directory: &Path) -> Result<usize> {
    let captures = capture::all(directory)?;
    let path = directory.join(FILE);
    fs::write(&path, render(&captures)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(captures.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_page_is_current() -> Result<()> {
        let captures = capture::all(&capture::directory())?;
        if std::env::var_os("LB_WRITE_DOCS").is_some() {
            write(&capture::directory())?;
        }
        let text = fs::read_to_string(capture::directory().join(FILE))?;
        assert!(
            text == render(&captures),
            "{} is out of date: run `cargo xtask docs`",
            capture::directory().join(FILE).display()
        );
        assert!(captures.len() >= 80, "{} behaviours", captures.len());
        Ok(())
    }
}
