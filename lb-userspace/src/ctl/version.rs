//! `lbctl version`: both ends.

use super::{
    exit::Failure,
    output::Context,
    style::{Paint, Style},
    table::{Cell, list},
};
use crate::api::view::Version;

pub async fn show(context: &Context) -> Result<(), Failure> {
    let ours = env!("CARGO_PKG_VERSION");
    let answer = context.client.get::<Version>("/v1/version").await;
    match answer {
        Ok((value, _)) if context.for_scripts() => context.value(&value),
        Ok((_, theirs)) => context.print(&render(ours, &theirs, &context.style)),
        Err(failure) => {
            // Half of the answer needs no agent.
            if !context.for_scripts() {
                context.print(&format!("lbctl  {ours}\n"))?;
            }
            Err(failure)
        }
    }
}

fn render(ours: &str, theirs: &Version, style: &Style) -> String {
    let Version { version, abi_version, api_version } = theirs;
    let paint = if ours == version { Paint::Plain } else { Paint::Warn };
    list(
        style,
        [
            ("lbctl", Some(Cell::from(ours))),
            ("lbd", Some(Cell::painted(format!("{version} (ABI {abi_version}, API {api_version})"), paint))),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_shown_and_a_difference_is_marked() {
        let theirs = Version { version: "0.2.0".into(), abi_version: 1, api_version: 1 };
        assert_eq!(render("0.1.0", &theirs, &Style::plain()), "lbctl  0.1.0\nlbd    0.2.0 (ABI 1, API 1)\n");
        assert!(render("0.1.0", &theirs, &Style::coloured()).contains("\u{1b}[33m0.2.0"));
        assert!(!render("0.2.0", &theirs, &Style::coloured()).contains("\u{1b}[33m"));
    }
}
