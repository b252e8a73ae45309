//! `lbctl` and `lbd` as commands: exit codes, JSON for scripts, help, completions and man pages.

use anyhow::{Result, ensure};
use lb_tests::test_name;
use serde_json::Value;

use crate::{
    agent::Said,
    world::{CONFIG, isolated},
};

#[test]
fn exit_codes_name_the_kind_of_failure() -> Result<()> {
    isolated(test_name!(), |world| {
        world.lbctl(&["status"])?.refused(4, &["lbd is not running"]);
        let agent = world.start(CONFIG)?;
        agent.lbctl(&["status"])?.done()?;
        agent.lbctl(&["service", "show", "none"])?.refused(1, &["there is no service none"]);
        agent.lbctl(&["backend", "show", "web/none"])?.refused(1, &["there is no backend web/none"]);
        agent.lbctl(&["service", "brew"])?.refused(2, &["brew"]);
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "-1"])?.refused(2, &[]);
        agent.lbctl(&["backend", "set", "web/web-1", "--weight", "1001"])?.refused(2, &["1001"]);
        agent.lbctl(&["service", "add", "x", "--listen", "tcp/192.0.2.1:70000"])?.refused(2, &["70000"]);
        agent.lbctl(&["config", "check", "/run/t/none.toml"])?.refused(2, &["/run/t/none.toml"]);
        let drain = ["backend", "drain", "web/web-1", "--wait", "--timeout", "1s", "--settle", "30s"];
        agent.lbctl(&drain)?.refused(3, &[]);
        ensure!(agent.json(&["backend", "show", "web/web-1"])?["state"] == "draining");
        Ok(())
    })
}

#[test]
fn every_answer_and_error_can_be_json() -> Result<()> {
    isolated(test_name!(), |world| {
        let json = |arguments: &[&str]| world.lbctl(&[&["-o", "json"], arguments].concat());
        let error: Value = serde_json::from_str(&json(&["status"])?.err)?;
        ensure!(error["code"] == "unavailable", "{error}");
        let _agent = world.start(CONFIG)?;
        let asks: [&[&str]; 16] = [
            &["status"],
            &["service", "list"],
            &["service", "show", "web"],
            &["backend", "list"],
            &["backend", "list", "web"],
            &["backend", "show", "web/web-1"],
            &["config", "show"],
            &["config", "diff"],
            &["config", "check", "/run/t/lb.toml"],
            &["config", "apply"],
            &["config", "save"],
            &["config", "revert"],
            &["stats"],
            &["health"],
            &["events"],
            &["version"],
        ];
        for ask in asks {
            let said = json(ask)?;
            ensure!(said.code == 0, "{ask:?}: {said:?}");
            let values: Result<Vec<Value>, _> =
                serde_json::Deserializer::from_str(&said.out).into_iter().collect();
            ensure!(values.as_ref().is_ok_and(|values| !values.is_empty()), "{ask:?}: {}", said.out);
        }
        for (ask, code) in [
            (["service", "show", "none"], "not_found"),
            (["backend", "remove", "web/none"], "not_found"),
            (["config", "apply", "/run/t/none.toml"], "invalid"),
        ] {
            let said = json(&ask)?;
            ensure!(said.code != 0 && said.out.is_empty(), "{ask:?}: {said:?}");
            let error: Value = serde_json::from_str(&said.err)?;
            ensure!(error["code"] == code && error["message"].is_string(), "{ask:?}: {error}");
        }
        Ok(())
    })
}

#[test]
fn tables_have_no_colours_outside_a_terminal() -> Result<()> {
    isolated(test_name!(), |world| {
        let agent = world.start(CONFIG)?;
        for ask in [["service", "list"], ["backend", "list"], ["service", "show web"]] {
            let ask: Vec<_> = ask.iter().flat_map(|words| words.split(' ')).collect();
            let out = agent.lbctl(&ask)?.done()?;
            ensure!(out.contains("web") && !out.contains('\u{1b}'), "{out:?}");
        }
        Ok(())
    })
}

#[test]
fn help_shows_examples_and_exit_codes() -> Result<()> {
    isolated(test_name!(), |world| {
        for said in [world.lbd(&["--help"])?, world.lbctl(&["--help"])?] {
            let out = said.done()?;
            ensure!(out.contains("Examples:") && out.contains("Exit codes:"), "{out}");
        }
        for ask in [["backend", "drain"], ["service", "add"], ["config", "apply"]] {
            let out = world.lbctl(&[&ask[..], &["--help"]].concat())?.done()?;
            ensure!(out.contains("Examples:"), "{ask:?}: {out}");
        }
        Ok(())
    })
}

#[test]
fn completions_and_man_pages_share_definitions() -> Result<()> {
    isolated(test_name!(), |world| {
        for shell in ["bash", "zsh", "fish"] {
            let out = world.lbctl(&["generate", "completions", shell])?.done()?;
            ensure!(out.contains("lbctl") && out.contains("LBCTL_COMPLETE"), "{shell}: {} bytes", out.len());
        }
        // What the scripts ask.
        let asked =
            Said::of(world.command("lbctl")?.args(["backend", "u"]).env("LBCTL_COMPLETE", "1"))?.done()?;
        ensure!(asked.starts_with("undrain\t"), "{asked}");
        for shell in ["elvish", "powershell"] {
            let out = world.lbctl(&["generate", "completions", shell])?.done()?;
            ensure!(out.contains("lbctl") && out.contains("undrain"), "{shell}: {} bytes", out.len());
        }
        let out = world.lbctl(&["generate", "man"])?.done()?;
        ensure!(out.contains(".TH lbctl"), "{out}");
        let directory = world.path("man").display().to_string();
        world.lbctl(&["generate", "man", &directory])?.done()?;
        let pages = |section: &str| -> Result<usize> {
            Ok(std::fs::read_dir(world.path("man").join(section))?.count())
        };
        ensure!(pages("man1")? + pages("man8")? > 20, "{} and {} pages", pages("man1")?, pages("man8")?);
        Ok(())
    })
}
