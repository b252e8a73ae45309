//! `lbctl config …`.

use std::{
    io::{self, Read},
    path::Path,
    time::Duration,
};

use hyper::Method;
use serde_json::{Value, json};

use super::{
    cli::config::Command,
    exit::Failure,
    output::{Context, plural},
    style::{Paint, Style, clean},
    units,
};
use crate::{
    api::view::{ApiError, Checked, Code, Config, Diff},
    config::{self, Diagnostic, Kind, Place, document, spec::Spec},
    host::check::on_this_host,
    net::source,
};

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show { show_secrets } => {
            let path = if show_secrets { "/v1/config?secrets=true" } else { "/v1/config" };
            context.show(path, |config: &Config, _| shown(config)).await
        }
        Command::Check { file, any_host } => check(context, &file, any_host),
        Command::Diff => context.show("/v1/config/diff", |diff: &Diff, style| render(diff, style)).await,
        Command::Apply { file: None, confirm: None } => {
            context.change(Method::POST, "/v1/config/apply", None).await
        }
        Command::Apply { file, confirm } => {
            let mut body = match file {
                None => json!({}),
                Some(file) => {
                    let (bytes, name) = read(&file).map_err(|errors| refused(&errors))?;
                    replacement(bytes, &name)?
                }
            };
            if let Some(confirm) = confirm {
                body["confirm_seconds"] = whole_seconds(confirm)?.into();
            }
            context.change(Method::POST, "/v1/config/apply", Some(&body)).await
        }
        Command::Confirm => context.change(Method::POST, "/v1/config/confirm", None).await,
        Command::Rollback => context.change(Method::POST, "/v1/config/rollback", None).await,
        Command::Save => context.change(Method::POST, "/v1/config/save", None).await,
        Command::Revert => context.change(Method::POST, "/v1/config/revert", None).await,
    }
}

/// A time to confirm in, 1 s to 24 h.
fn whole_seconds(confirm: Duration) -> Result<u64, Failure> {
    let seconds = confirm.as_secs();
    if confirm.subsec_nanos() != 0 || !(1..=86_400).contains(&seconds) {
        let given = units::duration(confirm);
        return Err(Failure::Usage(format!("--confirm {given}: whole seconds are needed, 1s to 24h")));
    }
    Ok(seconds)
}

/// The configuration, under a comment where it does not last.
fn shown(config: &Config) -> String {
    match config.rolls_back_in {
        None => config.text.clone(),
        Some(left) => format!(
            "# not confirmed: rolls back in {} unless `lbctl config confirm` comes\n{}",
            units::duration(Duration::from_secs(left)),
            config.text
        ),
    }
}

pub(super) fn replacement(bytes: Vec<u8>, name: &str) -> Result<Value, Failure> {
    // What no agent would read need not be sent, and what is no text cannot be: the parser says where it is none.
    let unreadable = |bytes: &[u8]| document::parse(bytes, name).err().map(|errors| refused(&errors));
    if bytes.len() > document::LONGEST
        && let Some(failure) = unreadable(&bytes)
    {
        return Err(failure);
    }
    let text = String::from_utf8(bytes).map_err(|why| {
        unreadable(why.as_bytes()).unwrap_or_else(|| Failure::Usage(format!("{name} is not UTF-8: {why}")))
    })?;
    // The agent takes whatever the parser would.
    Ok(json!({ "text": text, "name": name }))
}

/// The bytes of a file, or of standard input, and its name for messages.
pub(super) fn read(file: &Path) -> Result<(Vec<u8>, String), Vec<Diagnostic>> {
    if file != Path::new("-") {
        return Ok((document::read(file)?, file.display().to_string()));
    }
    let name = "standard input";
    let mut bytes = Vec::new();
    // One byte above the limit is enough for the parser to refuse it.
    io::stdin().lock().take(document::LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(|error| {
        let (place, object) = (Place::File(name.into()), String::new());
        vec![Diagnostic {
            place,
            object,
            message: format!("cannot be read: {error}"),
            kind: Kind::Unreadable,
        }]
    })?;
    Ok((bytes, name.into()))
}

fn check(context: &Context, file: &Path, any_host: bool) -> Result<(), Failure> {
    let instance = context.client.instance();
    let checked = read(file).and_then(|(bytes, name)| match any_host {
        true => document::parse(&bytes, &name),
        false => on_this_host(&bytes, &name, instance),
    });
    let advice = |spec: &Spec| match any_host {
        true => config::advice(spec, &|_| None),
        false => config::advice(spec, &source::towards),
    };
    let warnings = checked.as_ref().map(|document| advice(&document.spec)).unwrap_or_default();
    if context.for_scripts() {
        let errors = checked.as_ref().err().into_iter().flatten().map(ToString::to_string).collect();
        let view = Checked { ok: checked.is_ok(), errors, warnings };
        context.value(&serde_json::to_value(&view).unwrap_or_default())?;
        return if view.ok { Ok(()) } else { Err(Failure::Answered) };
    }
    let spec = checked.map_err(|errors| refused(&errors))?.spec;
    let backends: usize = spec.services.iter().map(|s| s.backends.len()).sum();
    let (services, backends) = (
        plural(spec.services.len() as u64, "service", "services"),
        plural(backends as u64, "backend", "backends"),
    );
    let mut text = format!("{}: no errors, {services}, {backends}\n", clean(&file.display().to_string()));
    for warning in warnings {
        text.push_str(&context.style.paint(&format!("warning: {}", clean(&warning)), Paint::Warn));
        text.push('\n');
    }
    context.print(&text)
}

pub(super) fn refused(errors: &[Diagnostic]) -> Failure {
    let details: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let message = format!("the configuration has {}", plural(details.len() as u64, "error", "errors"));
    Failure::Refused(ApiError { code: Code::Invalid, message, object: String::new(), details })
}

fn render(diff: &Diff, style: &Style) -> String {
    let part = |title: &str, lines: &[String], none: &str| {
        if lines.is_empty() {
            return format!("{none}\n");
        }
        let lines: String = lines.iter().map(|line| format!("  {}\n", clean(line))).collect();
        format!("{}\n{lines}", style.paint(title, Paint::Head))
    };
    part(
        "Changed at run time (`lbctl config save` writes it into the file, `revert` drops it):",
        &diff.overlay,
        "Nothing was changed at run time.",
    ) + &part(
        "Changed in the file since it was applied (`lbctl config apply` applies it):",
        &diff.file,
        "The file matches what was applied.",
    ) + &if diff.needs_restart.is_empty() {
        String::new()
    } else {
        part("In force, and followed when the agent starts again:", &diff.needs_restart, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::TEXT_LIMIT;

    #[test]
    fn a_diff_tells_both_sides_and_how_to_settle_them() {
        let none = Diff { overlay: vec![], file: vec![], needs_restart: vec![] };
        assert_eq!(
            render(&none, &Style::plain()),
            "Nothing was changed at run time.\nThe file matches what was applied.\n"
        );
        let diff = Diff {
            overlay: vec!["backend web/web-1: weight 100 → 50".into()],
            file: vec!["a".into(), "b".into()],
            needs_restart: vec!["limits".into()],
        };
        let expected = "\
Changed at run time (`lbctl config save` writes it into the file, `revert` drops it):
  backend web/web-1: weight 100 → 50
Changed in the file since it was applied (`lbctl config apply` applies it):
  a
  b
In force, and followed when the agent starts again:
  limits
";
        assert_eq!(render(&diff, &Style::plain()), expected);
    }

    #[test]
    fn an_unconfirmed_configuration_says_so_and_parses() {
        let config = |rolls_back_in| Config { file: "f".into(), text: "a = 1\n".into(), rolls_back_in };
        assert_eq!(shown(&config(None)), "a = 1\n");
        let text = shown(&config(Some(42)));
        assert_eq!(text, "# not confirmed: rolls back in 42s unless `lbctl config confirm` comes\na = 1\n");
    }

    #[test]
    fn a_time_to_confirm_in_is_whole_seconds() {
        assert_eq!(whole_seconds(Duration::from_secs(60)).unwrap(), 60);
        for bad in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(86_401)] {
            assert!(matches!(whole_seconds(bad), Err(Failure::Usage(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_sent_is_refused_here() {
        for (bytes, place) in [
            (b"a = 1\n\xff".to_vec(), "lb.toml:2:1: the file is not UTF-8"),
            (vec![b'#'; document::LONGEST + 1], "lb.toml: the file is longer"),
        ] {
            let failure = replacement(bytes, "lb.toml").unwrap_err();
            let named = matches!(&failure, Failure::Refused(error) if error.details[0].starts_with(place));
            assert!(named, "{failure:?}");
        }
        assert_eq!(replacement(b"x".to_vec(), "n").unwrap(), json!({ "text": "x", "name": "n" }));
    }

    #[test]
    fn the_longest_file_fits_the_body_limit() {
        let mut longest = vec![b'"'; document::LONGEST];
        longest[..2].copy_from_slice(b"# ");
        let body = replacement(longest, &"n".repeat(4096)).unwrap().to_string();
        assert!(body.len() <= TEXT_LIMIT, "{}", body.len());
    }

    #[test]
    fn every_error_of_a_file_is_reported() {
        let errors = document::parse(b"[node]\nmode = 3\n", "lb.toml").unwrap_err();
        let Failure::Refused(error) = refused(&errors) else { panic!() };
        assert_eq!(error.code, Code::Invalid);
        assert_eq!(error.details.len(), errors.len());
        assert!(errors.len() > 1 && error.details[0].starts_with("lb.toml:"), "{:?}", error.details);
    }
}
