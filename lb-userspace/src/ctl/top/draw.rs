//! How it looks. All texts that came from elsewhere are clean already, or made so here.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style as Look},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table as Grid, TableState, Wrap},
};

use super::{
    model::{Mode, Model, View},
    rows::{self, Data, Table},
};
use crate::{
    api::attention,
    config::words::plural,
    ctl::{
        style::{Paint, Style, clean},
        units,
    },
};

/// Blanks between columns.
const SPACING: u16 = 2;

const KEYS: &str = "enter open  esc back  tab reasons  / filter  s sort  r reverse  d drain  ? help  q quit";

const HELP: &[&str] = &[
    "up, down, k, j     one row; page up and page down ten; home and end",
    "enter, right       open: a service's backends, all of a row",
    "esc, left          take the filter away, or go back",
    "tab                reasons that packets ended under, and back",
    "/                  filter: any text, or a pattern as in web/*-1",
    "s                  sort by the next column; at the end as in the configuration",
    "r                  the other way round",
    "d                  drain the backend; what it would do is shown first, and y does it",
    "q, control-c       quit",
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, data: &Data, table: &Table, style: Style) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(header(data, style)), head);
    grid(frame, body, model, table, style);
    frame.render_widget(Paragraph::new(footer(model, data, table, style)), foot);
    match &model.mode {
        Mode::Rows | Mode::Filter => {}
        Mode::Help => window(frame, "keys", HELP.iter().map(|line| (*line).to_owned()).collect()),
        Mode::Open => {
            if let Some(row) = table.rows.get(model.selected) {
                let cells = table.heads.iter().zip(&row.cells);
                let lines = cells.map(|(head, cell)| format!("{:<11} {cell}", head.trim_start_matches('>')));
                window(frame, "all of it; any key closes", lines.collect());
            }
        }
        Mode::Drain { service, backend, plan } => {
            let mut lines: Vec<String> = plan.iter().map(|line| clean(line)).collect();
            lines.extend([String::new(), "y drains it, any other key leaves it as it is".to_owned()]);
            window(frame, &clean(&format!("drain {service}/{backend}?")), lines);
        }
    }
}

fn look(paint: Paint, style: Style) -> Look {
    let plain = Look::default();
    match paint {
        _ if !style.is_coloured() => plain,
        Paint::Plain => plain,
        Paint::Head => plain.add_modifier(Modifier::BOLD),
        Paint::Good => plain.fg(Color::Green),
        Paint::Bad => plain.fg(Color::Red),
        Paint::Warn => plain.fg(Color::Yellow),
        Paint::Dim => plain.add_modifier(Modifier::DIM),
    }
}

/// The node, and what goes through it.
fn header(data: &Data, style: Style) -> Vec<Line<'static>> {
    let status = &data.now.status;
    let mut sum = rows::Rate::default();
    for service in &data.now.services {
        let rate = data.rate(&service.name);
        (sum.packets, sum.bytes, sum.syns) =
            (sum.packets + rate.packets, sum.bytes + rate.bytes, sum.syns + rate.syns);
    }
    let rates = match data.has_rates {
        true => format!(
            "{} to services, {}, {} SYNs, {} dropped",
            units::rate(sum.packets),
            units::bit_rate(sum.bytes),
            units::rate(sum.syns),
            units::rate(data.verdict("dropped"))
        ),
        false => "rates come with the next look".to_owned(),
    };
    let node = format!("lb {}  lbd {}  {rates}", clean(&status.instance), clean(&status.version));
    let (of_node, services) = (attention::of_node(status), attention::services(status));
    let second = match (&data.absent, of_node.first()) {
        (Some(why), _) => Span::styled(clean(&format!("{why}; waiting for it")), look(Paint::Bad, style)),
        (None, Some(first)) => {
            let more =
                if of_node.len() > 1 { format!(" (and {} more)", of_node.len() - 1) } else { String::new() };
            let text = clean(&format!("{}: {}{more}", first.object, first.message));
            let paint = if first.level == attention::Level::Broken { Paint::Bad } else { Paint::Warn };
            Span::styled(text, look(paint, style))
        }
        (None, None) if !services.is_empty() => {
            let need = plural(services.len() as u64, "service needs", "services need");
            Span::styled(format!("{need} attention"), look(Paint::Warn, style))
        }
        (None, None) => Span::styled("nothing needs attention", look(Paint::Good, style)),
    };
    vec![Line::styled(node, look(Paint::Head, style)), Line::from(second)]
}

fn grid(frame: &mut Frame<'_>, area: Rect, model: &Model, table: &Table, style: Style) {
    let width = |column: usize| {
        let cells = table.rows.iter().filter_map(|row| row.cells.get(column));
        let head = table.heads.get(column).map_or(0, |head| head.trim_start_matches('>').chars().count());
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(head)
    };
    let widths: Vec<usize> = (0..table.heads.len()).map(width).collect();
    // What does not fit is left out from the right, instead of every column a little.
    let mut left = usize::from(area.width);
    let lengths: Vec<Constraint> = widths
        .iter()
        .map_while(|width| {
            let taken = (*width).min(left);
            left = left.saturating_sub(taken + usize::from(SPACING));
            (taken > 0).then(|| Constraint::Length(u16::try_from(taken).unwrap_or(u16::MAX)))
        })
        .collect();
    let shown = lengths.len();
    let aligned = |column: usize, text: &str| {
        let right = table.heads.get(column).is_some_and(|head| head.starts_with('>'));
        let width = widths.get(column).copied().unwrap_or(0);
        if right { format!("{text:>width$}") } else { text.to_owned() }
    };
    let sorted = model.sort.and_then(|place| rows::sorts(&model.view).get(place).copied());
    let heads = table.heads.iter().take(shown).enumerate().map(|(column, head)| {
        let head = head.trim_start_matches('>');
        let paint = look(Paint::Head, style);
        let paint = if Some(head) == sorted { paint.add_modifier(Modifier::UNDERLINED) } else { paint };
        Cell::from(aligned(column, head)).style(paint)
    });
    let lines = table.rows.iter().map(|row| {
        let cells = row.cells.iter().take(shown).enumerate();
        let cells = cells.map(|(column, cell)| Cell::from(aligned(column, cell)));
        Row::new(cells).style(look(row.paint, style))
    });
    let grid = Grid::new(lines, lengths)
        .header(Row::new(heads))
        .column_spacing(SPACING)
        .row_highlight_style(Look::default().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected((!table.rows.is_empty()).then_some(model.selected));
    frame.render_stateful_widget(grid, area, &mut state);
}

fn footer(model: &Model, data: &Data, table: &Table, style: Style) -> Line<'static> {
    if model.mode == Mode::Filter {
        return Line::from(format!("filter: {}_", clean(&model.filter)));
    }
    if let Some(message) = &model.message {
        return Line::styled(clean(message), look(Paint::Warn, style));
    }
    let place = match &model.view {
        View::Services => plural(data.now.services.len() as u64, "service", "services"),
        View::Backends(service) => {
            format!("{}: {}", clean(service), plural(table.all as u64, "backend", "backends"))
        }
        View::Reasons => "reasons".to_owned(),
    };
    let filter = match model.filter.is_empty() {
        true => String::new(),
        false => format!(", {} with `{}`", table.rows.len(), clean(&model.filter)),
    };
    Line::styled(format!("{place}{filter}  {KEYS}"), look(Paint::Dim, style))
}

/// A window in the middle of the screen.
fn window(frame: &mut Frame<'_>, title: &str, lines: Vec<String>) {
    let area = frame.area();
    let width =
        lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(title.chars().count()) + 4;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let inner = usize::from(width.saturating_sub(2).max(1));
    let height: usize =
        lines.iter().map(|line| line.chars().count().div_ceil(inner).max(1)).sum::<usize>() + 2;
    let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.height);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), place);
}
