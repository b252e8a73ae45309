//! `lbctl detach`: asks before it cuts every connection.

use std::io::{self, BufRead, IsTerminal, Write};

use hyper::Method;

use super::{
    cli::Detach,
    exit::Failure,
    output::{Context, plural},
};
use crate::api::view::Status;

pub async fn run(context: &Context, arguments: &Detach) -> Result<(), Failure> {
    if !arguments.yes {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::Usage(
                "detach cuts every connection, and there is no terminal to ask at; confirm it with --yes"
                    .into(),
            ));
        }
        let (_, status) = context.client.get::<Status>("/v1/status").await?;
        if !asked(&question(&status)) {
            return Err(Failure::Failed("nothing was detached".into()));
        }
    }
    context.change(Method::POST, "/v1/detach", None).await
}

fn question(status: &Status) -> String {
    let interfaces: Vec<&str> = status.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    format!(
        "This takes the program of instance {} off {} and removes its maps: {} no longer reached through this host, and \
         established connections are cut. Go on? [y/N] ",
        status.instance,
        if interfaces.is_empty() { "every interface".to_owned() } else { interfaces.join(", ") },
        match status.services.len() {
            1 => "1 service is".to_owned(),
            n => format!("{} are", plural(n as u64, "service", "services")),
        },
    )
}

fn asked(question: &str) -> bool {
    let mut answer = String::new();
    let mut stderr = io::stderr();
    let asked = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).is_ok() && is_yes(&answer)
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, yes) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("n\n", false), ("yep\n", false)]
        {
            assert_eq!(is_yes(answer), yes, "{answer:?}");
        }
    }
}
