//! `lbctl top`: services, their backends and the reasons of packets with their rates, on a screen that is drawn again and again.
//! What keys do is decided in [`model`], what is shown in [`rows`] and how in [`draw`]; here are the terminal and the agent.

mod drain;
mod draw;
pub mod model;
pub mod rows;

use std::{
    io::{self, IsTerminal as _},
    thread,
};

use hyper::Method;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use self::{
    model::{Action, Model},
    rows::{Data, Look},
};
use super::{
    cli::monitor::Top,
    client::{Client, path},
    exit::Failure,
    output::Context,
};
use crate::api::view::{Changed, Service, Stats, Status};

/// Keys that wait to be read.
const KEYS: usize = 64;

pub async fn run(context: &Context, arguments: &Top) -> Result<(), Failure> {
    if !context.terminal || !io::stdin().is_terminal() {
        return Err(Failure::Usage("top needs a terminal; `lbctl stats --watch` does without".into()));
    }
    // Before the screen is taken: what is wrong is said as everywhere.
    let mut data = Data::new(look(context.client.clone()).await?);
    let failed = |why: io::Error| Failure::Failed(format!("cannot use the terminal: {why}"));
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
    let mut screen = Screen::take().map_err(failed)?;
    let mut keys = keys().map_err(failed)?;
    let mut model = Model::default();
    let mut looking: Option<JoinHandle<Result<Look, Failure>>> = None;
    let mut ticks = interval(arguments.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let table = rows::table(&model, &data);
        model.settle(table.rows.len());
        screen.0.draw(|frame| draw::draw(frame, &model, &data, &table, context.style)).map_err(failed)?;
        let action = tokio::select! {
            event = keys.recv() => match event {
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => model.key(key, &table),
                Some(_) => Action::None,
            },
            _ = ticks.tick(), if looking.is_none() => {
                looking = Some(tokio::spawn(look(context.client.clone())));
                Action::None
            }
            ended = ended(&mut looking) => {
                looking = None;
                match ended {
                    Ok(now) => data.look(now),
                    Err(failure) => data.absent = Some(message(&failure)),
                }
                Action::None
            }
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        };
        match action {
            Action::None => {}
            Action::Quit => return Ok(()),
            Action::Plan { service, backend } => {
                match drain::plan(&context.client, &service, &backend).await {
                    Ok(lines) => model.ask(service, backend, lines),
                    Err(failure) => model.message = Some(message(&failure)),
                }
            }
            Action::Drain { service, backend } => {
                let place = path(&["services", &service, "backends", &backend]);
                let body = json!({ "state": "draining" });
                let outcome = context.client.call::<Changed>(Method::PATCH, &place, Some(&body)).await;
                model.message = Some(match outcome {
                    Ok((_, changed)) => [changed.summary, changed.warnings].concat().join("; "),
                    Err(failure) => message(&failure),
                });
            }
        }
    }
}

fn message(failure: &Failure) -> String {
    failure.as_api_error().map(|error| error.message).unwrap_or_default()
}

/// The end of a look; never, where none is under way.
async fn ended(looking: &mut Option<JoinHandle<Result<Look, Failure>>>) -> Result<Look, Failure> {
    match looking {
        Some(task) => task.await.unwrap_or_else(|why| Err(Failure::Failed(why.to_string()))),
        None => std::future::pending().await,
    }
}

async fn look(client: Client) -> Result<Look, Failure> {
    let (_, status) = client.get::<Status>("/v1/status").await?;
    let (_, services) = client.get::<Vec<Service>>("/v1/services").await?;
    let (_, stats) = client.get::<Stats>("/v1/stats").await?;
    Ok(Look { status, services, stats })
}

/// Keys as they come, until the terminal goes away. A thread of its own, which ends with the process: reading cannot be ended.
fn keys() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS);
    let read = move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(receiver)
}

/// The terminal, which is given back as it was, also after a panic.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // When even that fails there is no terminal any more.
        let _ = ratatui::try_restore();
    }
}
