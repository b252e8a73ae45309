//! Where the user of `lbctl top` is, and what a key does there. Nothing here draws or asks.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rows::{self, Table};

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum View {
    #[default]
    Services,
    /// The backends of a service.
    Backends(String),
    Reasons,
}

/// Where keys go before they move anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Rows,
    /// The filter is typed.
    Filter,
    /// All of a row, cut nowhere.
    Open,
    /// What a drain would do is shown, and waits for a word.
    Drain {
        service: String,
        backend: String,
        plan: Vec<String>,
    },
    Help,
}

/// What the agent is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    None,
    Quit,
    /// What draining this backend would do.
    Plan {
        service: String,
        backend: String,
    },
    Drain {
        service: String,
        backend: String,
    },
}

#[derive(Debug, Default)]
pub struct Model {
    pub view: View,
    pub mode: Mode,
    pub filter: String,
    /// The place among [`rows::sorts`]; `None` = as the configuration has them.
    pub sort: Option<usize>,
    pub reverse: bool,
    pub selected: usize,
    /// What came of the last action.
    pub message: Option<String>,
    /// Rows that there are.
    rows: usize,
}

/// Rows that a page is long.
const PAGE: usize = 10;

impl Model {
    /// Takes notice of how many rows there are.
    pub fn settle(&mut self, rows: usize) {
        self.rows = rows;
        self.selected = self.selected.min(rows.saturating_sub(1));
    }

    /// Shows what a drain would do, and waits for a word.
    pub fn ask(&mut self, service: String, backend: String, plan: Vec<String>) {
        self.mode = Mode::Drain { service, backend, plan };
    }

    pub fn key(&mut self, key: KeyEvent, table: &Table) -> Action {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        self.message = None;
        match &self.mode {
            Mode::Rows => return self.move_by(key.code, table),
            Mode::Filter => match key.code {
                KeyCode::Enter => self.mode = Mode::Rows,
                KeyCode::Esc => {
                    self.filter.clear();
                    self.mode = Mode::Rows;
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(c) if !c.is_control() => self.filter.push(c),
                _ => {}
            },
            Mode::Drain { service, backend, plan: _ } => {
                let (service, backend) = (service.clone(), backend.clone());
                self.mode = Mode::Rows;
                // Any key but the one that says so leaves things as they are.
                if key.code == KeyCode::Char('y') {
                    return Action::Drain { service, backend };
                }
                self.message = Some("nothing was changed".to_owned());
            }
            Mode::Open | Mode::Help => self.mode = Mode::Rows,
        }
        Action::None
    }

    fn move_by(&mut self, code: KeyCode, table: &Table) -> Action {
        let last = self.rows.saturating_sub(1);
        match code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            KeyCode::PageDown => self.selected = (self.selected + PAGE).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('s') => {
                let next = self.sort.map_or(0, |place| place + 1);
                self.sort = (next < rows::sorts(&self.view).len()).then_some(next);
            }
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Tab | KeyCode::BackTab => {
                self.go(if self.view == View::Reasons { View::Services } else { View::Reasons });
            }
            KeyCode::Enter | KeyCode::Right => match (&self.view, table.rows.get(self.selected)) {
                (View::Services, Some(row)) => self.go(View::Backends(row.service.clone())),
                (_, Some(_)) => self.mode = Mode::Open,
                (_, None) => {}
            },
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => {
                // A filter is taken away first.
                if self.filter.is_empty() {
                    self.go(View::Services);
                }
                self.filter.clear();
            }
            KeyCode::Char('d') => match table.rows.get(self.selected) {
                Some(row) if row.backend.is_some() => {
                    let (service, backend) = (row.service.clone(), row.backend.clone().unwrap_or_default());
                    return Action::Plan { service, backend };
                }
                _ => self.message = Some("d drains a backend: open a service with enter first".to_owned()),
            },
            _ => {}
        }
        Action::None
    }

    fn go(&mut self, view: View) {
        if self.view != view {
            (self.view, self.selected, self.sort, self.reverse) = (view, 0, None, false);
            self.filter.clear();
        }
    }
}
