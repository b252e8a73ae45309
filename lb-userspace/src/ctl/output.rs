//! Where a command's answer goes: standard output, in the form that was asked for.

use std::{
    cell::{Cell, RefCell},
    env,
    io::{self, IsTerminal, Write},
};

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    cli::{Global, Output},
    client::Client,
    exit::Failure,
    form::{
        csv::{self, Sheet},
        yaml,
    },
    style::{Paint, Style, clean},
};
use crate::api::view::Changed;
pub use crate::config::words::plural;

/// Why a command has no names to show.
pub const NO_NAMES: &str = "-o name is for lists: service list, backend list, health, stats and status";

/// What every command has.
#[derive(Debug)]
pub struct Context {
    pub client: Client,
    pub style: Style,
    pub output: Output,
    /// Whether lines can be written over: standard output is a terminal that can move its cursor.
    pub terminal: bool,
    /// Whether something was drawn that the next look is written over.
    pub drawn: Cell<bool>,
    /// What CSV has been written to standard output.
    pub sheet: RefCell<Sheet>,
}

/// An answer in every form that it has.
pub struct Answer<'a> {
    /// What the agent answered, or what is left of it.
    pub value: &'a Value,
    /// For people.
    pub text: &'a dyn Fn() -> String,
    /// The rows of CSV; `None` = those of `value`.
    pub rows: Option<&'a dyn Fn() -> Vec<Value>>,
    /// The names of what it lists; `None` = it is no list.
    pub names: Option<&'a dyn Fn() -> Vec<String>>,
}

impl<'a> Answer<'a> {
    pub fn new(value: &'a Value, text: &'a dyn Fn() -> String) -> Self {
        Self { value, text, rows: None, names: None }
    }
}

impl Context {
    pub fn new(global: &Global, client: Client) -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        Self {
            client,
            style: Style::of(&io::stdout(), global.no_color),
            output: global.output,
            terminal: io::stdout().is_terminal() && !dumb,
            drawn: Cell::new(false),
            sheet: RefCell::default(),
        }
    }

    /// Whether a program reads the answer, and nothing else may be between it.
    pub const fn for_scripts(&self) -> bool {
        matches!(self.output, Output::Json | Output::Yaml | Output::Csv | Output::Name)
    }

    /// Whether a table has every column.
    pub fn wide(&self) -> bool {
        self.output == Output::Wide
    }

    /// Shows an answer.
    pub fn answer(&self, answer: &Answer<'_>) -> Result<(), Failure> {
        let Answer { value, text, rows, names } = answer;
        let text = match self.output {
            Output::Table | Output::Wide => text(),
            Output::Json => format!("{value:#}\n"),
            Output::Yaml => yaml::document(value),
            Output::Csv => match rows {
                Some(rows) => self.sheet.borrow_mut().rows(&rows()),
                None => self.sheet.borrow_mut().rows(csv::rows(value)),
            },
            Output::Name => match names {
                Some(names) => names().iter().map(|name| clean(name) + "\n").collect(),
                None => return Err(Failure::Usage(NO_NAMES.into())),
            },
        };
        self.print(&text)
    }

    /// Shows an answer that others follow: JSON on a line, a document of YAML, further rows of CSV.
    pub fn next_answer(&self, answer: &Answer<'_>) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.print(&format!("{}\n", answer.value)),
            Output::Yaml => self.print(&format!("---\n{}", yaml::document(answer.value))),
            _ => self.answer(answer),
        }
    }

    /// Shows an answer that no people read, in the form for scripts that was asked for.
    pub fn value(&self, value: &Value) -> Result<(), Failure> {
        self.answer(&Answer::new(value, &String::new))
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// [`Failure::Quiet`] when the reader is gone.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Quiet,
            _ => Failure::Failed(format!("cannot write the output: {error}")),
        })
    }

    /// Says something that is no answer, on standard error.
    ///
    /// # Errors
    /// [`Failure::Quiet`] when standard error is closed.
    pub fn remark(&self, text: &str) -> Result<(), Failure> {
        writeln!(io::stderr().lock(), "lbctl: {}", clean(text)).map_err(|_| Failure::Quiet)
    }

    /// Asks, and shows the answer: what the agent sent, or what `render` makes of the view for people.
    pub async fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        render: impl Fn(&T, &Style) -> String,
    ) -> Result<(), Failure> {
        let (value, view) = self.client.get::<T>(path).await?;
        self.answer(&Answer::new(&value, &|| render(&view, &self.style)))
    }

    /// Asks for a change, and shows what became of it.
    pub async fn change(&self, verb: Method, path: &str, body: Option<&Value>) -> Result<(), Failure> {
        let (value, view) = self.client.call::<Changed>(verb, path, body).await?;
        self.answer(&Answer::new(&value, &|| changed(&view, &self.style)))
    }
}

/// What was done, and how much was written for it.
pub fn changed(changed: &Changed, style: &Style) -> String {
    let mut text: String = changed.summary.iter().map(|line| clean(line) + "\n").collect();
    let effect = match changed {
        Changed { writes: 0, slots_changed: 0, .. } if changed.summary.is_empty() => {
            "nothing to do: already in this state".to_owned()
        }
        Changed { writes: 0, slots_changed: 0, .. } => "no map entry written".to_owned(),
        Changed { writes, slots_changed, .. } => {
            format!(
                "{} written, {} changed",
                plural(*writes, "map entry", "map entries"),
                plural(*slots_changed, "slot", "slots")
            )
        }
    };
    text.push_str(&style.paint(&effect, Paint::Dim));
    text.push('\n');
    for warning in &changed.warnings {
        text.push_str(&style.paint(&format!("warning: {}", clean(warning)), Paint::Warn));
        text.push('\n');
    }
    text
}

/// The colour of a backend's state or a verdict.
pub fn state_paint(state: &str) -> Paint {
    match state {
        "up" => Paint::Good,
        "down" => Paint::Bad,
        "disabled" => Paint::Dim,
        _ => Paint::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_it_did_and_what_it_cost() {
        let owned = |lines: &[&str]| lines.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let text = |writes, slots_changed, summary: &[&str]| {
            let change = Changed { writes, slots_changed, summary: owned(summary), warnings: Vec::new() };
            changed(&change, &Style::plain())
        };
        assert_eq!(
            text(3, 101, &["backend web/web-1 drains"]),
            "backend web/web-1 drains\n3 map entries written, 101 slots changed\n"
        );
        assert_eq!(text(1, 0, &["x"]), "x\n1 map entry written, 0 slots changed\n");
        assert_eq!(text(0, 0, &[]), "nothing to do: already in this state\n");
        assert_eq!(text(0, 0, &["x"]), "x\nno map entry written\n");
        let warned = Changed { warnings: owned(&["service web: no usable backend"]), ..Changed::default() };
        assert_eq!(
            changed(&warned, &Style::plain()),
            "nothing to do: already in this state\nwarning: service web: no usable backend\n"
        );
    }
}
