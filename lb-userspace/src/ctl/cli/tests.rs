//! What is accepted, what is not, and that every command explains itself.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_accepted_as_documented() {
    for line in [
        "lbctl status",
        "lbctl -o json status",
        "lbctl status --output json --no-color --socket /tmp/s --instance edge",
        "lbctl service list",
        "lbctl service show web",
        "lbctl service add web --listen tcp/192.0.2.1:80",
        "lbctl service add web --listen tcp/192.0.2.1:80 --encapsulation ipip --max-backends 10 --health http --health-port 1",
        "lbctl service set web --on-down hold",
        "lbctl service set web --health-rise 3",
        "lbctl service remove web",
        "lbctl backend list",
        "lbctl backend list web",
        "lbctl backend list web/* dns --down --draining --sort packets --reverse --top 20",
        "lbctl backend list --attention -w --interval 5s -o wide",
        "lbctl be ls",
        "lbctl b l",
        "lbctl svc ls",
        "lbctl service list web* --degraded --sort learning",
        "lbctl health web/* --checking --sort since",
        "lbctl stats web --watch --sort rate --top 3",
        "lbctl status --watch",
        "lbctl -o yaml status",
        "lbctl -o csv backend list",
        "lbctl -o name health",
        "lbctl ipvs -Ln",
        "lbctl top --interval 2s",
        "lbctl ipvs -l --stats --exact",
        "lbctl ipvs -L -n --rate -u [2001:db8::10]:53",
        "lbctl backend rm web/web-1",
        "lbctl backend show web/web-1",
        "lbctl backend show web web-1",
        "lbctl backend add web web-1 --address 10.0.0.1",
        "lbctl backend add web/web-1 --address 2001:db8::1 --weight 7",
        "lbctl backend set web/web-1 --weight 0 --state draining",
        "lbctl backend drain web/web-1",
        "lbctl backend drain web web-1 --wait --timeout 1h30m --settle 5s",
        "lbctl backend drain web/web-1 --wait --then remove-at-deadline",
        "lbctl backend undrain web/web-1",
        "lbctl backend enable web/web-1",
        "lbctl backend disable web/web-1",
        "lbctl backend remove web/web-1",
        "lbctl config show",
        "lbctl config check -",
        "lbctl config diff",
        "lbctl config apply",
        "lbctl config apply new.toml",
        "lbctl config apply --confirm 60s",
        "lbctl config apply - --confirm 1h",
        "lbctl config confirm",
        "lbctl config rollback",
        "lbctl plan new.toml",
        "lbctl plan new.toml",
        "lbctl config save",
        "lbctl config revert",
        "lbctl stats --watch --interval 2s",
        "lbctl health -w",
        "lbctl events --follow --since 3",
        "lbctl metrics",
        "lbctl version",
        "lbctl detach --yes",
        "lbctl generate completions zsh",
        "lbctl generate man",
        "lbctl generate man --page lbd",
        "lbctl generate man /tmp/man",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn a_verb_without_its_noun_gets_a_tip() {
    let said = |line: &str| match parse(line) {
        Ok(_) => panic!("{line} was accepted"),
        Err(error) => with_tip(error).to_string(),
    };
    assert!(said("lbctl drain web/web-1").contains("tip: there is 'lbctl backend drain'"));
    assert!(said("lbctl list").contains("tip: there is 'lbctl service list', 'lbctl backend list'"));
    assert!(said("lbctl statsu").contains("'status', 'stats'"), "clap's own tip stays");
}

#[test]
fn wrong_usage_is_refused_with_2() {
    for line in [
        "lbctl",
        "lbctl backend",
        "lbctl backend add web web-1",
        "lbctl backend add web web-1 --address nowhere",
        "lbctl backend set web/web-1",
        "lbctl backend set web/web-1 --weight 1001",
        "lbctl backend set web/web-1 --weight -1",
        "lbctl backend set web/web-1 --state on",
        "lbctl backend drain web/web-1 --timeout 5m",
        "lbctl backend drain web/web-1 --then remove",
        "lbctl backend drain web/web-1 --wait --then explode",
        "lbctl backend drain web/web-1 --wait --timeout 5",
        "lbctl plan",
        "lbctl config apply --confirm",
        "lbctl config apply --confirm 60",
        "lbctl plan",
        "lbctl service add web",
        "lbctl service set web",
        "lbctl service set web --encapsulation gre",
        "lbctl stats --interval 1s",
        "lbctl stats --watch --interval 0s",
        "lbctl --instance ../x status",
        "lbctl -o toml status",
        "lbctl backend list web/",
        "lbctl backend list --sort address",
        "lbctl backend list --top 0",
        "lbctl service list web/web-1",
        "lbctl stats --down",
        "lbctl ipvs -Ln --stats --rate",
        "lbctl stat",
        "lbctl b l x y --interval 1s",
        "lbctl generate completions cmd",
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("accepted: {line}"));
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_backend_is_named_in_one_or_two_words() {
    let names = |line: &str| match parse(line).unwrap().command {
        Command::Backend(backend::Command::Show(target)) => {
            target.names().map(|(s, b)| (s.to_owned(), b.to_owned()))
        }
        other => panic!("{other:?}"),
    };
    let web = Ok(("web".to_owned(), "web-1".to_owned()));
    assert_eq!(names("lbctl backend show web/web-1"), web);
    assert_eq!(names("lbctl backend show web web-1"), web);
    assert_eq!(names("lbctl backend show web/2001:db8::1"), Ok(("web".to_owned(), "2001:db8::1".to_owned())));
    for wrong in ["web", "web/", "/web-1", "web/web/1", "web/web-1 web-1"] {
        let error = names(&format!("lbctl backend show {wrong}")).unwrap_err();
        assert!(error.contains(&format!("`{wrong}`")) && error.contains("SERVICE/BACKEND"), "{error}");
    }
}

/// All commands with their full names.
fn each(command: &clap::Command, name: &str, visit: &mut dyn FnMut(&clap::Command, &str)) {
    visit(command, name);
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        each(sub, &format!("{name} {}", sub.get_name()), visit);
    }
}

#[test]
fn every_command_has_help_and_a_valid_example() {
    let mut count = 0;
    each(&Cli::command(), "lbctl", &mut |command, name| {
        count += 1;
        assert!(command.get_about().is_some(), "{name} has no description");
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Examples:\n"), "{name} has no example");
        let examples = help.lines().filter_map(|line| line.trim().strip_prefix("lbctl "));
        for example in examples {
            // Up to the first sign that the shell reads; quoted words are tried elsewhere.
            if example.contains('\'') {
                continue;
            }
            let words = example.split(['|', '>', '&']).next().unwrap_or_default().split_whitespace();
            if let Err(error) = Cli::try_parse_from(["lbctl"].into_iter().chain(words)) {
                panic!("{name}: {example}: {error}");
            }
        }
    });
    assert!(count > 30, "{count} commands were looked at");
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let help = Cli::command().render_long_help().to_string();
    for code in ["0  done", "2  wrong usage", "3  a deadline", "4  no agent", "5  a pattern"] {
        assert!(help.contains(code), "{code} in {help}");
    }
}
