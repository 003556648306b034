//! `natgate top`: the whole at a glance, on a full screen that stays up to date.

mod data;
mod draw;
mod keys;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};
use ratatui::widgets::Paragraph;
use tokio::sync::mpsc;

pub(crate) use self::data::{Data, Seen};
#[cfg(test)]
pub(crate) use self::draw::screen;
pub(crate) use self::keys::Ui;

/// Shows the natgate that listens on `socket` until somebody quits. Must be called within a tokio runtime.
pub(crate) async fn top(socket: &Path, interval: Duration) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let ended = follow(&mut terminal, socket, interval).await;
    ratatui::try_restore()?;
    ended
}

async fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    socket: &Path,
    interval: Duration,
) -> io::Result<()> {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (mut ui, mut data) = (Ui::new(!no_colour, interval), Data::default());
    let mut events = listen();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // A natgate that does not answer must not keep keys waiting.
    let (answers, mut answered) = mpsc::channel::<Result<Seen, String>>(1);
    let mut asking = false;
    loop {
        terminal.draw(|frame| {
            let area = frame.area();
            let lines = draw::screen(&data, &ui, area.width.into(), area.height.into());
            frame.render_widget(Paragraph::new(lines), area);
        })?;
        tokio::select! {
            _ = ticks.tick(), if !asking => {
                asking = true;
                let (socket, answers) = (socket.to_owned(), answers.clone());
                tokio::spawn(async move {
                    let seen = data::fetch(&socket, Instant::now()).await;
                    let _ = answers.send(seen.map_err(|error| error.to_string())).await;
                });
            }
            Some(answer) = answered.recv() => {
                asking = false;
                if !ui.frozen {
                    data.take(answer);
                }
            }
            event = events.recv() => match event {
                Some(Event::Key(key)) => if ui.press(key) { return Ok(()) },
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}

/// The terminal's events, by a thread of their own: reading them blocks.
fn listen() -> mpsc::Receiver<Event> {
    let (to_us, events) = mpsc::channel(64);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if to_us.blocking_send(event).is_err() {
                return;
            }
        }
    });
    events
}
