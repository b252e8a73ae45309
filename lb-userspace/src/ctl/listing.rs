//! Lists: what is shown of each noun, what it can be filtered and sorted by, and the line below the table that adds it up. A
//! noun says its columns once; table, `--sort` and its help follow from them.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    cli::{
        monitor::Watch,
        select::{Noun, Select},
    },
    exit::Failure,
    output::{Answer, Context},
    style::{Paint, Style},
    table::{Cell, Table},
    watch,
};
use crate::config::words::plural;

/// What a row can be sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The largest first.
    Number(u64),
    /// A first.
    Text(String),
}

impl Key {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => other.cmp(one),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// A word of `--sort`, and what it sorts by.
pub type Order<T> = (&'static str, fn(&T) -> Key);

/// A column of a list.
pub struct Column<T> {
    pub head: &'static str,
    /// The word of `--sort`, and what it sorts by.
    pub sort: Option<Order<T>>,
    /// Shown by `-o wide` only.
    pub wide: bool,
    pub cell: fn(&T) -> Cell,
}

impl<T> Column<T> {
    pub const fn new(head: &'static str, cell: fn(&T) -> Cell) -> Self {
        Self { head, sort: None, wide: false, cell }
    }

    pub const fn sorted(self, word: &'static str, key: fn(&T) -> Key) -> Self {
        Self { sort: Some((word, key)), ..self }
    }

    pub const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// What can be listed.
pub trait Item: DeserializeOwned + 'static {
    /// One and several of them.
    const NOUN: (&'static str, &'static str);
    const STATES: &'static [&'static str];
    const COLUMNS: &'static [Column<Self>];
    /// What is said where there are none at all.
    const NONE: &'static str;
    /// Whether patterns can name backends.
    const BACKENDS: bool = true;
    fn service(&self) -> &str;
    fn backend(&self) -> Option<&str>;
    fn state(&self) -> &str;
    fn needs_attention(&self) -> bool;
    /// What the rows add up to, besides their number and states.
    fn total(rows: &[&Self]) -> String;

    /// `web`, or `web/web-1`.
    fn name(&self) -> String {
        match self.backend() {
            None => self.service().to_owned(),
            Some(backend) => format!("{}/{backend}", self.service()),
        }
    }
}

impl<T: Item> Noun for T {
    const STATES: &'static [&'static str] = <T as Item>::STATES;
    const ATTENTION: bool = true;
    const BACKENDS: bool = <T as Item>::BACKENDS;

    fn keys() -> Vec<&'static str> {
        T::COLUMNS.iter().filter_map(|column| Some(column.sort?.0)).collect()
    }
}

/// What is left of a list: places in it, in the order in which they are shown.
pub struct Picked {
    places: Vec<usize>,
    /// How many fit, shown or not.
    fitting: usize,
}

/// Filters, sorts and cuts off.
pub fn pick<T: Item>(items: &[T], select: &Select<T>) -> Picked {
    let fits = |item: &T| {
        select.names(item.service(), item.backend())
            && (select.states.is_empty() || select.states.contains(&item.state()))
            && (!select.attention || item.needs_attention())
    };
    let mut places: Vec<usize> =
        (0..items.len()).filter(|place| items.get(*place).is_some_and(fits)).collect();
    let fitting = places.len();
    let wanted = select.sort.as_deref();
    let sort = T::COLUMNS.iter().find_map(|column| column.sort.filter(|(word, _)| Some(*word) == wanted));
    if let Some((_, key)) = sort {
        // Rows that are equal stay in the order of the configuration.
        places.sort_by_cached_key(|place| Sortable(items.get(*place).map(key)));
    }
    if select.reverse {
        places.reverse();
    }
    places.truncate(select.top.unwrap_or(usize::MAX));
    Picked { places, fitting }
}

#[derive(PartialEq, Eq)]
struct Sortable(Option<Key>);

impl PartialOrd for Sortable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sortable {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => one.compare(other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        }
    }
}

/// The table of these rows, with the line that adds them up below.
pub fn render<T: Item>(items: &[T], picked: &Picked, wide: bool, style: &Style) -> String {
    let columns: Vec<&Column<T>> = T::COLUMNS.iter().filter(|column| wide || !column.wide).collect();
    let heads: Vec<&str> = columns.iter().map(|column| column.head).collect();
    let rows: Vec<&T> = picked.places.iter().filter_map(|place| items.get(*place)).collect();
    let mut table = Table::new(&heads);
    for row in &rows {
        table.row(columns.iter().map(|column| (column.cell)(row)));
    }
    if table.is_empty() {
        return format!("{}\n", T::NONE);
    }
    let mut text = table.render(style);
    if rows.len() > 1 || picked.fitting > rows.len() {
        text.push_str(&style.paint(&total(&rows, picked.fitting), Paint::Dim));
        text.push('\n');
    }
    text
}

/// `3 backends: 2 up, 1 down; 1500 packets, 15 SYNs`
fn total<T: Item>(rows: &[&T], fitting: usize) -> String {
    let mut states: BTreeMap<usize, (&str, usize)> = BTreeMap::new();
    for row in rows {
        let state = row.state();
        let place = T::STATES.iter().position(|known| *known == state).unwrap_or(usize::MAX);
        states.entry(place).or_insert((state, 0)).1 += 1;
    }
    let (one, several) = T::NOUN;
    let count = if fitting > rows.len() {
        format!("{} of {}", rows.len(), plural(fitting as u64, one, several))
    } else {
        plural(rows.len() as u64, one, several)
    };
    let states: Vec<String> = states.values().map(|(state, count)| format!("{count} {state}")).collect();
    let more = T::total(rows);
    let more = if more.is_empty() { more } else { format!("; {more}") };
    format!("{count}: {}{more}", states.join(", "))
}

/// Why nothing is shown: `no backend fits `web/*` --down; there are 12 backends`.
pub fn no_match<T: Item>(select: &Select<T>, all: usize) -> String {
    let (one, several) = T::NOUN;
    let all = match all {
        1 => format!("there is 1 {one}"),
        n => format!("there are {n} {several}"),
    };
    format!("no {one} fits {}; {all}", select.describe())
}

/// Shows the list at `path`, once or again and again.
///
/// # Errors
/// [`Failure::NoMatch`] where a filter leaves nothing, after an empty answer for scripts.
pub async fn show<T: Item>(
    context: &Context,
    again: Watch,
    path: &str,
    select: &Select<T>,
    items: impl Fn(&Value) -> Vec<Value>,
) -> Result<(), Failure> {
    watch::run(context, again, path, |value| {
        let values = items(value);
        let views: Result<Vec<T>, _> = values.iter().map(T::deserialize).collect();
        let views = views.map_err(|why| watch::not_understood(path, &why))?;
        let picked = pick(&views, select);
        // Where there is nothing at all, as in a service without backends, no filter is to blame.
        let nothing = picked.fitting == 0 && select.filters() && !views.is_empty();
        let why = nothing.then(|| no_match(select, views.len()));
        let shown = || picked.places.iter().filter_map(|place| views.get(*place));
        let left: Value = picked.places.iter().filter_map(|place| values.get(*place).cloned()).collect();
        let text = || match &why {
            // The error says why.
            Some(_) if !again.watch => String::new(),
            Some(why) => format!("{why}\n"),
            None => render(&views, &picked, context.wide(), &context.style),
        };
        let names = || shown().map(T::name).collect();
        let answer = Answer { value: &left, text: &text, rows: None, names: Some(&names) };
        watch::put(context, again, &answer)?;
        match why {
            Some(why) if !again.watch => Err(Failure::NoMatch(why)),
            _ => Ok(()),
        }
    })
    .await
}
