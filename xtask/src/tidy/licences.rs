//! Licences of everything that is compiled in or used to compile, as cargo knows them: only such as can be given on with our own.
//! The terms are SPDX expressions (SPDX 2.3, annex D).

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;
use crate::{run, workspace};

/// Those that ask for nothing but to be named and kept.
const ALLOWED: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    // The public web's roots, which are data.
    "CDLA-Permissive-2.0",
    // libFuzzer, which is in no product of ours.
    "NCSA",
];

/// A package that may not be there, by name and licence.
fn refused(metadata: &Value) -> Vec<(String, String)> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut all = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        if !allows(licence) {
            let name = format!(
                "{} {}",
                package["name"].as_str().unwrap_or("?"),
                package["version"].as_str().unwrap_or("?")
            );
            all.push((name, if licence.is_empty() { "none".to_owned() } else { licence.to_owned() }));
        }
    }
    all
}

/// Whether an expression leaves a choice that is allowed. The old form `A/B` means `A OR B`.
fn allows(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    either(&mut words) == Some(true) && words.is_empty()
}

fn either(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = both(words)?;
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        allowed |= both(words)?;
    }
    Some(allowed)
}

fn both(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let allowed = either(words)?;
            let [")", rest @ ..] = *words else { return None };
            *words = rest;
            Some(allowed)
        }
        // An exception takes a condition away.
        [licence, "WITH", _, rest @ ..] | [licence, rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(licence))
        }
        [] => None,
    }
}

/// Asks cargo, which fetches nothing that the lock file does not name.
pub(super) fn check() -> Result<Vec<Finding>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace::root()).args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--all-features",
    ]);
    let text = run::capture(&mut cargo).context("cargo says what is compiled in")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let finding = |(name, licence): (String, String)| Finding {
        path: "Cargo.lock".to_owned(),
        line: 0,
        message: format!("{name}: licence {licence} is none of {}", ALLOWED.join(", ")),
    };
    Ok(refused(&metadata).into_iter().map(finding).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_that_is_allowed_is_enough_and_all_conditions_must_be() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "LGPL-2.1-or-later OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "Apache-2.0 AND ISC",
        ] {
            assert!(allows(good), "{good}");
        }
        for bad in
            ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "(MIT", "MIT )", "MIT OR", "OR MIT", "Elastic-2.0"]
        {
            assert!(!allows(bad), "{bad}");
        }
    }

    #[test]
    fn a_package_without_a_licence_is_named() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "a", "version": "1.0.0", "license": "MIT" },
            { "name": "b", "version": "2.0.0", "license": null },
        ]});
        assert_eq!(refused(&metadata), [("b 2.0.0".to_owned(), "none".to_owned())]);
    }
}
